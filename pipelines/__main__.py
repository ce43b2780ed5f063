"""`python -m pipelines` and the console script `pairloom`."""

import sys

from pipelines.cli import main as run_cli


def main() -> None:
    """Exits with the verb's code."""
    sys.exit(run_cli())


if __name__ == "__main__":
    main()

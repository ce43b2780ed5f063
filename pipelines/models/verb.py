"""`pairloom models`: its words, and what they start.

Limits: texts and exit codes only; the command line prints them.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any


def add_verb(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds `models fetch` and `models verify` to the command line."""
    text = "mirror a model of the hub to a folder or bucket, or check such a mirror"
    verb = add_parser("models", help=text, description=text)
    actions = verb.add_subparsers(dest="action", required=True)
    text = "fetch owner/name@commit, or what a mirror holds: safetensors only, vetted and checked"
    action = actions.add_parser("fetch", help=text, description=text)
    action.add_argument("model", help="owner/name@commit, or a mirror's folder or URI")
    action.add_argument("dest", help="a new folder or URI")
    action.add_argument("words", nargs="*", metavar="key=value", help="variant=fp16, weights=FILE")
    action.add_argument("--json", action="store_true", help="end with one line of JSON")
    text = "read every file of a mirror and hold it against the manifest"
    action = actions.add_parser("verify", help=text, description=text)
    action.add_argument("dest", help="the mirror's folder or URI")
    action.add_argument("--json", action="store_true", help="end with one line of JSON")


def run_verb(arguments: argparse.Namespace) -> tuple[str, dict[str, Any], int]:
    """What to print, the same for `--json`, and the exit code."""
    if arguments.action == "verify":
        from pipelines.models.verify import describe_check, exit_code, verify

        check = verify(arguments.dest)
        return describe_check(check), asdict(check), exit_code(check)
    from cluster import config as config_files
    from pipelines.models.config import FetchConfig
    from pipelines.models.fetch import describe_fetched, fetch

    config = config_files.from_dict(FetchConfig, {}, "of the fetch", arguments.words)
    fetched = fetch(arguments.model, arguments.dest, config)
    return describe_fetched(fetched), asdict(fetched), 0

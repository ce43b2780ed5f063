"""The command line: a verb, a config or a run, `key=value` words. Nothing else.

    pairloom plan CONFIG [key=value ...]     what would run, without starting anything; or --measure
    pairloom run CONFIG [key=value ...]      run it, or go on where it stopped
    pairloom seeds CONFIG [key=value ...]    only make and commit the seed table
    pairloom status OUTPUT                   how far a run is, from its ledger, from anywhere
    pairloom look OUTPUT                     a contact sheet of its first chains
    pairloom verify OUTPUT                   whether all that was committed is there and right
    pairloom repair OUTPUT [key=value ...]   make the damaged units of a run anew
    pairloom replay --failed OUTPUT [...]    run the rows that failed again; or --reason CODE
    pairloom replay OUTPUT PAIR_ID [...]     make one pair again, here, and say what differs
    pairloom show OUTPUT PAIR_ID             the whole chain of a pair: what made it, and of what
    pairloom filter OUTPUT [key=value ...]   which pairs are kept, and why others are not
    pairloom publish OUTPUT DEST [...]       the pairs as a dataset: shards, card, manifest
    pairloom evaluate OUTPUT [key=value ...] descriptions against references, and against truth
    pairloom gallery OUTPUT [DEST] [...]     a static site to look at them; --follow while it runs
    pairloom models fetch MODEL DEST [...]   a vetted mirror of a hub model; `models verify DEST`

Exit codes: 0 done; 1 the run could not go on (what is committed stays); 2 the input is wrong;
4 its budget is spent; 130 interrupted, 143 terminated. Of `verify`: 0 sound and finished, 1
damaged, 3 sound so far; of `replay` with a PAIR_ID: 0 the same, 3 not. A failure is one paragraph:
what, which value, what to do.

Limits: the only module that prints; verbs return text, and decisions live elsewhere.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cluster.errors import BudgetSpentError, PairloomError, StoppedError
from pipelines.leaving import stop_on_signals
from pipelines.models import verb as models_verb

if TYPE_CHECKING:
    from pipelines.run_totals import Totals

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = _parse(argv)
    logging.basicConfig(
        level=logging.WARNING,
        handlers=[_CurrentStderr()],
        format="%(asctime)s %(name)s: %(message)s",
    )
    for package in ("pipelines", "actors", "cluster"):
        logging.getLogger(package).setLevel(logging.INFO)
    verb = {
        "plan": _plan,
        "run": _run,
        "seeds": _seeds,
        "status": _status,
        "look": _look,
        "verify": _verify,
        "repair": _repair,
        "replay": _replay,
        "show": _show,
        "filter": _filter,
        "publish": _publish,
        "evaluate": _evaluate,
        "gallery": _gallery,
        "models": _models,
    }[arguments.verb]
    try:
        with stop_on_signals():
            return verb(arguments)
    except ValueError as error:
        if _is_said_by_us(error):
            return _fail("error", error, 2)
        logger.exception("nobody expected this: please report it")
        return _fail(type(error).__name__, error, 1)
    except (StoppedError, BudgetSpentError) as error:
        return _fail("stopped", error, error.exit_code)
    except (PairloomError, OSError) as error:
        return _fail(type(error).__name__, error, 1)
    except KeyboardInterrupt:
        print("interrupted: what is committed stays; the same command goes on", file=sys.stderr)
        return 130


def _is_said_by_us(error: Exception) -> bool:
    """Whether our own code refused its input. From elsewhere a ValueError is a fault of ours, who
    passed something on unchecked, or of a store."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module: str = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in ("cluster", "actors", "pipelines")


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is now: while bars are on, rich stands there and prints above them."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Lets options stand before, between and after the words, which argparse alone does not."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # whose DEST, or PAIR_ID, is one of its words
    has_place = getattr(arguments, "verb", "") in ("gallery", "replay")
    words = [one for one in rest if not one.startswith("-") and ("=" in one or has_place)]
    if rest != words or (rest and not hasattr(arguments, "words")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.words += words
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pairloom", description="Grows image-text datasets: draw, describe, draw again."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, text in (
        ("plan", "say what would run; starts nothing, unless it is to measure"),
        ("run", "run a config, or go on where it stopped"),
        ("seeds", "make and commit the seed table only"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("config", help="a YAML file, e.g. conf/synergy.yaml")
        verb.add_argument("words", nargs="*", metavar="key=value", help="changes to the config")
        if name == "plan":
            verb.add_argument(
                "--measure", action="store_true", help="load both models and time a few batches"
            )
        verb.add_argument("--json", action="store_true", help="end with one line of JSON")
    for name, text in (
        ("status", "how far a run is, read from its ledger"),
        ("look", "write a contact sheet of a run's first chains"),
        ("verify", "check files, rows, lineage and Delta log of a run against its receipts"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("output", help="the run's folder or URI")
        verb.add_argument("--json", action="store_true", help="end with one line of JSON")
    for name, text in (
        ("repair", "make the damaged units of a run anew; nothing else changes"),
        ("replay", "run the rows that failed again, beside what is there; or make one pair again"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        if name == "replay":
            which = verb.add_mutually_exclusive_group()
            which.add_argument("--failed", action="store_true", help="all of them but bad seeds")
            which.add_argument("--reason", action="append", help="those with this code; repeatable")
        verb.add_argument("output", help="the run's folder or URI")
        metavar = "PAIR_ID key=value" if name == "replay" else "key=value"
        verb.add_argument("words", nargs="*", metavar=metavar, help="changes to its config")
        verb.add_argument("--json", action="store_true", help="end with one line of JSON")
    _add_dataset_verbs(verbs)
    return parser


def _add_dataset_verbs(verbs: Any) -> None:
    """Those that read a run as a dataset."""
    text = "print the whole chain of a pair, from its seed on"
    verb = verbs.add_parser("show", help=text, description=text)
    verb.add_argument("output", help="the run's folder or URI")
    verb.add_argument("pair_id", help="of the pair, or the chain_id")
    verb.add_argument("--json", action="store_true", help="end with one line of JSON")
    for name, text in (
        ("filter", "judge a run's pairs by thresholds; writes the decisions, touches no pair"),
        ("publish", "write a run's pairs as a dataset, or go on where that stopped"),
        ("evaluate", "measure descriptions against references; embedded worlds against truth"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("output", help="the run's folder or URI")
        if name == "publish":
            verb.add_argument("dest", help="an empty folder or URI for the dataset")
        verb.add_argument("words", nargs="*", metavar="key=value", help="its config")
        verb.add_argument("--json", action="store_true", help="end with one line of JSON")
    text = "write a run as a static site, or bring the one that is there up to date"
    verb = verbs.add_parser("gallery", help=text, description=text)
    verb.add_argument("output", help="the run's folder or URI")
    verb.add_argument("words", nargs="*", metavar="DEST key=value", help="its folder; its config")
    verb.add_argument("--follow", action="store_true", help="refresh it until the run is finished")
    verb.add_argument("--json", action="store_true", help="end with one line of JSON")
    models_verb.add_verb(verbs.add_parser)


def _plan(arguments: argparse.Namespace) -> int:
    from pipelines import configs, gpu_memory, overview

    config = configs.load_config(arguments.config, arguments.words)
    nodes = None
    if arguments.measure:
        from pipelines import measure  # after the config: a typo must not wait for Ray's import

        measurement = measure.measure(config)
        print(measure.describe_measurement(measurement))
        config, nodes = measure.with_rates(config, measurement), measurement.nodes
    plan = overview.make_plan(config)
    outlook = overview.make_outlook(plan, config, nodes)
    print(overview.describe_plan(plan, config, outlook, nodes))
    needs = gpu_memory.plan_memory(config)
    for line in gpu_memory.describe_memory(needs):
        print(line)
    gpu_memory.check_memory(needs)
    if arguments.json:
        values = overview.plan_to_dict(plan, outlook)
        print(json.dumps(values | {"memory": gpu_memory.memory_to_dict(needs)}))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from pipelines import configs

    config = configs.load_config(arguments.config, arguments.words)
    # After the config: a typo must not wait for Ray's import.
    from pipelines.run import run

    return _print_totals(run(config), arguments)


def _repair(arguments: argparse.Namespace) -> int:
    from pipelines import configs

    config = configs.config_of_run(arguments.output, arguments.words)
    from pipelines.repair import repair

    return _print_totals(repair(config), arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from pipelines import configs, lineage

    pair_ids = [word for word in arguments.words if lineage.is_pair_id(word)]
    words = [word for word in arguments.words if word not in pair_ids]
    if len(pair_ids) + arguments.failed + bool(arguments.reason) != 1:
        raise ValueError("replay is of one thing: --failed, --reason CODE, or one PAIR_ID")
    if pair_ids:
        again = lineage.replay_pair(arguments.output, pair_ids[0], words)
        print(lineage.describe_again(again))
        if arguments.json:
            print(json.dumps(lineage.again_to_dict(again)))
        return 0 if again.is_same else 3
    config = configs.config_of_run(arguments.output, words)
    from pipelines.run import replay

    return _print_totals(replay(config, arguments.reason or ()), arguments)


def _show(arguments: argparse.Namespace) -> int:
    from pipelines import lineage

    chain = lineage.find_chain(arguments.output, arguments.pair_id)
    print(lineage.describe_chain(chain))
    if arguments.json:
        print(json.dumps(lineage.chain_to_dict(chain)))
    return 0


def _print_totals(totals: "Totals", arguments: argparse.Namespace) -> int:
    from pipelines.status import describe_totals

    print(describe_totals(totals))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(totals)))
    return 0


def _seeds(arguments: argparse.Namespace) -> int:
    from pipelines import configs, overview

    config = configs.load_config(arguments.config, arguments.words)
    from pipelines.run import write_seeds

    table = write_seeds(config)
    print(overview.describe_seeds(table, config.output))
    if arguments.json:
        print(json.dumps({"output": config.output, **overview.count_seeds(table)}))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from pipelines import status as reports

    status = reports.read_status(arguments.output)
    print(reports.describe_status(status))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(status)))
    return 0


def _look(arguments: argparse.Namespace) -> int:
    from pipelines import status as reports

    path = reports.write_sheet(arguments.output)
    print(f"contact sheet: {path}")
    if arguments.json:
        print(json.dumps({"contact_sheet": path}))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from pipelines import verify

    report = verify.verify_run(arguments.output)
    print(verify.describe_report(report))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(report)))
    return verify.exit_code(report)


def _filter(arguments: argparse.Namespace) -> int:
    from cluster import config as config_files
    from pipelines import filters

    config = config_files.from_dict(filters.FilterConfig, {}, "of the filter", arguments.words)
    report = filters.filter_run(arguments.output, config)
    print(filters.describe_filter(report, config))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(report)))
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from cluster import config as config_files
    from pipelines import publish

    config = config_files.from_dict(publish.PublishConfig, {}, "of the publish", arguments.words)
    published = publish.publish(arguments.output, arguments.dest, config)
    print(publish.describe_published(published))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(published)))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from cluster import config as config_files
    from pipelines import evaluation

    config = config_files.from_dict(
        evaluation.EvaluateConfig, {}, "of the evaluation", arguments.words
    )
    found = evaluation.evaluate_run(arguments.output, config)
    print(evaluation.describe_evaluation(found))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found)))
    return 0


def _gallery(arguments: argparse.Namespace) -> int:
    from pipelines import gallery

    built = gallery.run_verb(arguments.output, arguments.words, is_following=arguments.follow)
    print(gallery.describe_built(built))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(built)))
    return 0


def _models(arguments: argparse.Namespace) -> int:
    text, values, code = models_verb.run_verb(arguments)
    print(text)
    if arguments.json:
        print(json.dumps(values))
    return code


def _fail(kind: str, error: Exception, code: int) -> int:
    width = min(os.get_terminal_size().columns, 100) if sys.stderr.isatty() else 100_000
    head, *rest = f"{kind}: {error}".splitlines()
    print("\n".join([textwrap.fill(head, width), *rest]), file=sys.stderr)
    return code

"""Where the config of a command comes from: a file, or the run that it is about.

Limits: what needs the storage, the seeds or Ray is checked where an attempt begins
(`pipelines/attempt.py`).
"""

from collections.abc import Sequence

from cluster import config as config_files
from cluster.run_record import read_run
from cluster.storage import open_store
from pipelines.drift import StopConfig
from pipelines.inject import InjectConfig
from pipelines.synergy import SynergyConfig


def load_config(path: str, words: Sequence[str]) -> SynergyConfig:
    """The config, checked as far as it can be without touching storage, seeds or Ray.

    Raises:
        ValueError: a key, type or value is wrong, or what a model is made of is missing.
    """
    config = config_files.load(SynergyConfig, path, words)
    _check_effective(config)
    open_store(config.output)  # a wrong URI is found here
    author = [config.seeds.author.model] if config.seeds.path is None else []
    for model in (config.generator, config.captioner, config.scorer, *author):
        model.check_files()
    return config


def _check_effective(config: SynergyConfig) -> None:
    """Refuses what would have no effect. Of what a person asks for now: the record of a run that
    was begun with such a word is not theirs to change."""
    stop, inject = config.stop, config.inject
    for name, is_set, has_use, use in (
        ("stop.converged_rounds", stop.converged_rounds != StopConfig.converged_rounds,
         stop.converged_from is not None, "stop.converged_from"),
        ("stop.first_round", stop.first_round != StopConfig.first_round, stop.is_on, "a rule"),
        ("inject.path", inject.path is not None, inject.is_on, "inject.share"),
        ("inject.from_round", inject.from_round != InjectConfig.from_round, inject.is_on,
         "inject.share"),
    ):  # fmt: skip
        if is_set and not has_use:
            raise ValueError(
                f"field {name!r} has no effect without {use}: set that, or leave it out"
            )


def config_of_run(output: str, words: Sequence[str]) -> SynergyConfig:
    """The config that a run was begun with, and `words` over it; what decides the pairs stays.

    Raises:
        ValueError: there is no run, or a word is wrong.
    """
    record = read_run(open_store(output))["record"] | {"output": output}
    return config_files.from_dict(SynergyConfig, record, f"of the run {output}", words)

"""Where the config of a command comes from: a file, or the run that it is about.

Limits: what needs the storage, the seeds or Ray is checked where an attempt begins
(`pipelines/attempt.py`).
"""

from collections.abc import Sequence

from cluster import config as config_files
from cluster.run_record import read_run
from cluster.storage import open_store
from pipelines.synergy import SynergyConfig


def load_config(path: str, words: Sequence[str]) -> SynergyConfig:
    """The config, checked as far as it can be without touching storage, seeds or Ray.

    Raises:
        ValueError: a key, type or value is wrong, or what a model is made of is missing.
    """
    config = config_files.load(SynergyConfig, path, words)
    open_store(config.output)  # a wrong URI is found here
    author = [config.seeds.author.model] if config.seeds.path is None else []
    for model in (config.generator, config.captioner, config.scorer, *author):
        model.check_files()
    return config


def config_of_run(output: str, words: Sequence[str]) -> SynergyConfig:
    """The config that a run was begun with, and `words` over it; what decides the pairs stays.

    Raises:
        ValueError: there is no run, or a word is wrong.
    """
    record = read_run(open_store(output))["record"] | {"output": output}
    return config_files.from_dict(SynergyConfig, record, f"of the run {output}", words)

"""One YAML file and `key=value` words become one frozen dataclass, strictly.

A misspelt key, a wrong type or a missing value is a `ValueError` that names the file, the key,
the value and the nearest right key, before Ray or any model is touched. The dataclass checks its
own ranges in `__post_init__`; what that says of a field is put behind the dotted path of the
dataclass, as several of one kind may be in a config.

Limits: no includes and no defaults list: a config is one page that a reader sees whole.
omegaconf's containers never leave this module.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

T = TypeVar("T")


def load(cls: type[T], path: str, overrides: Sequence[str] = ()) -> T:
    """Builds `cls` from the YAML file at `path`, then from `overrides` such as ``num_rounds=5``.

    Raises:
        ValueError: the file is missing or no YAML mapping, or a key, type or value is wrong.
    """
    return _merge(cls, path, _read_yaml(path), overrides)


def from_dict(
    cls: type[T], values: dict[str, Any], source: str, overrides: Sequence[str] = ()
) -> T:
    """The inverse of `to_dict`, then `overrides`; `source` says where the values come from.

    Raises:
        ValueError: a key, type or value is wrong.
    """
    return _merge(cls, source, OmegaConf.create(values), overrides)


def _merge(cls: type[T], path: str, values: DictConfig, overrides: Sequence[str]) -> T:
    merged = OmegaConf.structured(cls)
    layers = [(path, values), *((word, _read_word(word)) for word in overrides)]
    for source, layer in layers:
        where = f"config {path}" if source == path else f"argument {source!r} (over {path})"
        try:
            merged = cast(DictConfig, OmegaConf.merge(merged, layer))
        except OmegaConfBaseException as error:
            raise ValueError(f"{where}: {_explain(error, cls, layer)}") from None
    try:
        return cast(T, _build(merged))
    except MissingMandatoryValue as error:
        raise ValueError(
            f"config {path}: {error.full_key!r} has no value: set it in the file "
            f"or add {error.full_key}=..."
        ) from None
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"config {path}{_said(overrides)}: {_first_line(error)}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved config as plain JSON-able values, keys in field order."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    return cast(dict[str, Any], container)


def dump(config: Any) -> str:
    """The resolved config as YAML that `load` reads back equal."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def _build(node: DictConfig, path: str = "") -> Any:
    """The dataclass of a node, its parts first, so that an error of a part is told with its path.

    OmegaConf.to_object does the same, but an error says nothing of where in the config it arose.
    """
    values: dict[str, Any] = {}
    for name in node:
        value = node[name]  # a value that is missing, or points nowhere, raises here
        if isinstance(value, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(value)):
            values[str(name)] = _build(value, f"{path}.{name}" if path else str(name))
        else:
            is_container = OmegaConf.is_config(value)
            values[str(name)] = OmegaConf.to_object(value) if is_container else value
    cls: Any = OmegaConf.get_type(node)
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if path else str(error)) from None


def _read_yaml(path: str) -> DictConfig:
    if not Path(path).is_file():
        raise ValueError(
            f"config file {path!r} does not exist: "
            "give the path of a YAML file, e.g. conf/synergy.yaml"
        )
    try:
        layer = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(
            f"config {path}: not readable as YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(layer, DictConfig):
        raise ValueError(
            f"config {path}: must be a mapping of keys to values, is {type(layer).__name__}"
        )
    return layer


def _read_word(word: str) -> DictConfig:
    key, separator, _ = word.partition("=")
    if not separator or not key:
        raise ValueError(f"argument {word!r}: must be key=value, e.g. num_rounds=5")
    try:
        return OmegaConf.from_dotlist([word])
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"argument {word!r}: {_first_line(error)}") from None


def _explain(error: OmegaConfBaseException, cls: type, layer: DictConfig) -> str:
    key = error.full_key
    if isinstance(error, ConfigKeyError) and key:
        nearest = difflib.get_close_matches(key, list(_keys(cls)), n=1, cutoff=0.0)
        return f"unknown key {key!r}: did you mean {nearest[0]!r}?"
    if not key:
        return _first_line(error)
    value = OmegaConf.select(layer, key)
    return f"{key} is {value!r}: {_first_line(error)}"


def _keys(cls: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(cls):
        yield prefix + field.name
        if dataclasses.is_dataclass(field.type):
            yield from _keys(field.type, f"{prefix}{field.name}.")


def _said(overrides: Sequence[str]) -> str:
    return f" with {' '.join(overrides)}" if overrides else ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

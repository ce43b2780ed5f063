"""pipelines/cli.py: whose fault a ValueError is; whole commands: tests/integration."""

import json
from collections.abc import Callable

import pyarrow as pa
import pytest

from pipelines.cli import _is_said_by_us
from pipelines.limits import LimitsConfig


@pytest.mark.parametrize(
    ("call", "is_said_by_us"),
    [
        (lambda: LimitsConfig(grace_s=-1.0), True),
        (lambda: json.loads("{"), False),
        (lambda: pa.ipc.open_file(pa.py_buffer(b"no arrow")), False),
    ],
)
def test_only_what_our_own_code_refuses_is_wrong_input(
    call: Callable[[], object], is_said_by_us: bool
) -> None:
    with pytest.raises(ValueError) as told:
        call()
    assert _is_said_by_us(told.value) is is_said_by_us

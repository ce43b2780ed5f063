"""Why a row failed: the reason codes that open every `error` text, documented here only.

An error reads `reason_code: message`. The code is stable and meant for counting; the message is
for people and may change. Limits: a code says what was seen on one row, not whose fault it was;
an engine that cannot work on at all is an `EngineDeadError`, never a reason.
"""

from enum import StrEnum

# Long enough for a CUDA message, short enough that a million bad rows stay small.
MAX_MESSAGE_CHARS = 400


class Reason(StrEnum):
    """The first word of an `error`."""

    SEED_EMPTY = "seed_empty"  # nothing left of the seed once it is cleaned
    SEED_TOO_LONG = "seed_too_long"  # over `seeds.max_chars`
    SEED_NOT_UTF8 = "seed_not_utf8"  # bytes that are no UTF-8; the seed column shows them escaped
    # a line that is no JSON object, or has no text in the column
    SEED_UNREADABLE = "seed_unreadable"
    # a chat template's token or an order to the model: `seeds.has_text_rules`, actors/text_rules.py
    SEED_RULE = "seed_rule"
    SEED_DUPLICATE = "seed_duplicate"  # an earlier seed is the same text once both are cleaned
    # of an author: its answer was cut at the token limit, and this is where
    SEED_CUT = "seed_cut"
    PROMPT_EMPTY = "prompt_empty"  # the row has no prompt, or only white space
    IMAGE_MISSING = "image_missing"  # no image came out of the engine, or none came with the row
    IMAGE_NOT_FINITE = "image_not_finite"  # NaN or infinite pixels: the model overflowed
    IMAGE_WRONG_SIZE = "image_wrong_size"  # not the width and height that were asked for
    IMAGE_WRONG_MODE = "image_wrong_mode"  # not 8-bit RGB
    IMAGE_BLANK = "image_blank"  # every pixel is the same colour
    IMAGE_TOO_LARGE = "image_too_large"  # bytes or pixels over the limit, told from the header
    # bytes that do not decode, a refused format, or several frames
    IMAGE_UNREADABLE = "image_unreadable"
    # nothing left of the captioner's answer once it is cleaned
    DESCRIPTION_EMPTY = "description_empty"
    DESCRIPTION_TOO_LONG = "description_too_long"  # over the captioner's `max_chars`
    TEXT_EMPTY = "text_empty"  # nothing left of the author's answer once it is cleaned
    TEXT_MISSING = "text_missing"  # the engine returned something that is no text
    # a model's text holds a link, code, or what another model might obey: actors/text_rules.py
    TEXT_RULE = "text_rule"
    # the engine raised on this row alone, twice, the rest of its batch went through
    ENGINE_ERROR = "engine_error"
    OUT_OF_MEMORY = "out_of_memory"  # likewise, for want of memory: not even one row fits
    # reading the row or finishing its result raised, beside the engine: encoding the picture, say
    TASK_ERROR = "task_error"
    # the engine returned none or several results for this row alone
    WRONG_ROW_COUNT = "wrong_row_count"
    # a score is missing or no number: a pair that was not checked is never one
    SCORE_MISSING = "score_missing"
    # Judged by the pool, after `max_attempts`, the last of them alone: the process of the model
    # died (a crash in native code, killed for memory), ...
    REPLICA_DIED = "replica_died"
    CALL_TIMEOUT = "call_timeout"  # ... it was killed because the call took too long, ...
    ENGINE_DEAD = "engine_dead"  # ... or its engine said that it cannot go on


class RowError(Exception):
    """One row cannot go on; the others can. A task turns it into the row's `error`.

    `traceback_sha256` names the traceback in the log where an unforeseen exception was the cause.
    """

    def __init__(
        self, reason: Reason, message: str, *, traceback_sha256: str | None = None
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.traceback_sha256 = traceback_sha256

    def to_error(self) -> str:
        """The text of the `error` column: one line, bounded, and UTF-8 whatever it quotes."""
        line = " ".join(f"{self.reason}: {self.message}".split())
        line = line.encode(errors="backslashreplace").decode()
        return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 3] + "..."

"""Says of every committed pair whether it is kept, and why not, without a GPU or the pictures."""

from pipelines.filters.config import Bounds, FilterConfig
from pipelines.filters.judge import Judged, judge_run
from pipelines.filters.report import FilterReport, describe_filter, filter_run

__all__ = [
    "Bounds",
    "FilterConfig",
    "FilterReport",
    "Judged",
    "describe_filter",
    "filter_run",
    "judge_run",
]

"""Reads a run and says whether it is whole, with code that shares nothing with what wrote it."""

from pipelines.verify.check import verify_run
from pipelines.verify.report import Finding, Report, describe_report, exit_code

__all__ = ["Finding", "Report", "describe_report", "exit_code", "verify_run"]

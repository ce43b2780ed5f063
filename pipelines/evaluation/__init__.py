"""`pairloom evaluate`: descriptions against references, and in the embedded world against truth."""

from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.evaluate import Evaluation, describe_evaluation, evaluate_run

__all__ = ["EvaluateConfig", "Evaluation", "describe_evaluation", "evaluate_run"]

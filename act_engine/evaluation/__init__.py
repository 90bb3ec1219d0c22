"""Measuring a trained model."""

from act_engine.evaluation.accuracy import Accuracy, PGDAttack, evaluate
from act_engine.evaluation.runs import Run, evaluate_models, format_table, load_run

__all__ = ["Accuracy", "PGDAttack", "Run", "evaluate", "evaluate_models", "format_table", "load_run"]

"""Measuring a trained model."""

from act_engine.evaluation.accuracy import Accuracy, evaluate
from act_engine.evaluation.attacks import PGDAttack, RandomNoise, Transfer
from act_engine.evaluation.interval import wilson
from act_engine.evaluation.runs import Run, check_evaluation, evaluate_models, load_run
from act_engine.evaluation.samples import adversarial_images, sample_images
from act_engine.evaluation.table import format_table

__all__ = [
    "Accuracy",
    "PGDAttack",
    "RandomNoise",
    "Run",
    "Transfer",
    "adversarial_images",
    "check_evaluation",
    "evaluate",
    "evaluate_models",
    "format_table",
    "load_run",
    "sample_images",
    "wilson",
]

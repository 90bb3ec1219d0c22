"""Measuring a trained model."""

from act_engine.evaluation.accuracy import Accuracy, evaluate
from act_engine.evaluation.attacks import PGDAttack, RandomNoise, Transfer
from act_engine.evaluation.interval import wilson
from act_engine.evaluation.measure import answers_question, check_evaluation, evaluate_models
from act_engine.evaluation.premises import PremiseError, PremiseWarning
from act_engine.evaluation.samples import adversarial_images, sample_images
from act_engine.evaluation.table import format_table

__all__ = [
    "Accuracy",
    "PGDAttack",
    "PremiseError",
    "PremiseWarning",
    "RandomNoise",
    "Transfer",
    "adversarial_images",
    "answers_question",
    "check_evaluation",
    "evaluate",
    "evaluate_models",
    "format_table",
    "sample_images",
    "wilson",
]

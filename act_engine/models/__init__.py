"""Classifiers by name: they take images in [0, 1] and normalise, if at all, in their first layer."""

from act_engine.models.build import build_model, model_names
from act_engine.models.layers import Among, Normalize
from act_engine.models.portable import describe_model, load_model
from act_engine.models.timm_models import imagenet_synsets
from act_engine.models.weights import load_pretrained, load_weights

__all__ = [
    "Among",
    "Normalize",
    "build_model",
    "describe_model",
    "imagenet_synsets",
    "load_model",
    "load_pretrained",
    "load_weights",
    "model_names",
]

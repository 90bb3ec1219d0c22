"""act_engine: Adversarial Concurrent Training of a robust and a natural model, from digits to ImageNet."""

__version__ = "0.1.0"

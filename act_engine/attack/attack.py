"""The inner maximisation of a training step."""

import math

import torch
from torch import Tensor

from act_engine.attack.graph import GraphedLoop
from act_engine.attack.labels import Labels, MixedLabels, are_plain, correction, first_class
from act_engine.attack.pgd import pgd
from act_engine.attack.start import first_iterate
from act_engine.attack.view import AttackView, LiveView
from act_kernels import attack_grad


class Attack:
    """PGD on one model towards one mix of KL and cross-entropy.

    Args:
        view: how the attacked model is seen: `AttackView` (fast) or `LiveView` (the model itself).
        kl_weight: weight of KL(softmax(target_logits) ‖ softmax(model(x'))), summed over the batch.
        ce_weight: weight of the cross-entropy to the labels, summed over the batch.
        start: ``"gaussian"`` (x + 0.001 · N(0, 1), not projected), ``"uniform"`` in the ball, or ``"none"``.
        start_eps: radius of the uniform start's ball; None: eps.
        label_smoothing: of the cross-entropy's labels.
        project: keep every iterate in the ball; False: in [0, 1] alone.
        steps, step_size, eps, norm: as `pgd`.
        generator: source of the start's noise, on the images' device; its seed decides: reseed it for every batch.
        cuda_graph: on a GPU, record the loop once for each shape and replay it.
    """

    def __init__(
        self,
        view: AttackView | LiveView,
        *,
        kl_weight: float,
        ce_weight: float,
        start: str,
        start_eps: float | None = None,
        project: bool = True,
        label_smoothing: float = 0.0,
        steps: int,
        step_size: float,
        eps: float,
        norm: str = "linf",
        generator: torch.Generator,
        cuda_graph: bool = False,
    ) -> None:
        self.view = view
        self.position = 0  # place in the whole batch of the first image that the next call sees
        self.kl_weight, self.ce_weight = kl_weight, ce_weight
        self.label_smoothing = label_smoothing
        self.start, self.start_eps, self.project, self.generator = start, start_eps, project, generator
        self.strength = 1.0  # share of eps, start_eps and step_size that the next call has
        self.settings = {"steps": steps, "step_size": step_size, "eps": eps, "norm": norm}
        self._graphs = GraphedLoop(self._loop) if cuda_graph else None
        self._generation = view.generation

    def clean_logits(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of the attacked model on clean images, in eval mode and without a graph."""
        with self.view.ready(), torch.no_grad():
            return self.view(x)

    @torch.profiler.record_function("attack")
    def __call__(self, x: Tensor, labels: Labels, target_logits: Tensor | None = None) -> Tensor:
        """Adversarial images for clean images `x` [B, C, H, W]; `target_logits` [B, classes] if the KL has weight.

        The cross-entropy is to the labels as they are: of mixed ones to both classes, by their shares.

        The result may live in a buffer of the attack's: it stands until the next call.
        """
        if target_logits is None and self.kl_weight:
            raise ValueError("target_logits: the attack maximises a KL term and needs the target's logits; got None")
        target = None if target_logits is None else target_logits.detach()
        radius = self.strength * (self.settings["eps"] if self.start_eps is None else self.start_eps)
        x_start = first_iterate(x, radius, self.settings["norm"], self.start, self.generator, first=self.position)
        with self.view.ready():
            # A recording holds the numbers that it was made with.
            recorded = self._graphs is not None and x.is_cuda and self.view.recordable and self.strength == 1
            mixed = (labels.second, labels.share) if isinstance(labels, MixedLabels) else (None, None)
            return (self._recorded if recorded else self._loop)(x, x_start, first_class(labels), target, *mixed)

    def _recorded(self, *inputs: Tensor | None) -> Tensor:
        if self._generation != self.view.generation:  # recordings of another copy of the model
            self._generation, self._graphs = self.view.generation, GraphedLoop(self._loop)
        return self._graphs(*inputs)

    def _loop(
        self,
        x: Tensor,
        x_start: Tensor,
        labels: Tensor,
        target: Tensor | None,
        second: Tensor | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        soft = labels if second is None else MixedLabels(labels, second, share)
        plain = not self.ce_weight or are_plain(soft, self.label_smoothing)

        def logit_grad(logits: Tensor) -> Tensor:
            other = logits if target is None else target
            gradient = attack_grad(logits, other, labels, kl_weight=self.kl_weight, ce_weight=self.ce_weight)
            return gradient if plain else gradient + self.ce_weight * correction(soft, logits, self.label_smoothing)

        sizes = {name: self.strength * self.settings[name] for name in ("step_size", "eps")}
        if not self.project:
            sizes["eps"] = math.inf
        return pgd(self.view, x, x_start, logit_grad, **{**self.settings, **sizes})

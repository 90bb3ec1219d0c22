"""Signs that a model hides its gradients instead of being robust (Athalye et al. 2018, arXiv 1802.00420; Carlini et al.
2019, arXiv 1902.06705)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from act_engine.attack import usual_step_size
from act_engine.evaluation.accuracy import Accuracy
from act_engine.evaluation.attacks import PGDAttack, Place, RandomNoise
from act_engine.evaluation.premises import WatchedView
from act_engine.evaluation.subset import chosen

LOST = 0.01  # share of all images
GUIDED = 0.2  # share of the probed images
FAR = 0.1  # share of all images: CE-PGD and AutoAttack lie 5 to 8 points apart on models known to be sound


@dataclass(frozen=True)
class RadiiProbe:
    """PGD in ever larger balls around a few images, spread over the data set, beside the random start that it has.

    The radii double from eps up to a ball that holds every image, in which no model can be robust. Stages: the images
    that are right when clean, then after the random start at each radius, then after PGD at each radius; balls contain
    each other, so an image that has fallen stays so.
    """

    eps: float
    norm: str
    diameter: float
    """The radius of a ball that holds all images: 1 for linf, the square root of their number of values for l2."""
    images: int = 100
    steps: int = 20
    loss: str = "ce"
    """Of that PGD: the evaluation's own, whose gradient is in question."""
    radii: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        radii = [self.eps]
        while radii[-1] < self.diameter:
            radii.append(min(2 * radii[-1], self.diameter))
        object.__setattr__(self, "radii", tuple(radii))

    @property
    def stages(self) -> int:
        return 1 + 2 * len(self.radii)

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        if place.total is not None:
            survives = survives & chosen(place.first, len(y), self.images, place.total).to(y.device)
        noisy, guided = [survives], [survives]
        for radius in self.radii:
            noise = RandomNoise(radius, self.norm, draws=1, stream=0)
            pgd = PGDAttack(radius, usual_step_size(radius, self.steps), self.steps, 1, self.norm, self.loss)
            noisy.append(noise(view, x, y, noisy[-1], place)[-1])
            guided.append(pgd(view, x, y, guided[-1], place)[-1])
        return torch.stack([survives, *noisy[1:], *guided[1:]])


def signs_of_masking(measured: Accuracy, probe: RadiiProbe | None, names: dict[str, str]) -> list[str]:
    """Warnings, each a sentence with its figures; none for a sound model under a sound attack.

    Args:
        measured: with what was run out of ``"robust"`` (stages: restarts), the controls ``"noise"``, ``"transfer"`` and
            ``"pgd"`` (which ran beside AutoAttack), and ``"masking"`` (the `probe`).
        names: what to call the attack ``"robust"`` and the controls.
    """
    return [*_steps_and_radii(measured, probe), *_restarts(measured), *_controls(measured, names)]


def _steps_and_radii(measured: Accuracy, probe: RadiiProbe | None) -> list[str]:
    if probe is None or "masking" not in measured.stages or not measured.stages["masking"][0]:
        return []
    images, *rows = measured.stages["masking"]
    noisy, guided = rows[: len(probe.radii)], rows[len(probe.radii) :]
    gain = max(a - b for a, b in zip(noisy, guided, strict=True))
    found = []
    if gain < GUIDED * images:
        found.append(
            f"steps: at no radius from {probe.eps:.3g} to {probe.diameter:.3g} do {probe.steps} PGD steps fool more "
            f"than {gain} of {images} images beyond what their random start fools: the gradient leads nowhere"
        )
    if guided[-1]:
        found.append(
            f"large eps: PGD leaves {guided[-1]} of {images} images right at eps {probe.diameter:.3g}, in a ball that "
            "holds images of every class, where no model can be robust: it does not find what is there"
        )
    return found


def _restarts(measured: Accuracy) -> list[str]:
    stages = measured.stages.get("pgd", measured.stages.get("robust", ()))
    if len(stages) < 2 or stages[-2] - stages[-1] <= LOST * measured.samples:
        return []
    lost = 100 * (stages[-2] - stages[-1]) / measured.samples
    return [f"restarts: the last of {len(stages)} still fooled {lost:.1f} % of the images: more of them will fool more"]


def _controls(measured: Accuracy, names: dict[str, str]) -> list[str]:
    found = []
    for name, count in measured.beaten.items():
        if name in ("noise", "transfer") and count > LOST * measured.samples:
            share = 100 * count / measured.samples
            found.append(f"{name}: {names[name]} fools {share:.1f} % of the images that withstand {names['robust']}")
    if "pgd" in measured.right:
        gap = (sum(measured.right["pgd"]) - sum(measured.right["robust"])) / measured.samples
        if gap > FAR:
            found.append(
                f"autoattack: {names['robust']} is {100 * gap:.1f} points below {names['pgd']}: PGD's figure, and any "
                "training that relied on it, is not to be trusted"
            )
    return found

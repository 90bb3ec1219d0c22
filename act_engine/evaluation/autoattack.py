"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690) by the pyautoattack library, whole or one of its attacks."""

from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.attack import AttackView, unit_range
from act_engine.evaluation.attacks import Place
from act_engine.evaluation.losses import scaled_margin
from act_engine.evaluation.premises import WatchedView

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
VERSIONS = ("standard", "plus", "rand")


@dataclass
class AutoAttack:
    """One model's images through the library, a batch a call.

    The library draws its random starts for a batch as a whole, so the same batches give the same result. With fewer
    classes than its losses need they adapt: as many targets as there are wrong classes; with 3 classes the targeted DLR
    divides by z_1 − z_3, the spread that there is; with 2 both DLR losses are the margin.

    Args:
        model: images in [0, 1] to logits [B, classes], in eval mode; a copy is attacked, without any speed-up.
        version: ``"standard"``, ``"plus"`` or ``"rand"``, as published.
        eps: in [0, 1] pixel units.
        attacks: by the library's names, those to run one after the other in place of the version's; with the version's
            numbers of iterations and restarts.

    Raises:
        ValueError: the library is not installed, or knows no such norm, version or attack.
    """

    model: nn.Module
    eps: float
    norm: str = "linf"
    version: str = "standard"
    attacks: tuple[str, ...] | None = None

    stages = 1

    def __post_init__(self) -> None:
        import_autoattack()
        given = [("norm", self.norm, tuple(NORMS)), ("version", self.version, VERSIONS)]
        given += [("attacks", name, ATTACKS) for name in self.attacks or ()]
        for name, value, allowed in given:
            if value not in allowed:
                raise ValueError(f"{name}: got {value!r}; allowed: {', '.join(map(repr, allowed))}")
        self._view = AttackView(self.model, fold=False, channels_last=False)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result beside the model and the images, the library's release included."""
        names = ("eps", "norm", "version", "attacks")
        return {name: getattr(self, name) for name in names} | {"library": library_version()}

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        watched = WatchedView(self._view, view.record, view.on_call)
        x = unit_range(x).contiguous()  # the library takes views of it, which channels_last would not allow
        with self._view.ready():
            return (survives & self._run(watched, x, y, place.seed))[None]

    def _run(self, view: WatchedView, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """Which of the images withstand all attacks [B]; what the library warns of goes into the view's record."""
        devices = [x.device] if x.is_cuda else []
        log = _Log()
        with torch.random.fork_rng(devices):  # the library seeds PyTorch's own generators
            adversary = import_autoattack().AutoAttack(
                view, norm=NORMS[self.norm], eps=self.eps, seed=seed, version=self.version, device=x.device
            )
            if self.attacks is not None:
                adversary.attacks_to_run = list(self.attacks)
            for part in (adversary, adversary.apgd, adversary.apgd_targeted):
                part.logger = log
            with torch.no_grad():
                classes = view(x[:1]).shape[1]
            _fit_to(classes, adversary)
            _, predicted = adversary.run_standard_evaluation(x, y, batch_size=len(x))
        view.record.warnings += [f"autoattack: {text}" for text in log.warnings]
        return predicted == y


def _fit_to(classes: int, adversary: Any) -> None:
    """Give the library's targeted attacks targets, and its losses ranks of logits, that so many classes have."""
    for attack in (adversary.apgd_targeted, adversary.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    if classes < 4:
        targeted = adversary.apgd_targeted
        targeted.dlr_loss_targeted = lambda z, y: scaled_margin(z, y, targeted.y_target)
    if classes < 3:
        adversary.apgd.dlr_loss = scaled_margin


class _Log:
    """In the place of the library's logger: keeps its warnings, whatever levels are set, and prints nothing."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, *_: object) -> None:
        """Not kept."""

    info = debug

    def warning(self, text: str) -> None:
        """Kept, but for what `_fit_to` has taken care of."""
        if not text.startswith("with only"):
            self.warnings.append(text)


def library_version() -> str:
    """The library's release."""
    return version("pyautoattack")


def import_autoattack() -> ModuleType:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyautoattack
    except ImportError as error:
        raise ValueError(
            "evaluate.attack: got 'autoattack', which is not installed; pip install 'act-engine[evaluation]'"
        ) from error
    return pyautoattack

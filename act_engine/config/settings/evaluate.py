"""How robustness is measured."""

from dataclasses import dataclass
from typing import Literal

from act_engine.config.settings.attack import AttackConfig
from act_engine.config.settings.data import MOST_IMAGES
from act_engine.errors import require


@dataclass(frozen=True)
class EvaluateConfig:
    """The attack that measures robust accuracy: PGD from uniform starts, the worst of all restarts, or AutoAttack."""

    attack: Literal["pgd", "autoattack", "apgd-ce", "apgd-t", "fab", "fab-t", "square", "none"] = "pgd"
    """pgd; autoattack, or one of its attacks by name (with PGD beside it, to compare); none: clean accuracy alone."""
    version: Literal["standard", "plus", "rand"] = "standard"
    """autoattack: its version; rand is for models that randomise. Of its attacks by name: whose numbers of steps."""
    loss: Literal["ce", "margin", "dlr"] = "ce"
    """PGD's loss: ce (cross-entropy), margin (Carlini and Wagner's), dlr (difference of logits ratio)."""
    targets: int = 0
    """0: PGD is untargeted; else every restart goes towards each of an image's so many most likely wrong classes."""
    norm: Literal["linf", "l2", "l1"] | None = None
    """Norm of the perturbation ball; null: attack.norm. Another norm than that needs an eps of its own. l1: AutoAttack
    and its attacks alone, without PGD, noise and the look for masking beside them."""
    steps: int = 100
    """Iterations a restart, 1 or more."""
    restarts: int = 5
    """Random starts an image, 1 or more; an image counts as robust only if it withstands every one."""
    eps: float | None = None
    """Radius in [0, 1] pixel units; null: attack.eps."""
    step_size: float | None = None
    """Step in [0, 1] pixel units; null: 2.5 · eps / steps."""
    images: int | None = None
    """Measure on this many images, spread evenly over the test set; null: on all."""
    check_masking: bool = True
    """Look for signs of gradient masking with PGD-20 on 100 images in growing balls."""
    batch_size: int = 500
    """Images attacked at a time, 1 to 1048576."""
    corruptions: tuple[str, ...] = ()
    """Common corruptions of the test images, at each of which accuracy is measured too, in severities 1 to 5: all, or
    gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur, zoom_blur, brightness,
    contrast, saturate, pixelate, jpeg_compression; empty: none."""
    also: tuple[str, ...] = ()
    """Further test sets with classes of the model's, on each of which clean accuracy is measured too: folders of class
    folders, or .npz files; empty: none."""
    among: Literal["all", "present"] = "all"
    """What the model chooses among: all its classes, or those alone of which the test set has images (present), as the
    papers of ImageNet-A and ImageNet-R do; further test sets each with its own."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "evaluate.steps", self.steps, "1 or more")
        require(self.restarts >= 1, "evaluate.restarts", self.restarts, "1 or more")
        require(self.targets >= 0, "evaluate.targets", self.targets, "0 or more")
        if self.images is not None:
            require(self.images >= 1, "evaluate.images", self.images, "1 or more, or null")
        require(1 <= self.batch_size <= MOST_IMAGES, "evaluate.batch_size", self.batch_size, f"1 to {MOST_IMAGES}")
        l1 = self.norm == "l1" and self.attack != "none"
        require(not l1 or self.by_library, "evaluate.norm", self.norm, f"linf, l2 with attack {self.attack}")
        if self.eps is not None:
            require(self.eps >= 0, "evaluate.eps", self.eps, "0 or more, or null")
        if self.step_size is not None:
            require(self.step_size > 0, "evaluate.step_size", self.step_size, "above 0, or null")

    @property
    def by_library(self) -> bool:
        """Whether the attack is AutoAttack or one of its attacks, whose result depends on the batches."""
        return self.attack not in ("pgd", "none")

    def ball(self, attack: AttackConfig) -> tuple[float, str]:
        """Radius (in [0, 1] pixel units) and norm that a run is measured with: its own, or else its training's."""
        return attack.eps if self.eps is None else self.eps, self.norm or attack.norm

"""The analyses of a run."""

from dataclasses import dataclass

from act_engine.errors import nearest, require


@dataclass(frozen=True)
class AnalysisConfig:
    """The paper's three analyses, as this package reads them (act_engine/analysis has the protocols)."""

    analyses: tuple[str, ...] = ("complexity", "compression", "flatness")
    """Which: complexity (trains every run anew on partly random labels), compression, flatness."""
    samples: int = 500
    """Test images, evenly spaced, that are measured, 20 or more."""
    noise: tuple[float, ...] = (0.5,)
    """complexity: probabilities, above 0 and below 1, with which a training label is replaced by a random one; none
    leaves those trainings out."""
    classes: int | None = None
    """complexity: train on the first so many classes, 2 or more; null: all."""
    epochs: int | None = None
    """complexity: epochs of that training, 1 or more; null: as many as the run had."""
    sigmas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    """flatness: sizes of the noise on the weights, relative to each tensor's norm, 0 or more, rising."""
    draws: int = 5
    """Random draws that are averaged: of weight noise, and of the probe's labels; 1 or more."""
    seed: int = 0
    """Of those draws, 0 or more."""

    def __post_init__(self) -> None:
        known = ("complexity", "compression", "flatness")
        for name in self.analyses:
            require(name in known, "--analyses", name, ", ".join(known) + nearest(name, known))
        require(bool(self.analyses), "--analyses", "", ", ".join(known))
        require(self.samples >= 20, "--samples", self.samples, "20 or more")
        require(all(0 < p < 1 for p in self.noise), "--noise", list(self.noise), "numbers above 0 and below 1")
        require(self.classes is None or self.classes >= 2, "--classes", self.classes, "2 or more, or null")
        require(self.epochs is None or self.epochs >= 1, "--epochs", self.epochs, "1 or more, or null")
        rising = list(self.sigmas) == sorted({abs(sigma) for sigma in self.sigmas})
        require(rising, "--sigmas", list(self.sigmas), "numbers of 0 or more, rising")
        require(self.draws >= 1, "--draws", self.draws, "1 or more")
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")

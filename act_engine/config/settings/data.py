"""The images that a run is trained and measured on."""

from dataclasses import dataclass
from typing import Literal

from act_engine.errors import require

MOST_IMAGES = 2**20
"""In a batch."""
MOST_PIXELS = 2**14
"""On a side of a picture."""


@dataclass(frozen=True)
class DataConfig:
    name: str = "digits"
    """Data set: digits, textures (both built in), cifar10, cifar100, npz, image_folder, webdataset, or the name of one
    that an installed package adds."""
    path: str | None = None
    """Where the data lies on disk, ~ and $NAME allowed; digits and textures have none."""
    seed: int = 0
    """What textures draws and the choices below follow from it, whatever train.seed is; 0 or more."""
    classes: int | None = None
    """Keep the first so many classes, 2 or more; null: all."""
    train_samples: int | None = None
    """Train on so many images, classes balanced, 1 or more; null: all."""
    validation_samples: int | None = None
    """Hold so many training images back, classes balanced, 1 or more, and measure on them instead of the test images;
    null: none."""
    selection_samples: int | None = None
    """Images that checkpoints are chosen by, classes balanced, 1 or more: of the data's own validation split where it
    has one beside a test split, else training images, which are then not trained on. null: 1,000, or 2 % of a set of
    fewer than 50,000 training images, where a setting needs them (checkpoint.best_every_epochs)."""
    holdout: float | None = None
    """image_folder, webdataset: share of each class's training images, above 0 and below 1, that are tested on, where
    the data has no held-out split; null: it must have one."""
    label_noise: float = 0.0
    """Probability, 0 to 1, that a training label is replaced by a uniformly drawn one."""
    extra: tuple[str, ...] = ()
    """Further training images, such as a diffusion model's: .npz files with image [N, H, W, C] uint8 and label [N],
    folders of class folders, or folders of webdataset's shards; they stay on the disk. Empty: none."""
    extra_share: float = 0.7
    """With extra: share of every batch that they take, above 0 and at most 1."""
    extra_once: bool = False
    """With extra: show each before any is shown again; false: draw each with replacement."""
    extra_only_epochs: int = 0
    """With extra: epochs, 0 or more, that begin the training on them alone."""
    epoch_images: int | None = None
    """With extra: images that make an epoch, 1 or more; null: as many as the data set has."""
    batch_size: int = 128
    """Training images per step and process, 1 to 1048576."""
    workers: int = 2
    """Loader threads per process, 1 or more."""
    augment: str | None = None
    """Training augmentation: crop_flip (cifar10, cifar100, npz), resized_crop_flip or randaugment (image_folder,
    webdataset), none; null: the data set's usual one."""
    policy: Literal[
        "none", "trivialaugment", "randaugment", "autoaugment_cifar10", "autoaugment_imagenet", "augmix"
    ] = "none"
    """Policy of torchvision, as its own defaults have it, for training images after augment; on the CPU."""
    jitter: float = 0.0
    """Training: brightness, contrast and saturation times a factor of 1 - jitter to 1 + jitter each, 0 to 1."""
    erasing: float = 0.0
    """Training: probability, 0 to 1, that a rectangle of an image is made black."""
    image_size: int = 224
    """image_folder, webdataset: side of a picture in pixels, 1 to 16384."""
    eval_resize: int | None = None
    """image_folder, webdataset: shorter side before the evaluation's centre crop; null: image_size / 0.875."""
    train_sizes: tuple[int, ...] = ()
    """image_folder, webdataset: picture sides in training, one before, between and after the epochs of
    train_size_epochs; empty: image_size throughout."""
    train_size_epochs: tuple[int, ...] = ()
    """The epochs before which the picture side changes, rising."""
    decode: Literal["auto", "cpu"] = "auto"
    """image_folder, webdataset: decode training images on the GPU where there is one (auto), or on the CPU."""
    bad_images: Literal["error", "skip"] = "error"
    """An unusable image file stops the run (error), or is left out and counted (skip); one that turns out so in mid-run
    is then replaced by another, and named."""
    index: str = "auto"
    """image_folder, webdataset: where what was found is kept for the next start: auto (the user's cache folder), a
    folder, renew (auto, but listed anew: for files that were changed where they lie), or off."""
    download: bool = False
    """cifar10, cifar100: fetch the official archive into path if it is not there."""

    def __post_init__(self) -> None:
        require(1 <= self.batch_size <= MOST_IMAGES, "data.batch_size", self.batch_size, f"1 to {MOST_IMAGES}")
        for name, sides in (
            ("image_size", (self.image_size,)),
            ("eval_resize", () if self.eval_resize is None else (self.eval_resize,)),
            ("train_sizes", self.train_sizes),
        ):
            for side in sides:
                require(1 <= side <= MOST_PIXELS, f"data.{name}", side, f"1 to {MOST_PIXELS}, in pixels")
        require(1 <= self.workers <= 1024, "data.workers", self.workers, "1 to 1024")
        require(0 <= self.seed < 2**31, "data.seed", self.seed, "0 to 2147483647")
        require(0 <= self.label_noise <= 1, "data.label_noise", self.label_noise, "0 to 1")
        for name in ("jitter", "erasing"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "0 to 1")
        if self.holdout is not None:
            require(0 < self.holdout < 1, "data.holdout", self.holdout, "above 0, below 1, or null")
        require(0 < self.extra_share <= 1, "data.extra_share", self.extra_share, "above 0, at most 1")
        require(self.extra_only_epochs >= 0, "data.extra_only_epochs", self.extra_only_epochs, "0 or more")
        counts = ("epoch_images", "train_samples", "validation_samples", "selection_samples")
        for name, least in (("classes", 2), *((count, 1) for count in counts)):
            value = getattr(self, name)
            require(value is None or value >= least, f"data.{name}", value, f"{least} or more, or null")

"""Data sources behind one contract: in-memory arrays on the device, and image folders and tar shards through DALI."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch

from act_engine.data.arrays import ArrayLoader
from act_engine.data.augmenting import Augmenting
from act_engine.data.contract import Batch, Data, Loader
from act_engine.data.extra import with_extra
from act_engine.data.foreign import expanded
from act_engine.data.further import further_tests, read_class_names
from act_engine.data.given import GivenLoader, as_loader, given_data
from act_engine.data.identity import describe_data, identity, require_same
from act_engine.data.mixture import Mixture
from act_engine.data.registry import Facts, Source, find_source, sources
from act_engine.data.selection import select, usual_selection
from act_engine.data.splits import Pictures, Splits

__all__ = [
    "Batch",
    "Data",
    "Facts",
    "GivenLoader",
    "Loader",
    "Pictures",
    "Source",
    "Splits",
    "as_loader",
    "build_data",
    "data_facts",
    "describe_data",
    "find_source",
    "further_tests",
    "given_data",
    "identity",
    "read_class_names",
    "require_same",
    "sources",
    "usual_selection",
]

OWN_SETTINGS = (  # those that a data set may lack; then they stay as they are by default
    *("path", "download", "bad_images", "holdout", "index"),
    *("image_size", "eval_resize", "train_sizes", "train_size_epochs", "decode"),
)

logger = logging.getLogger(__name__)


def build_data(
    name: str,
    *,
    path: str | None = None,
    batch_size: int,
    eval_batch_size: int | None = None,
    workers: int = 2,
    seed: int = 0,
    order_seed: int = 0,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    augment: str | None = None,
    num_classes: int | None = None,
    classes: int | None = None,
    train_samples: int | None = None,
    validation_samples: int | None = None,
    selection_samples: int | None = None,
    selection: bool = False,
    holdout: float | None = None,
    label_noise: float = 0.0,
    extra: Sequence[str] = (),
    extra_share: float = 0.7,
    extra_once: bool = False,
    extra_only_epochs: int = 0,
    epoch_images: int | None = None,
    policy: str = "none",
    jitter: float = 0.0,
    erasing: float = 0.0,
    image_size: int = 224,
    eval_resize: int | None = None,
    train_sizes: Sequence[int] = (),
    train_size_epochs: Sequence[int] = (),
    decode: str = "auto",
    bad_images: str = "error",
    download: bool = False,
    index: str = "auto",
    train: bool = True,
    class_names: Sequence[str] | None = None,
) -> Data:
    """Return the loaders of data set `name` (one of `sources()`) for this rank.

    `path`: where the data lies; ~ and $NAME in it are expanded. `batch_size` and `eval_batch_size` (default: the same):
    images a step and process. `workers`: threads that read and decode. `augment` None is the data set's own.
    `num_classes`: checked against the data, whose own count it replaces. `order_seed` decides order and augmentation.
    `classes`, `train_samples`, `validation_samples`, `selection_samples`, `selection` and `label_noise` as in `select`;
    `seed` decides these choices and what textures draws. `holdout`: share of image_folder's or webdataset's training
    images that are tested on, where there is no held-out split.
    `extra`: files or folders of further training images (`open_extra`), which take `extra_share` of every batch as a
    `Mixture` says (`extra_once`, `extra_only_epochs`); `epoch_images` is then an epoch's length (default: that of the
    data set). `policy`, `jitter` and `erasing`: what `Augmenting` does to training images after `augment`.
    For image_folder and webdataset: `image_size` is the side of a picture in pixels, `eval_resize` (default:
    image_size / 0.875) the shorter side before the evaluation's centre crop; `train_sizes` are the sizes in training
    before, between and after the epochs `train_size_epochs` (empty: `image_size`); `decode` "cpu" leaves the GPU to the
    training, where "auto" decodes on it.
    `bad_images`: "error" stops at an unusable image, "skip" leaves such images out and says how many (also in
    `Data.bad_images`); one that turns out so in mid-run is then replaced by another. `download` lets cifar10 and
    cifar100 be fetched into `path`. `index`: where image_folder and webdataset keep what they found (as in `indexed`).
    Without `train` there are only the test images (`Data.train` is None), and of files no others are looked at;
    image_folder then takes labels by `class_names`, where they are given.
    ValueError or FileNotFoundError name the setting that is wrong, one that this data set does not have among them.
    """
    options = {**locals(), "path": expanded(path)}
    source = find_source(name)
    _check_settings(source, options)
    if not train:  # nor are there images to choose checkpoints by
        options |= {"selection": False, "selection_samples": None}
    splits = source.read({**options, "train": train or validation_samples is not None or holdout is not None})
    splits = select(splits, **{key: options[key] for key in inspect.signature(select).parameters if key != "splits"})
    if num_classes is not None and num_classes < splits.num_classes:
        raise ValueError(
            f"model.num_classes: got {num_classes}; {name} has {splits.num_classes} classes, so at least that many"
        )
    order = {"seed": order_seed, "rank": rank, "world_size": world_size, "classes": splits.classes}
    augment = augment or source.augmentations[0]
    if source.streamed:
        eval_resize = eval_resize or round(image_size / 0.875)
        _check_sizes(image_size, eval_resize, train_sizes, train_size_epochs)
        shape, loader = (3, image_size, image_size), _streaming
        view = {
            "image_size": image_size,
            "eval_resize": eval_resize,
            "workers": workers,
            "bad_images": bad_images,
            "decode": decode,
        }
        growing = {"train_sizes": train_sizes, "train_size_epochs": train_size_epochs}
    else:
        _check_alike(name, splits)
        height, width, channels = splits.test.images.shape[1:]
        shape, loader, view, growing = (channels, height, width), _in_memory, {}, {}

    def held_out(part: Any) -> Loader | None:
        return part and loader(part, eval_batch_size or batch_size, shuffle=False, device=device, **view, **order)

    trained = None
    if train:
        part, mixed = splits.train, {}
        if extra:
            images = part.images.shape[1:] if isinstance(part, Pictures) else None
            part, mixed = with_extra(
                part, extra, shape=images, num_classes=splits.num_classes, classes=splits.classes, workers=workers
            )
            mixed["mixture"] = Mixture(
                base=len(splits.train),
                extra=mixed.pop("count"),
                share=extra_share,
                once=extra_once,
                only_epochs=extra_only_epochs,
            )
            mixed["epoch_images"] = epoch_images
        options = {"augment": augment, "device": device, **growing, **view, **order, **mixed}
        options["augmenting"] = Augmenting(policy, jitter, erasing)
        trained = loader(part, batch_size, shuffle=True, **options)
    if splits.bad and rank == 0:
        logger.warning("data.bad_images: left out %d image(s); the first: %s", len(splits.bad), splits.bad[0])
    return Data(
        trained,
        held_out(splits.test),
        num_classes or splits.num_classes,
        shape,
        bad_images=len(splits.bad),
        selection=held_out(splits.selection),
        classes=splits.classes,
        notes=splits.notes,
        unused=splits.unused,
    )


def data_facts(name: str, **options: Any) -> Facts:
    """What a plan counts on: the usual facts of data set `name`, or those of the data, read as `build_data` does.

    The shape None of image files is filled in by the largest of `image_size` and `train_sizes`.
    """
    usual = find_source(name).usual
    if usual is None:
        data = build_data(name, **{**options, "batch_size": 1})
        return Facts(data.train.num_samples, data.num_classes, data.image_shape)
    if usual.shape is None:
        side = max(options.get("train_sizes") or (options["image_size"],))
        return usual._replace(shape=(3, side, side))
    return usual


def _in_memory(part: Pictures, batch_size: int, **options: Any) -> Loader:
    return ArrayLoader(part.images, part.labels, batch_size, **options)


def _streaming(part: Any, batch_size: int, **options: Any) -> Loader:
    from act_engine.data.dali import DaliLoader

    return DaliLoader(part, batch_size, **options)


def _check_settings(source: Source, options: dict[str, Any]) -> None:
    defaults = {key: parameter.default for key, parameter in inspect.signature(build_data).parameters.items()}
    for setting in OWN_SETTINGS:
        value = options[setting]
        if setting not in source.settings and value != defaults[setting]:
            raise ValueError(
                f"data.{setting}: got {value!r}; allowed: {defaults[setting]!r}, for {source.name} has no such setting"
            )
    augment = options["augment"]
    if augment is not None and augment not in source.augmentations:
        raise ValueError(
            f"data.augment: got {augment!r}; allowed with {source.name}: {', '.join(source.augmentations)}"
        )
    if options["workers"] < 1:
        raise ValueError(f"data.workers: got {options['workers']}; allowed: 1 or more")


def _check_alike(name: str, splits: Splits) -> None:
    """Refuse splits whose pictures differ in shape: a model trains on one and is measured on the other."""
    if splits.train is None:
        return
    shape = splits.train.images.shape[1:]
    for kind in ("test", "selection"):
        part = getattr(splits, kind)
        if part is not None and part.images.shape[1:] != shape:
            raise ValueError(
                f"data.name: got {name!r}, whose {kind} pictures are {list(part.images.shape[1:])} (H, W, C), the "
                f"training pictures {list(shape)}; allowed: splits of one shape"
            )


def _check_sizes(
    image_size: int, eval_resize: int, train_sizes: Sequence[int], train_size_epochs: Sequence[int]
) -> None:
    for setting, sizes in (("image_size", [image_size]), ("train_sizes", train_sizes)):
        if any(size < 1 for size in sizes):
            raise ValueError(f"data.{setting}: got {min(sizes)}; allowed: 1 or more, in pixels")
    if eval_resize < image_size:
        raise ValueError(f"data.eval_resize: got {eval_resize}; allowed: data.image_size, {image_size}, or more")
    if len(train_size_epochs) != max(0, len(train_sizes) - 1):
        raise ValueError(
            f"data.train_size_epochs: got {list(train_size_epochs)}; data.train_sizes {list(train_sizes)} needs "
            f"{max(0, len(train_sizes) - 1)} epoch(s), at which one size gives way to the next"
        )
    if list(train_size_epochs) != sorted(set(train_size_epochs)):
        raise ValueError(f"data.train_size_epochs: got {list(train_size_epochs)}; allowed: epochs that rise")

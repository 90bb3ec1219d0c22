"""Further test sets of a model's classes: folders and files of the user's own, beside the data it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from act_engine.data.contract import Data, Loader
from act_engine.data.foreign import expanded
from act_engine.data.registry import find_source
from act_engine.models import imagenet_synsets


def read_class_names(source: str, data: str) -> tuple[str, ...]:
    """The classes that the option ``--class_names`` names, in the order of a model's outputs.

    Args:
        source: a text file with a name a line, a folder of class folders, or ``"imagenet"``: its 1,000 synsets.
        data: the name of the data set, whose classes have to be folders.

    Raises:
        ValueError: they cannot be read, or the data set's classes have no names.
    """
    if data != "image_folder":
        raise ValueError(f"--class_names: got {source!r}; allowed: null, for data.name {data} needs none")
    if source == "imagenet":
        return imagenet_synsets()
    path = Path(expanded(source))
    try:
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        elif path.exists() and not path.is_file():
            raise ValueError(f"--class_names: got {source!r}; allowed: imagenet, a text file, a folder")
        else:
            names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--class_names: got {source!r}; allowed: imagenet, a text file, a folder ({error})"
        ) from error
    if len(names) < 2 or len(names) != len(set(names)):
        raise ValueError(
            f"--class_names: got {source!r} with {len(names)} names; allowed: 2 or more, none of them twice"
        )
    return tuple(names)


def further_tests(
    paths: Sequence[str], data: Data, settings: Mapping[str, Any], num_classes: int, **options: Any
) -> dict[str, Loader]:
    """The test sets at `paths`, by the last part of each, as a model of `data`'s images and classes takes them.

    A path ending in .npz is a file of test_images and test_labels; any other is read as `data` is where that is image
    files, and else as class folders (at once, or in val/ or test/), shrunk to the model's size. Classes go by name;
    where `data` has no names, they are numbers. A set may lack some.

    Args:
        settings: those that `data` was built with, such as ``vars(config.data)``.
        num_classes: of the model.
        options: further ones of `build_data`: eval_batch_size, device, rank, world_size, order_seed.

    Raises:
        ValueError: a set cannot be read, or has other images or classes; one line, which names evaluate.also.
    """
    from act_engine.data import build_data

    found: dict[str, Loader] = {}
    streamed = settings["name"] != "given" and find_source(settings["name"]).streamed
    height, width = data.image_shape[1:]
    names = data.classes or tuple(str(number) for number in range(num_classes))
    for path in paths:
        name = Path(path).resolve().stem
        if name in found:
            raise ValueError(f"evaluate.also: got two test sets called {name!r}; allowed: a name of its own each")
        common = {"path": path, "batch_size": settings["batch_size"], "train": False, "num_classes": num_classes}
        if path.endswith(".npz"):
            given = {"name": "npz", **common}
        elif streamed:
            kept = ("name", "workers", "image_size", "eval_resize", "decode", "bad_images", "index")
            given = {**common, **{key: settings[key] for key in kept}}
        else:
            size = {"image_size": height, "eval_resize": min(height, width)}
            given = {"name": "image_folder", "workers": settings["workers"], **common, **size}
        if given["name"] == "image_folder":
            given["class_names"] = names
        try:
            there = build_data(**given, **options)
        except (ValueError, OSError) as error:
            raise ValueError(f"evaluate.also: got {path!r}: {error}") from error
        if there.image_shape != data.image_shape:
            raise ValueError(
                f"evaluate.also: got {path!r} with images {list(there.image_shape)}; allowed: {list(data.image_shape)}"
            )
        found[name] = there.test
    return found

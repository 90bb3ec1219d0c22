"""Further test sets of a model's classes: folders and files of the user's own, beside the data it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from act_engine.data.contract import Data, Loader
from act_engine.data.registry import find_source


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

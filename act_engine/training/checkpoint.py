"""Checkpoints that are whole or absent, are verified before use, and execute nothing when read.

A checkpoint is a folder ``step-N``: tensors as safetensors, everything else as JSON, and last of all ``manifest.json``
with the SHA-256 of each file. It is written beside its final place, synced, and renamed.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from act_engine.models import describe_model
from act_engine.models.finite import non_finite
from act_engine.runs.reading import read_json
from act_engine.runs.writing import sync, whole_file
from act_engine.training.shards import agree, is_sharded, load_shards, local_parts, save_shards

MANIFEST = "manifest.json"
ADVICE = "Try a lower optim.lr, optim.clip_norm or train.precision float32, and look for bad images"

Tensors = Mapping[str, Tensor]


class NonFiniteWeights(RuntimeError):
    """Weights, statistics or optimizer states hold NaN or infinity; the message says which."""


class Writer:
    """Writes a run's checkpoints from a thread of its own, so that the training step need not wait for the disk.

    Args:
        root: folder of the checkpoints.
        keep: newest ones to keep; older ones go, unless `save` was told to keep them for good.
    """

    def __init__(self, root: Path, keep: int) -> None:
        self.root, self.keep = root, keep
        self.error: Exception | None = None
        """Why the last write failed, as soon as it has, until `take_error`; NonFiniteWeights where nothing was written
        because of what it would have held."""
        self._thread: threading.Thread | None = None

    def save(
        self, step: int, tensors: Mapping[str, Tensors], values: Mapping[str, Any], forever: Collection[int] = ()
    ) -> None:
        """Begin to write ``step-N``, once the write before has ended; arguments as the function `save`.

        The tensors must not be modified any more.
        """
        self.join()
        arguments = (self.root, step, tensors, values, self.keep, forever)
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint")
        self._thread.start()

    def save_shards(
        self,
        step: int,
        tensors: Mapping[str, Tensors],
        values: Mapping[str, Any] | None,
        forever: Collection[int],
        group: dist.ProcessGroup,
    ) -> None:
        """`save` of what every process holds, by all of them together; `group` is theirs alone for that.

        Args:
            tensors: DTensors among them stand for this process's part; on the host.
            values: on rank 0; None elsewhere.
        """
        self.join()
        arguments = (step, tensors, values, forever, group)
        self._thread = threading.Thread(target=self._write_shards, args=arguments, name="checkpoint")
        self._thread.start()

    def join(self) -> None:
        """Wait for the write under way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take_error(self) -> Exception | None:
        """Why the last write failed, told once."""
        error, self.error = self.error, None
        return error

    def _write_shards(
        self,
        step: int,
        tensors: Mapping[str, Tensors],
        values: Mapping[str, Any] | None,
        forever: Collection[int],
        group: dist.ProcessGroup,
    ) -> None:
        """Each stage is begun on all ranks or on none, and its failure is every rank's error."""
        partial = self.root / f".step-{step}.partial"

        def begun() -> None:
            for stem, part in tensors.items():
                require_finite(local_parts(part), f"step {step}: the {stem} model's")
            if values is not None:
                begin(self.root, step)

        def placed() -> None:
            if values is not None:
                place(self.root, step, values, {name: d for part in digests for name, d in part.items()})
                drop(self.root, step, self.keep, forever)

        try:
            agree(begun, group)
            files = save_shards(partial, tensors, group)
            digests = agree(lambda: {path.name: _digest(path) for path in files}, group)
            agree(placed, group)
        except NonFiniteWeights as error:
            self.error = NonFiniteWeights(f"{error}. The checkpoints before it are intact")
        except Exception as error:  # a thread's exception would be lost
            if values is not None:
                shutil.rmtree(partial, ignore_errors=True)
            self.error = OSError(f"checkpoint step-{step} could not be written: {error}; the older ones are intact")

    def _write(self, root: Path, step: int, *arguments: Any) -> None:
        try:
            save(root, step, *arguments)
        except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in words of its own
            self.error = OSError(f"checkpoint step-{step} could not be written: {error}; the older ones are intact")
        except NonFiniteWeights as error:
            self.error = NonFiniteWeights(f"{error}. The checkpoints before it are intact")
        except Exception as error:  # a thread's exception would be lost
            self.error = error


def save(
    root: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    values: Mapping[str, Any],
    keep: int,
    forever: Collection[int] = (),
) -> Path:
    """Write checkpoint ``root/step-N`` atomically, then drop all but the `keep` newest and those of steps `forever`.

    Args:
        tensors: file stem to the tensors in that file, by name, contiguous, on the host, no two sharing storage.
        values: JSON values.

    Raises:
        NonFiniteWeights: a tensor holds NaN or infinity: nothing is written.
        OSError: it could not be written; what was there before is untouched.
    """
    for stem, group in tensors.items():
        require_finite(group, f"step {step}: the {stem} model's")
    partial = begin(root, step)
    try:
        for stem, group in tensors.items():
            with whole_file(partial / f"{stem}.safetensors") as file:
                save_file(dict(group), file)
        digests = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        final = place(root, step, values, digests)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    drop(root, step, keep, forever)
    return final


def begin(root: Path, step: int) -> Path:
    """An empty folder for the files of ``step-N``, which `place` puts under that name."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(".step-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)  # what cannot be deleted is in nobody's way
    partial = root / f".step-{step}.partial"
    partial.mkdir()
    return partial


def place(root: Path, step: int, values: Mapping[str, Any], digests: Mapping[str, str]) -> Path:
    """Give the folder that `begin` made its values, its manifest and its name; `digests` are of the files in it."""
    final, partial = root / f"step-{step}", root / f".step-{step}.partial"
    for path in partial.iterdir():
        sync(path)
    with whole_file(partial / "state.json") as file:
        file.write_text(json.dumps(values), "utf-8")
    digests = {**digests, "state.json": _digest(partial / "state.json")}
    with whole_file(partial / MANIFEST) as file:
        file.write_text(json.dumps(digests, indent=1), "utf-8")
    if final.exists():  # a corrupt one that was passed over: it makes way, but not before its successor is whole
        os.replace(final, root / f".step-{step}.old")
    os.replace(partial, final)
    sync(root)
    return final


def drop(root: Path, step: int, keep: int, forever: Collection[int]) -> None:
    """Remove all checkpoints but the `keep` newest up to `step` and those of steps `forever`."""
    folders = _by_step(root)
    later = [p for p in folders if _step(p) > step]  # passed over as corrupt, or the run would stand there
    older = [p for p in folders if _step(p) <= step][keep:]
    for old in later + [p for p in older if _step(p) not in forever]:
        aside = root / f".{old.name}.old"
        os.replace(old, aside)  # at once: a kill must not leave half a checkpoint under its name
        shutil.rmtree(aside, ignore_errors=True)


def find_newest(root: Path, warn: Callable[[str], None]) -> Path | None:
    """The folder of the newest checkpoint that verifies, or None if there is no checkpoint at all.

    A checkpoint that does not verify is passed over, and `warn` is told which and why; so is one that holds NaN or
    infinity, from which no training can go on.

    Raises:
        ValueError: there are checkpoints, and none of them will do.
    """
    candidates = _by_step(root)
    for folder in candidates:
        fault = verify(folder) or _not_finite(folder)
        if fault is None:
            return folder
        warn(f"{folder}: {fault}; trying the checkpoint before it")
    if candidates:
        raise ValueError(
            f"{root}: none of its {len(candidates)} checkpoints is whole, with finite weights; remove the folder to "
            "start the run anew"
        )
    return None


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The content of a checkpoint, as (tensors by file stem, values)."""
    files = sorted(folder.glob("*.safetensors"))
    tensors = load_shards(folder) if is_sharded(folder) else {f.stem: load_file(f) for f in files}
    return tensors, json.loads((folder / "state.json").read_text("utf-8"))


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None if every file is there and has its recorded digest."""
    try:
        digests = read_json(folder / MANIFEST)
        # Its word is not taken for where its files lie.
        outside = [name for name in digests if Path(name).name != name or name == ".."]
        if outside:
            return f"unreadable ({outside[0]!r} is no file of it)"
        if "state.json" not in digests:
            return "unreadable (no state.json)"
        wrong = [name for name, told in digests.items() if not _is_whole(folder / name, told)]
        wrong += sorted({file.name for file in folder.glob("*.safetensors")} - digests.keys())  # a stray one
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"unreadable ({error})"
    return f"corrupt ({', '.join(wrong)})" if wrong else None


def export_weights(path: Path, state: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write a plain state dict as safetensors, atomically, with `metadata` in its header (`models.describe_model`).

    Raises:
        NonFiniteWeights: it holds NaN or infinities; there is no file then.
    """
    require_finite(state, f"{path.name}: the model's")
    # Copies: safetensors takes no two tensors that share storage.
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    with whole_file(path) as partial:
        save_file(copies, partial, None if metadata is None else dict(metadata))
        _order_metadata(partial)


def _order_metadata(file: Path) -> None:
    """Sort the metadata in a file's header, which safetensors leaves to chance: same content, same bytes."""
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        if "__metadata__" in header:
            ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
            text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= length:
                opened.seek(8)
                opened.write(text.ljust(length))


def save_model(
    model: nn.Module,
    path: str | Path,
    *,
    name: str | Callable[..., nn.Module] | None = None,
    num_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    **architecture: Any,
) -> None:
    """Write a model's weights as safetensors, atomically, so that `load_model` builds and loads it again.

    Args:
        model: its state dict is what is written.
        path: such as ``robust.safetensors``.
        name: what builds the model: a name that `build_model` takes, or your own class or function. None: the weights
            alone are written, for `load_weights`.
        num_classes, image_shape: of a model with a name; image_shape is (C, H, W).
        architecture: further arguments of `build_model`, such as ``options``, ``mean`` and ``std``.

    Raises:
        NonFiniteWeights: the weights hold NaN or infinities; there is no file then.
        ValueError: num_classes or image_shape is missing beside a name.
    """
    header = None
    if name is not None:
        if num_classes is None or image_shape is None:
            raise ValueError("num_classes, image_shape: got None; allowed with a name: a number, and (C, H, W)")
        header = describe_model(name, num_classes=num_classes, image_shape=tuple(image_shape), **architecture)
    export_weights(Path(path), model.state_dict(), header)


def require_finite(tensors: Tensors, what: str) -> None:
    """Raise NonFiniteWeights if one of the tensors holds NaN or infinity; `what` is put before its name."""
    names = non_finite(tensors)
    if names:
        more = f" and {len(names) - 1} more hold" if len(names) > 1 else " holds"
        raise NonFiniteWeights(f"{what} {names[0]}{more} NaN or infinity. {ADVICE}")


def _not_finite(folder: Path) -> str | None:
    """What is not finite in a checkpoint, in words; None if all of it is."""
    for path in sorted(folder.glob("*.safetensors")):
        names = non_finite(load_file(path))
        if names:
            return f"{path.stem}: {names[0]} holds NaN or infinity ({len(names)} tensors in all)"
    return None


def _by_step(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    folders = [p for p in root.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    return sorted(folders, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path) == digest  # a pipe or a device would be read without end


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Files of tensors: read without executing anything in them, and without believing a size that they claim."""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

_REFUSED = re.compile(r"(?:GLOBAL|global|class) ([\w.]+\.\w+)")


def read_tensors(path: Path) -> Any:
    """The content of a safetensors file, or of a PyTorch file of tensors and plain values alone.

    Raises:
        ValueError: it cannot be read, would have to be executed, or holds compressed entries.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if not zipfile.is_zipfile(path):  # PyTorch's format before 1.6
            return torch.load(path, map_location="cpu", weights_only=True)
        _check_archive(path)
        # Mapped: a tensor that claims more bytes than the file has is refused before anything is allocated.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{str(path)!r}: not plain weights ({_why_not(error)})") from error
    except (OSError, SafetensorError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, _Compressed) as error:
        raise ValueError(f"{str(path)!r}: not plain weights ({' '.join(str(error).split())[:200]})") from error
    except Exception as error:  # a damaged pickle may end in any of Python's own errors
        raise ValueError(f"{str(path)!r}: not plain weights ({type(error).__name__}: {str(error)[:200]})") from error


def read_header(path: Path) -> tuple[dict[str, str], list[int]]:
    """The texts in a safetensors file's header, and its tensors' numbers of elements; ValueError if it is none."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return file.metadata() or {}, [math.prod(file.get_slice(name).get_shape()) for name in names]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{str(path)!r}: no safetensors file ({' '.join(str(error).split())[:200]})") from error


class _Compressed(Exception):
    pass


def _check_archive(path: Path) -> None:
    """Refuse what `torch.save` never writes: entries that grow when they are read, or that lie over one another."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _Compressed("it holds compressed entries, whose size is unknown before they are read; save it anew")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise _Compressed("its entries claim more bytes than it has")


def _why_not(error: pickle.UnpicklingError) -> str:
    text = " ".join(str(error).split())
    found = _REFUSED.search(text)
    if found:
        return f"it would call {found[1]}; only tensors and plain values are read: save model.state_dict() alone"
    return text.partition("WeightsUnpickler error:")[2].strip()[:200] or text[-200:]

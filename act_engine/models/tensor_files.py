"""Files of tensors: read without executing anything in them, and without believing a size that they claim."""

from __future__ import annotations

import math
import mmap
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
        if path.exists() and not path.is_file():
            raise _Claim("it is no regular file")
        if path.suffix == ".safetensors":
            return load_file(path)
        archive = zipfile.is_zipfile(path)  # else PyTorch's format before 1.6, which cannot be mapped
        if archive:
            _check_archive(path)
        _check_calls(path)
        # Mapped: a tensor that claims more bytes than the file has is refused before anything is allocated.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{str(path)!r}: not plain weights ({_why_not(error)})") from error
    except (OSError, SafetensorError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, _Claim) as error:
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


class _Claim(Exception):
    """A size that would have to be believed."""


def _check_archive(path: Path) -> None:
    """Refuse what `torch.save` never writes: entries that grow when they are read, or that lie over one another."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _Claim("it holds compressed entries, whose size is unknown before they are read; save it anew")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise _Claim("its entries claim more bytes than it has")


def _check_calls(path: Path) -> None:
    """Refuse the one call among those that PyTorch allows which writes as much memory as a number in the file says."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if (
            content.find(b"bytearray") >= 0
        ):  # no weights have it; as raw bytes, since a pickle cannot put names together
            raise _Claim("it makes a bytearray; only tensors and plain values are read")


def _why_not(error: pickle.UnpicklingError) -> str:
    text = " ".join(str(error).split())
    found = _REFUSED.search(text)
    if found:
        return f"it would call {found[1]}; only tensors and plain values are read: save model.state_dict() alone"
    return text.partition("WeightsUnpickler error:")[2].strip()[:200] or text[-200:]

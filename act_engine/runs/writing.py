"""One way to write a file: whole or not at all, on the disk before it has its name, with one error that says why."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which becomes `path` at the end of the block, with the umask's mode.

    Raises:
        OSError: it could not be written; what `path` was before is untouched, and nothing else is left.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with partial.open("wb"):
            mode = partial.stat().st_mode & 0o777
        yield partial
        os.chmod(partial, mode)  # safetensors gives its files to their owner alone
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in words of its own
        partial.unlink(missing_ok=True) if partial.is_file() else None
        raise OSError(f"{path} could not be written: {error}") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_leftover(path: Path) -> bool:
    """Whether a process that was killed while it wrote has left this file."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

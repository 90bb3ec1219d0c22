"""One way to write a file: whole or not at all, on the disk before it has its name, with one error that says why."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        raise _could_not(path, error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class Growing:
    """A file that grows at its end by whole pieces.

    Raises:
        OSError: it could not be opened, or a piece not be written: then the file is as it was before that piece.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise _could_not(path, error) from error

    def append(self, piece: bytes) -> None:
        """Write a piece at the end."""
        before = self._file.seek(0, os.SEEK_END)
        rest = memoryview(piece)
        try:
            while rest:  # a disk that is nearly full takes a part of it
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(before)
            raise _could_not(self.path, error) from error

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


def _could_not(path: Path, error: Exception) -> OSError:
    return OSError(f"{path} could not be written: {error}")


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

"""One owner of a run's folder: the process that writes into it holds a lock, which the system takes back at its end."""

import errno
import fcntl
import json
import os
import socket
import time
import uuid
from pathlib import Path

LOCK = ".lock"
PATIENCE = 10.0  # seconds until a file must be seen on another node; network file systems remember absent names


class Lock:
    """The lock of one folder, from its making until `release` or the process's end, however it ends.

    A file that a killed process has left holds nobody up. Where the file system knows no locks there is none.

    Raises:
        ValueError: another process writes there; the message says which.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self.token = uuid.uuid4().hex
        """What the file holds, for the other processes to find."""
        while True:
            self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    holder = _holder(os.pread(self._descriptor, 4096, 0))
                    os.close(self._descriptor)
                    raise ValueError(
                        f"--output: got {str(folder)!r}, into which {holder} writes; allowed: a folder of one run at a "
                        "time; wait for that one's end, or choose another folder"
                    ) from error
            if _is_same(self._descriptor, self._path):
                break
            os.close(self._descriptor)  # its holder took the file away between our opening and our locking it
        content = {"host": socket.gethostname(), "pid": os.getpid(), "token": self.token}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(content).encode(), 0)
        os.fsync(self._descriptor)

    def release(self) -> None:
        """Let others write there; once is enough."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def require_shared(folder: Path, token: str) -> None:
    """Refuse a folder that is another one on this node than on rank 0's, whose lock holds `token`.

    Raises:
        ValueError: it is; the message names this node.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if json.loads((folder / LOCK).read_text("utf-8"))["token"] == token:
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if time.monotonic() > end:
            raise ValueError(
                f"--output: got {str(folder)!r}, which node {socket.gethostname()} does not share with rank 0's; "
                "allowed: a folder on a file system that all nodes share"
            )
        time.sleep(0.1)


def _holder(content: bytes) -> str:
    try:
        found = json.loads(content)
        return f"process {int(found['pid'])} on {str(found['host'])[:80]!r}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

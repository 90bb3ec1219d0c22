"""Which folders and files of a place are which split, and what lies in a folder without being part of the data."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

TRAIN = "train"
HELD_OUT = ("val", "valid", "validation", "dev", "test")  # the first that is there is tested on
TEST = "test"
SERVICE = frozenset(  # folders that systems leave in others, some of them with pictures
    ("@eadir", "__macosx", "lost+found", "#recycle", "$recycle.bin", "system volume information")
)


def is_service(name: str) -> bool:
    """Whether a file or folder of this name is a system's, not the user's."""
    return name.startswith(".") or name.lower() in SERVICE


def same_name(name: str) -> str:
    """A form that is equal for two spellings of one name: accents in one code point or two."""
    return unicodedata.normalize("NFC", name)


def require_no_twins(names: Iterable[str], where: str | Path) -> None:
    """Raise ValueError where two names differ by case or by the spelling of an accent only."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(same_name(name).casefold(), name)
        if other != name:
            kind = "the spelling of an accent" if same_name(other) == same_name(name) else "case"
            raise ValueError(
                f"data.path: {where} holds {other!r} and {name!r}, which differ by {kind} alone; rename or merge them"
            )


def scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """A folder's entries by name; ValueError where that is not permitted or fails."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        raise ValueError(f"data.path: no permission to read the folder {folder}; change its mode or owner") from None
    except OSError as error:
        raise ValueError(f"data.path: cannot read the folder {folder} ({error.strerror})") from None


def require_folder(path: str | None, name: str) -> Path:
    """The folder `path`; ValueError or FileNotFoundError where there is none."""
    if path is None:
        raise ValueError(f"data.path: got None; {name} needs the folder that holds train/ and val/")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"data.path: there is no folder {path}; give the one that holds train/ and val/")
    return Path(path)


def find_splits(names: Sequence[str], where: str | Path) -> dict[str, str]:
    """The names among `names` that are splits, by "train" and the words of `HELD_OUT`; upper case counts too."""
    found = {name: name.lower() for name in names if name.lower() in (TRAIN, *HELD_OUT)}
    require_no_twins(found, where)
    return {split: name for name, split in found.items()}


def choose(present: Iterable[str], where: str | Path) -> tuple[str | None, str | None, list[str]]:
    """Which held-out splits are used: to test, to choose checkpoints (None: no such), and what to tell the user.

    A single one is tested on. With a test split beside another, the other chooses and the test split is reported on.
    """
    held_out = [split for split in HELD_OUT if split in present]
    others = [split for split in held_out if split != TEST]
    if len(others) > 1:
        raise ValueError(
            f"data.path: {where} holds both {others[0]} and {others[1]}; keep one held-out split beside train and test"
        )
    if len(held_out) < 2:
        return (held_out[0] if held_out else None), None, []
    note = f"{others[0]}: chooses checkpoints where a setting asks for that; {TEST}: what is reported"
    return TEST, others[0], [note]

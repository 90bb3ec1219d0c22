"""Where the files of a tar archive lie: its headers, read with every size bounded before it is believed.

The standard library takes minutes for the million small headers of ImageNet's shards, and reads name records of
whatever size a header claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512  # bytes; headers and files begin at multiples of it
MOST_RECORD = 2**20  # bytes of a record that holds a long name
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
REGULAR, LINKS = (b"0", b"\0", b"7"), (b"1", b"2")


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str  # bytes that are no UTF-8 are kept as surrogates
    offset: int  # bytes from the archive's beginning
    size: int  # bytes


class BadArchive(ValueError):
    """Why bytes are no whole archive."""


def members(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files of an uncompressed archive, in order; folders and links are passed over.

    Reads the formats ustar, GNU (long names) and PAX. Only headers are read, so `file` may be a decompressing one.
    `BadArchive` says what is wrong: damage, a sparse file, a name record above 1 MiB, no end marker.
    """
    position, long_name, records = 0, None, {}
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if not header:
            raise BadArchive("it has no end marker, so a part of it may be missing")
        if position == 0 and header.startswith(COMPRESSED):
            raise BadArchive("it is compressed")
        if len(header) < BLOCK:
            raise BadArchive(f"it ends within the header at byte {position}")
        if not header.strip(b"\0"):
            return
        _check(header, position)
        kind, size = header[156:157], _number(header[124:136], position)
        if kind in b"LKxg":
            if size > MOST_RECORD:
                raise BadArchive(f"the record at byte {position} says it is {size:,} bytes long")
            content = file.read(size)
            if len(content) < size:
                raise BadArchive(f"it ends within the record at byte {position}")
            if kind == b"L":
                long_name = content.split(b"\0", 1)[0]
            elif kind == b"x":
                records = _records(content, position)
        else:
            if b"GNU.sparse.major" in records or kind == b"S":
                raise BadArchive(f"the file at byte {position} is a sparse one")
            size = _whole(records[b"size"], position) if b"size" in records else size
            name = records.get(b"path") or long_name or _name(header)
            if kind in REGULAR and not name.endswith(b"/"):
                yield Member(name.decode("utf-8", "surrogateescape"), position + BLOCK, size)
            elif kind not in REGULAR and kind not in LINKS and kind not in (b"3", b"4", b"5", b"6"):
                raise BadArchive(f"the entry at byte {position} is of an unknown kind {kind!r}")
            size = 0 if kind in LINKS else size
            long_name, records = None, {}
        position += BLOCK + -(-size // BLOCK) * BLOCK


def _check(header: bytes, position: int) -> None:
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156], position):
        raise BadArchive(f"the header at byte {position} is damaged")


def _name(header: bytes) -> bytes:
    prefix = header[345:500] if header[257:263] == b"ustar\0" else b""  # GNU's variant keeps other things there
    return b"/".join(part for part in (prefix.split(b"\0", 1)[0], header[:100].split(b"\0", 1)[0]) if part)


def _number(field: bytes, position: int) -> int:
    """A header's number: octal digits, or GNU's binary form for what these cannot hold."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise BadArchive(f"the header at byte {position} is damaged")
    return int(digits or b"0", 8)


def _records(content: bytes, position: int) -> dict[bytes, bytes]:
    """PAX records, each "LENGTH KEY=VALUE\\n" with its own length in front."""
    found: dict[bytes, bytes] = {}
    while content.strip(b"\0"):
        digits = content[:32].split(b" ", 1)[0]
        length = _whole(digits, position)
        record = content[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if length <= len(digits) + 1 or length > len(content) or not equals or not value.endswith(b"\n"):
            raise BadArchive(f"the record at byte {position} is damaged")
        found[key] = value[:-1]
        content = content[length:]
    return found


def _whole(digits: bytes, position: int) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise BadArchive(f"the record at byte {position} is damaged")
    return int(digits)

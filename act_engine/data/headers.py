"""What an encoded image's first and last bytes say: its size, and whether it is whole."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

HEAD_BYTES, TAIL_BYTES = 16_384, 16
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
OTHER_FORMATS = ("BMP", "GIF", "PPM", "TIFF", "WEBP")  # of PIL's; none of them starts a program
MOST_PIXELS = 178_956_970  # where PIL, so torchvision, refuses an image
# Pixels that a byte can stand for at most: a JPEG block of 64 takes a bit, in a progressive one's first scan; deflate
# makes 1,032 bytes of one, of 8 pixels each at 1 bit.
JPEG_PIXELS_PER_BYTE, PNG_PIXELS_PER_BYTE = 512, 8 * 1032


class BadImage(Exception):
    """Why an image cannot be used."""


def image_size(head: bytes, tail: bytes, length: int, whole: Callable[[], bytes]) -> tuple[int, int]:
    """Return (height, width) of a whole image of `length` bytes from its first and last; BadImage says what is wrong.

    `whole` reads all of it, for the few whose header is longer than `head`, that have bytes after their end, or that
    are neither JPEG nor PNG.
    """
    if head.startswith(JPEG_START):
        size, per_byte = _whole_jpeg(head, tail, whole), JPEG_PIXELS_PER_BYTE
    elif head.startswith(PNG_START):
        if len(head) < 24:
            raise BadImage("a PNG that ends within its header")
        width, height = struct.unpack(">II", head[16:24])
        size, per_byte = (height, width), PNG_PIXELS_PER_BYTE
        if not tail.endswith(PNG_END) and PNG_END not in whole():
            raise BadImage("a truncated PNG (no end chunk)")
    elif not head:
        raise BadImage("empty")
    else:
        image = open_other(whole())
        size, per_byte = (image.height, image.width), MOST_PIXELS
    if min(size) < 1:
        raise BadImage(f"its header says {size[0]}x{size[1]} pixels")
    if size[0] * size[1] > min(MOST_PIXELS, per_byte * length):
        raise BadImage(f"its header says {size[0]}x{size[1]} pixels: too many to read, or for its {length:,} bytes")
    return size


def open_other(content: bytes) -> Any:
    """Open an image that is neither JPEG nor PNG with PIL, which reads its header; BadImage where it cannot."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content), formats=OTHER_FORMATS)
    except Exception:  # PIL's parsers raise many kinds on strange bytes
        raise BadImage("neither a JPEG nor a PNG, nor another kind that can be read") from None


def as_ppm(image: Any) -> bytes:
    """A PIL image's RGB pixels as a file that every decoder reads exactly.

    Raises:
        OSError, SyntaxError, ValueError: PIL cannot decode it.
    """
    pixels = image.convert("RGB")
    return b"P6 %d %d 255\n" % pixels.size + pixels.tobytes()


def _whole_jpeg(head: bytes, tail: bytes, whole: Callable[[], bytes]) -> tuple[int, int]:
    try:
        size, scan = _jpeg_header(head)
    except IndexError:
        try:
            size, scan = _jpeg_header(whole())
        except IndexError:
            raise BadImage("a JPEG that ends within its header") from None
    if not tail.endswith(JPEG_END) and JPEG_END not in whole()[scan:]:
        raise BadImage("a truncated JPEG (no end marker)")
    return size


def _jpeg_header(data: bytes) -> tuple[tuple[int, int], int]:
    """Return ((height, width), offset of the first scan); IndexError where `data` ends before both."""
    position, size = 2, None
    while True:
        if data[position] != 0xFF:
            raise BadImage("a JPEG with a damaged header")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = data[position + 2] << 8 | data[position + 3]
        if marker == 0xDA:
            if size is None:
                raise BadImage("a JPEG with a damaged header")
            return size, position
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = data[position + 5] << 8 | data[position + 6], data[position + 7] << 8 | data[position + 8]
        position += 2 + length

"""Bad pictures for the fault tests: each with the reason it is refused for, or None where it can be
made good.
"""

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from actors.reasons import Reason


def picture(mode: str = "RGB", size: tuple[int, int] = (32, 24)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encode(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(extra) or _chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + body + _chunk(b"IEND", b"")


def _many_frames_png(num_frames: int = 100_000) -> bytes:
    data = zlib.compress(b"\0\0\0\0")
    frames = [_chunk(b"acTL", struct.pack(">II", num_frames, 0))]
    for index in range(num_frames):
        control = struct.pack(">IIIIIHHBB", 2 * index, 1, 1, 0, 0, 1, 100, 0, 0)
        frames.append(_chunk(b"fcTL", control))
        is_first = index == 0
        frames.append(
            _chunk(b"IDAT", data)
            if is_first
            else _chunk(b"fdAT", struct.pack(">I", 2 * index - 1) + data)
        )
    return _png(1, 1, *frames)


def _many_frames_webp(num_frames: int = 100_000) -> bytes:
    still = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frame = b"\0\0\0" * 4 + b"\x01\0\0\0" + still
    anmf = b"ANMF" + struct.pack("<I", len(frame)) + frame
    parts = b"VP8X" + struct.pack("<I", 10) + b"\x02" + b"\0" * 9
    parts += b"ANIM" + struct.pack("<I", 6) + b"\0" * 6 + anmf * num_frames
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts


def _huge_jpeg() -> bytes:
    data = bytearray(encode(picture(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("run.py", "open('canary', 'w')")
    return buffer.getvalue()


def _with_notes() -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "canary")
    notes.add_itxt("title", "canary")
    return encode(picture(), "PNG", pnginfo=notes, icc_profile=b"canary", exif=b"Exif\0\0canary")


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "canary"
    exif[0x0112] = 6  # turned by a quarter
    return exif


UNREADABLE, TOO_LARGE = Reason.IMAGE_UNREADABLE, Reason.IMAGE_TOO_LARGE
PNG, JPEG, WEBP = (encode(picture(), name) for name in ("PNG", "JPEG", "WEBP"))
ZEROS = zlib.compress(b"\0" * 50_000_000, 1)
# What stands in the row's `image`: bytes, or something else for a row that is malformed itself.
PICTURES: dict[str, tuple[Any, Reason | None]] = {
    "none at all": (None, Reason.IMAGE_MISSING),
    "no bytes": ({"bytes": None, "path": "x.png"}, Reason.IMAGE_MISSING),
    "an empty struct": ({}, Reason.IMAGE_MISSING),
    "0 bytes": (b"", Reason.IMAGE_MISSING),
    "1 byte": (b"\x89", UNREADABLE),
    "text": (b"<html>no picture</html>", UNREADABLE),
    "zeros": (b"\0" * 4096, UNREADABLE),
    "too many bytes": (PNG + b"\0" * (64 * 1024 * 1024), TOO_LARGE),
    "a struct of other names": ({"data": PNG}, Reason.TASK_ERROR),
    "a number": (7, Reason.TASK_ERROR),
    "text for bytes": ({"bytes": "PNG", "path": None}, UNREADABLE),
    "PNG bomb": (_png(50_000, 50_000), TOO_LARGE),
    "PNG a little too large": (_png(5_001, 5_000), TOO_LARGE),
    "PNG of no width": (_png(0, 10), UNREADABLE),
    "PNG of an impossible depth": (_png(8, 8, depth=7), UNREADABLE),
    "PNG of less data than declared": (_png(500, 500), UNREADABLE),
    "PNG text bomb": (PNG[:33] + _chunk(b"zTXt", b"a\0\0" + ZEROS) + PNG[33:], UNREADABLE),
    "PNG profile bomb": (PNG[:33] + _chunk(b"iCCP", b"a\0\0" + ZEROS) + PNG[33:], UNREADABLE),
    "JPEG bomb": (_huge_jpeg(), TOO_LARGE),
    "APNG of 100000 frames": (_many_frames_png(), UNREADABLE),
    "WebP of 100000 frames": (_many_frames_webp(), UNREADABLE),
    "PNG cut in half": (PNG[: len(PNG) // 2], UNREADABLE),
    "JPEG cut in half": (JPEG[: len(JPEG) // 2], UNREADABLE),
    "WebP cut in half": (WEBP[: len(WEBP) // 2], UNREADABLE),
    "PNG header alone": (PNG[:33], UNREADABLE),
    "PNG with a wrong checksum": (PNG[:60] + b"\xff\xff" + PNG[62:], UNREADABLE),
    "GIF": (encode(picture(), "GIF"), UNREADABLE),
    "GIF of many frames": (
        encode(picture(), "GIF", save_all=True, append_images=[picture("L")] * 50),
        UNREADABLE,
    ),
    "BMP": (encode(picture(), "BMP"), UNREADABLE),
    "TIFF": (encode(picture(), "TIFF"), UNREADABLE),
    "EPS": (encode(picture(), "EPS"), UNREADABLE),
    "PDF": (encode(picture(), "PDF"), UNREADABLE),
    "ICO": (encode(picture(), "ICO"), UNREADABLE),
    "PPM": (encode(picture(), "PPM"), UNREADABLE),
    "JPEG 2000": (encode(picture(), "JPEG2000"), UNREADABLE),
    "AVIF": (encode(picture(), "AVIF"), UNREADABLE),
    "FITS": (b"SIMPLE  =                    T".ljust(2880) + b"\0" * 2880, UNREADABLE),
    "PSD": (b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 9, 9, 8, 3), UNREADABLE),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', UNREADABLE),
    "GIF that is a script": (b"GIF89a/*" + b"\0" * 64 + b"*/=1;alert(1)", UNREADABLE),
    "ZIP": (_zip(), UNREADABLE),
    # What can be made good: 8-bit RGB of one frame, and nothing else of the file.
    "PNG that is a ZIP as well": (PNG + _zip(), None),
    "JPEG that is a ZIP as well": (JPEG + _zip(), None),
    "grey": (encode(picture("L"), "PNG"), None),
    "black and white": (encode(picture("1"), "PNG"), None),
    "16 bits": (encode(picture("L").convert("I;16"), "PNG"), None),
    "48 bits": (_png(1, 1, _chunk(b"IDAT", zlib.compress(b"\0" * 7)), depth=16), None),
    "CMYK": (encode(picture("CMYK"), "JPEG"), None),
    "palette": (encode(picture("P"), "PNG"), None),
    "palette with alpha": (encode(picture("P"), "PNG", transparency=3), None),
    "grey with alpha": (encode(picture("LA"), "PNG"), None),
    "alpha": (encode(picture("RGBA"), "PNG"), None),
    "WebP with alpha": (encode(picture("RGBA"), "WEBP"), None),
    "1 x 1": (encode(picture(size=(1, 1)), "PNG"), None),
    "65500 x 1": (encode(picture(size=(65_500, 1)), "PNG"), None),
    "1 x 65500": (encode(picture(size=(1, 65_500)), "JPEG"), None),
    "progressive JPEG": (encode(picture(), "JPEG", progressive=True), None),
    "all black": (encode(Image.new("RGB", (9, 9)), "PNG"), None),
    "PNG with EXIF, ICC and notes": (_with_notes(), None),
    "JPEG with EXIF, ICC and a note": (
        encode(picture(), "JPEG", exif=_exif(), icc_profile=b"canary", comment=b"canary"),
        None,
    ),
    "WebP with EXIF, ICC and XMP": (
        encode(picture(), "WEBP", exif=_exif(), icc_profile=b"canary", xmp=b"canary"),
        None,
    ),
}

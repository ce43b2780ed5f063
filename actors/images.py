"""Pictures to bytes and back, safely: encoding, decoding with limits, and telling a broken
picture from a good one.

Decoding allows the three kinds of file that encoding writes, one frame, and a bounded number of
bytes and pixels, checked before a pixel is decompressed; metadata (EXIF, ICC, text chunks) is
dropped. Encoded bytes depend only on the pixels, the settings and the version of Pillow.
Limits: no sandbox: pictures from strangers are still decoded in this process. Transparency is
dropped, not blended.
"""

import hashlib
import io
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from actors.reasons import Reason, RowError


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """One way to encode."""

    pillow_name: str
    suffix: str
    bytes_per_pixel: float
    """Of photographs and SDXL renders at the default settings; flat pictures, such as the embedded
    world's, take a fifth of it and less."""
    max_effort: int
    is_lossless: bool = False


# By its name in the config. Their Pillow names are the allow-list for decoding as well.
FORMATS: Final[dict[str, ImageFormat]] = {
    "png": ImageFormat(
        pillow_name="PNG", suffix="png", bytes_per_pixel=1.6, max_effort=9, is_lossless=True
    ),
    "jpeg": ImageFormat(pillow_name="JPEG", suffix="jpg", bytes_per_pixel=0.35, max_effort=0),
    "webp": ImageFormat(pillow_name="WEBP", suffix="webp", bytes_per_pixel=0.25, max_effort=6),
    "webp_lossless": ImageFormat(
        pillow_name="WEBP", suffix="webp", bytes_per_pixel=1.4, max_effort=9, is_lossless=True
    ),
}
# (method, quality) of each effort: libwebp's own presets (WebPConfigLosslessPreset, cwebp -z).
WEBP_LOSSLESS: Final = (
    (0, 0), (1, 20), (2, 25), (3, 30), (3, 50), (4, 50), (4, 75), (4, 90), (5, 90), (6, 100),
)  # fmt: skip
MAX_PIXELS: Final = 25_000_000
MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """Encoded bytes with what the record says of them."""

    data: bytes
    sha256: str
    width: int
    height: int
    path: str  # a name with a fitting suffix, no place on a disk


def encode_image(
    image: Image.Image, image_format: str = "png", quality: int = 95, effort: int = 0
) -> EncodedImage:
    """Encodes without metadata.

    `quality` (1 to 100) counts for jpeg and webp only. More `effort` (0 to the format's
    `max_effort`) makes fewer bytes of the same pixels, of webp also other ones, in far more time.
    """
    chosen = FORMATS[image_format]
    options = _save_options(image_format, quality, effort)
    buffer = io.BytesIO()
    _without_metadata(image).save(buffer, chosen.pillow_name, **options)
    data = buffer.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    return EncodedImage(
        data=data,
        sha256=sha256,
        width=image.width,
        height=image.height,
        path=f"{sha256[:20]}.{chosen.suffix}",
    )


def _save_options(image_format: str, quality: int, effort: int) -> dict[str, Any]:
    match image_format:
        case "png" if effort == 0:
            # Runs of equal bytes only: what Pillow's row filters leave has little else to find.
            return {"compress_level": 1, "compress_type": zlib.Z_RLE}
        case "png":
            return {"compress_level": effort}
        case "jpeg":
            # Pillow halves the colour resolution unless told otherwise: thin strokes would bleed.
            return {"quality": quality, "subsampling": "4:4:4"}
        case "webp":
            return {"quality": quality, "method": effort}
        case _:
            method, search = WEBP_LOSSLESS[effort]
            return {"lossless": True, "method": method, "quality": search}


def estimate_image_bytes(width_px: int, height_px: int, image_format: str) -> int:
    """About how long `encode_image` will be, for planning: of a photograph, at default settings."""
    return round(width_px * height_px * FORMATS[image_format].bytes_per_pixel)


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """Decodes to RGB.

    Raises:
        RowError: bytes over a limit, a format that is not allowed, several frames, or damaged data.
    """
    if len(data) > max_bytes:
        raise RowError(
            Reason.IMAGE_TOO_LARGE, f"{len(data)} bytes: at most {max_bytes} are decoded"
        )
    try:
        allowed = [each.pillow_name for each in FORMATS.values()]
        with Image.open(io.BytesIO(data), formats=allowed) as image:
            # Only the header has been read so far.
            if image.width * image.height > max_pixels:
                message = (
                    f"{image.width} x {image.height} px: at most {max_pixels} pixels are decoded"
                )
                raise RowError(Reason.IMAGE_TOO_LARGE, message)
            if getattr(image, "n_frames", 1) != 1:
                raise RowError(Reason.IMAGE_UNREADABLE, "more than one frame: give a still picture")
            return _without_metadata(image)
    except RowError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowError(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        message = "no png, jpeg or webp picture, or its header is damaged"
        raise RowError(Reason.IMAGE_UNREADABLE, message) from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
    except Exception as error:
        raise RowError(Reason.IMAGE_UNREADABLE, f"{type(error).__name__}: {error}") from error


def image_from_floats(pixels: np.ndarray[Any, Any]) -> Image.Image:
    """Turns height x width x 3 floats in [0, 1] into a picture.

    Raises:
        RowError: a pixel is NaN or infinite; a cast to 8 bits would have hidden it as black.
    """
    num_bad = int(np.count_nonzero(~np.isfinite(pixels)))
    if num_bad:
        message = f"{num_bad} of {pixels.size} values are NaN or infinite: try another dtype"
        raise RowError(Reason.IMAGE_NOT_FINITE, message)
    return Image.fromarray((pixels.clip(0.0, 1.0) * 255.0).round().astype(np.uint8))


def check_image(image: object, width_px: int, height_px: int) -> Image.Image:
    """Returns the picture an engine drew if it is one that can be kept.

    Raises:
        RowError: no picture, wrong mode, wrong size, unreadable, or one colour all over.
    """
    if not isinstance(image, Image.Image):
        raise RowError(
            Reason.IMAGE_MISSING, f"the engine returned {type(image).__name__}, no image"
        )
    if image.mode != "RGB":
        raise RowError(Reason.IMAGE_WRONG_MODE, f"mode {image.mode!r}: must be 'RGB'")
    if image.size != (width_px, height_px):
        message = f"{image.width} x {image.height} px: {width_px} x {height_px} were asked for"
        raise RowError(Reason.IMAGE_WRONG_SIZE, message)
    try:
        extrema = image.getextrema()
    except Exception as error:  # a lazily opened file that ends too soon
        raise RowError(Reason.IMAGE_UNREADABLE, f"{type(error).__name__}: {error}") from error
    # No model draws one exact colour in every pixel: this is what a failed decode looks like.
    if all(isinstance(band, tuple) and band[0] == band[1] for band in extrema):
        raise RowError(Reason.IMAGE_BLANK, "every pixel has the same colour")
    return image


def _without_metadata(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would cut every grey of 16 bits at 255: a white picture.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    clean = image.convert("RGB")
    clean.info = {}  # Pillow would write an ICC profile found here into the new file
    return clean

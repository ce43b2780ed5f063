import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from actors.images import (
    FORMATS,
    WEBP_LOSSLESS,
    check_image,
    decode_image,
    encode_image,
    estimate_image_bytes,
    image_from_floats,
)
from actors.reasons import Reason, RowError


def _picture(width: int = 32, height: int = 16) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _reason(action: Callable[..., object], *args: object) -> Reason:
    with pytest.raises(RowError) as caught:
        action(*args)
    return caught.value.reason


LOSSLESS = {name: each for name, each in FORMATS.items() if each.is_lossless}


@pytest.mark.parametrize("image_format", LOSSLESS)
def test_lossless_formats_come_back_bit_for_bit_at_every_effort(image_format: str) -> None:
    lengths = []
    smooth = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)[..., None] // np.array([9, 17, 33])
    for image in (_picture(), Image.fromarray(smooth.astype(np.uint8))):
        for effort in range(LOSSLESS[image_format].max_effort + 1):
            encoded = encode_image(image, image_format, effort=effort)
            assert (encoded.width, encoded.height) == image.size
            assert encoded.path.endswith(f".{LOSSLESS[image_format].suffix}")
            assert decode_image(encoded.data).tobytes() == image.tobytes()
            lengths.append(len(encoded.data))
    assert lengths[-1] < lengths[-1 - LOSSLESS[image_format].max_effort], "more effort, fewer bytes"
    assert len(WEBP_LOSSLESS) == LOSSLESS["webp_lossless"].max_effort + 1


@given(st.data(), st.sampled_from(sorted(LOSSLESS)), st.integers(1, 9), st.integers(1, 9))
def test_lossless_formats_keep_any_picture(
    data: st.DataObject, image_format: str, width: int, height: int
) -> None:
    size = 3 * width * height
    image = Image.frombytes(
        "RGB", (width, height), data.draw(st.binary(min_size=size, max_size=size))
    )
    effort = data.draw(st.integers(0, FORMATS[image_format].max_effort))
    encoded = encode_image(image, image_format, effort=effort)
    assert decode_image(encoded.data).tobytes() == image.tobytes()


@pytest.mark.parametrize(("image_format", "suffix"), [("jpeg", ".jpg"), ("webp", ".webp")])
def test_lossy_formats_decode_and_repeat(image_format: str, suffix: str) -> None:
    first = encode_image(_picture(), image_format, 90)
    assert first.path.endswith(suffix)
    assert first == encode_image(_picture(), image_format, 90)
    assert decode_image(first.data).size == (32, 16)


def test_metadata_does_not_travel() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("secret", "canary")
    buffer = io.BytesIO()
    _picture().save(buffer, "PNG", pnginfo=notes, icc_profile=b"canary")
    image = decode_image(buffer.getvalue())
    assert image.info == {}
    assert b"canary" not in encode_image(image).data


def test_equal_pixels_give_equal_bytes_whatever_came_along() -> None:
    image = _picture()
    image.info["icc_profile"] = b"profile"
    assert encode_image(image).sha256 == encode_image(_picture()).sha256


def test_too_many_bytes_or_pixels_are_refused() -> None:
    data = encode_image(_picture()).data
    with pytest.raises(RowError, match="at most 10 are decoded"):
        decode_image(data, max_bytes=10)
    with pytest.raises(RowError, match="at most 511 pixels"):
        decode_image(data, max_pixels=511)


def test_a_decompression_bomb_is_told_from_its_header() -> None:
    data = bytearray(encode_image(_picture()).data)
    data[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    assert _reason(decode_image, bytes(data)) == Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("cut", [0, 1, 20, 60, 200])
def test_damaged_bytes_are_unreadable(cut: int) -> None:
    assert _reason(decode_image, encode_image(_picture()).data[:cut]) == Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("name", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(name: str) -> None:
    buffer = io.BytesIO()
    _picture().save(buffer, name)
    assert _reason(decode_image, buffer.getvalue()) == Reason.IMAGE_UNREADABLE


def test_animations_are_refused() -> None:
    buffer = io.BytesIO()
    _picture().save(buffer, "WEBP", save_all=True, append_images=[_picture().rotate(180)])
    assert _reason(decode_image, buffer.getvalue()) == Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_has_an_estimate_between_a_flat_picture_and_noise(image_format: str) -> None:
    flat = encode_image(Image.new("RGB", (256, 256), (9, 99, 200)), image_format)
    noise = encode_image(_picture(256, 256), image_format)
    estimate = estimate_image_bytes(256, 256, image_format)
    assert len(flat.data) < estimate < len(noise.data)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_found(bad: float) -> None:
    pixels = np.full((4, 4, 3), 0.5)
    pixels[1, 2, 0] = bad
    assert _reason(image_from_floats, pixels) == Reason.IMAGE_NOT_FINITE


def test_floats_become_bytes() -> None:
    image = image_from_floats(np.array([[[-1.0, 0.5, 2.0]]], dtype=np.float32))
    assert image.getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, Reason.IMAGE_MISSING),
        (b"bytes", Reason.IMAGE_MISSING),
        (Image.new("F", (32, 16), float("nan")), Reason.IMAGE_WRONG_MODE),
        (Image.new("RGBA", (32, 16)), Reason.IMAGE_WRONG_MODE),
        (_picture(33), Reason.IMAGE_WRONG_SIZE),
        (Image.new("RGB", (32, 16), (9, 9, 9)), Reason.IMAGE_BLANK),
    ],
)
def test_a_picture_that_cannot_be_kept_is_named(image: object, reason: Reason) -> None:
    assert _reason(check_image, image, 32, 16) == reason


def test_a_picture_that_ends_too_soon_is_found() -> None:
    lazy = Image.open(io.BytesIO(encode_image(_picture()).data[:200]))
    assert _reason(check_image, lazy, 32, 16) == Reason.IMAGE_UNREADABLE


def test_a_good_picture_is_returned_as_it_is() -> None:
    image = _picture()
    assert check_image(image, 32, 16) is image

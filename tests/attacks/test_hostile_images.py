"""Images made to crash, exhaust or mislead the decoder: a named error or the right answer."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images.decoding import ImageLimits, decode_image
from images.errors import ImageDecodeError, ImageTooLargeError

LIMITS = ImageLimits()
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>'
# Decodes the files in a folder with 1 GiB of address space: what is unpacked is a MemoryError.
CONFINED = """
import resource, sys
from pathlib import Path
from images.decoding import ImageLimits, decode_image
from images.errors import ImageDecodeError, ImageTooLargeError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_image(path.read_bytes(), ImageLimits())
    except ImageDecodeError as error:
        print(path.name)
"""


def _encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    return Image.fromarray(pixels)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png_claiming(width: int, height: int, body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(body)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _gif_claiming(width: int, height: int) -> bytes:
    data = bytearray(_encode(Image.new("P", (8, 8)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def _webp_claiming(width: int, height: int) -> bytes:
    """An animation whose canvas is far larger than its one frame."""
    picture = _encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    frame = bytes(6) + (7).to_bytes(3, "little") * 2 + bytes(4) + picture
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP"
    for kind, data in ((b"VP8X", b"\2\0\0\0" + canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)):
        body += kind + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png-2e9": _png_claiming(50_000, 40_000),
    "png-1e8": _png_claiming(10_000, 10_000),
    "png-largest": _png_claiming(2**31 - 1, 2**31 - 1),
    "png-long": _png_claiming(100_000, 1),
    "gif": _gif_claiming(65_535, 65_535),
    "webp": _webp_claiming(60_000, 60_000),
    "ppm": b"P6 60000 60000 255\n" + bytes(64),
    "bmp": b"BM"
    + struct.pack("<IHHI", 54, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
}


def test_decompression_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CONFINED, str(tmp_path)],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.decode().split() == sorted(BOMBS), done.stderr.decode()


def test_the_webp_canvas_is_well_formed() -> None:
    assert decode_image(_webp_claiming(32, 16), LIMITS).size == (32, 16)


def test_a_bomb_is_refused_with_its_pixels_and_our_limit() -> None:
    with pytest.raises(ImageTooLargeError) as refused:
        decode_image(BOMBS["png-2e9"], LIMITS)
    assert str(refused.value) == "image has 2000000000 pixels, limit 50000000"
    assert refused.value.limit == 50_000_000


def test_bombs_are_refused_without_pillows_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageDecodeError, match="limit 50000000"):
        decode_image(BOMBS["png-2e9"], LIMITS)


def test_compressed_text_bomb_in_png() -> None:
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9))
    data = bytearray(_encode(_photo(), "PNG"))
    data[33:33] = text
    with pytest.raises(ImageDecodeError):
        decode_image(bytes(data), LIMITS)


def test_jpeg_of_many_scans() -> None:
    data = _encode(Image.new("L", (64, 64)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data, LIMITS).size == (64, 64)
    with pytest.raises(ImageDecodeError, match="scans, limit 100"):
        decode_image(data[:-2] + scan * 20_000 + data[-2:], LIMITS)


def _tiff_of_one_tile(side: int) -> bytes:
    """A grey image of 16 x 16 in one deflated tile of side x side."""
    tile = zlib.compress(bytes(side * side), 9)
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 322: side, 323: side, 324: 8, 325: len(tile)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + fields + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory


def test_a_tiff_tile_larger_than_the_image() -> None:
    assert decode_image(_tiff_of_one_tile(64), LIMITS).size == (16, 16)
    with pytest.raises(ImageTooLargeError, match="a tile of the image is 8192 x 8192") as caught:
        decode_image(_tiff_of_one_tile(8192), LIMITS)
    assert (caught.value.field, caught.value.limit) == ("pixels", 50_000_000)


@pytest.mark.parametrize("magic", [b"P1", b"P2", b"P3"])
def test_numbers_as_text_are_refused_before_their_comments_are_read(magic: bytes) -> None:
    began_s = time.process_time()
    with pytest.raises(ImageDecodeError, match="numbers as text"):
        decode_image(magic + b"\n4 4\n255\n" + b"#\n" * 1_000_000, LIMITS)
    assert time.process_time() - began_s < 1


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_truncated(format_: str, kept: float) -> None:
    data = _encode(_photo(), format_)
    with pytest.raises(ImageDecodeError):
        decode_image(data[: int(len(data) * kept)], LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        SVG,
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"PK\x05\x06" + bytes(18),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\x04\0\0\0WEBP",
        b"II*\0\x08\0\0\0",
        b"P6 9 9",
        b"GIF89a" + SVG,
    ],
    ids=lambda data: data[:12].hex() or "empty",
)
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageDecodeError):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("format_", ["ICO", "JPEG2000", "PDF", "EPS", "DDS", "PCX", "TGA", "AVIF"])
def test_formats_outside_the_list(format_: str) -> None:
    image = Image.new("RGB", (16, 16), "red")
    with pytest.raises(ImageDecodeError, match="not one of JPEG, PNG"):
        decode_image(_encode(image, format_), LIMITS)


@pytest.mark.parametrize("tail", [b"PK\x03\x04 a zip", b"<script>alert(1)</script>", SVG])
@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP"])
def test_polyglots_are_the_image_they_begin_as(tail: bytes, format_: str) -> None:
    image = Image.new("RGB", (5, 4), (1, 2, 3))
    decoded = decode_image(_encode(image, format_) + tail, LIMITS)
    assert decoded.size == (5, 4)
    assert decoded.getpixel((2, 2)) == (1, 2, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0" + bytes(9), b"Exif\0\0II*\0\xff\xff\xff\x7f"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_upright(exif: bytes) -> None:
    assert decode_image(_encode(_photo(), "JPEG", exif=exif), LIMITS).size == (48, 64)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_unknown_orientation_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode_image(_encode(_photo(), "PNG", exif=exif), LIMITS).size == (48, 64)


def test_floating_point_pixels_are_refused() -> None:
    image = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    with pytest.raises(ImageDecodeError, match="floating-point"):
        decode_image(_encode(image, "TIFF"), LIMITS)


def test_grey_beyond_16_bits_is_refused() -> None:
    image = Image.fromarray(np.full((4, 4), 70_000, np.int32))
    with pytest.raises(ImageDecodeError, match="70000"):
        decode_image(_encode(image, "TIFF"), LIMITS)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds odd
def test_flipped_bytes_end_in_an_image_or_a_named_error(format_: str) -> None:
    rng = np.random.default_rng(1)
    original = np.frombuffer(_encode(_photo(), format_), np.uint8)
    for _ in range(150):
        data = original.copy()
        places = rng.integers(0, min(len(data), 400), rng.integers(1, 6))
        data[places] = rng.integers(0, 256, len(places))
        try:
            assert decode_image(data.tobytes(), LIMITS).mode == "RGB"
        except ImageDecodeError as error:
            assert str(error)  # noqa: PT017

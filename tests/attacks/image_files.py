"""Image files, from plain to hostile."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB", size: tuple[int, int] = (48, 36)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(kind: bytes, data: bytes) -> bytes:
    """A sound PNG with one more chunk after its header."""
    plain = encode(photo(), "PNG")
    return plain[:33] + chunk(kind, data) + plain[33:]


def jpeg_with(marker: int, data: bytes, count: int = 1) -> bytes:
    """A sound JPEG with more segments after its first two bytes."""
    plain = encode(photo(), "JPEG")
    segment = bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data
    return plain[:2] + segment * count + plain[2:]


def with_orientation(format_: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo(), format_, exif=exif)


def _animation(format_: str) -> bytes:
    frames = [photo(), photo().transpose(Image.Transpose.ROTATE_180)]
    return encode(frames[0], format_, save_all=True, append_images=frames[1:])


def _tall_profile() -> bytes:
    """A profile that claims to be 4 GB large."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[0:4] = struct.pack(">I", 2**32 - 1)
    return bytes(profile)


def _jpeg_with_scans(count: int) -> bytes:
    data = encode(Image.new("L", (64, 64)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + data[-2:]


def _png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _gif_with_large_frame() -> bytes:
    """A screen of 8 x 8 with a frame of 65,535 x 65,535 on it."""
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    at = data.index(b"\x2c", 13)
    data[at + 5 : at + 9] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def _tiff_with_huge_strip() -> bytes:
    """64 x 64 pixels, in one strip that claims 2 GB."""
    image = Image.new("RGB", (64, 64))
    data = bytearray(encode(image, "TIFF"))
    at = data.index(struct.pack("<HHI", 279, 4, 1))  # StripByteCounts
    data[at + 8 : at + 12] = struct.pack("<I", 2**31 - 1)
    return bytes(data)


def answered() -> dict[str, bytes]:
    """Odd, and an image all the same: what is too much in them is not read."""
    plain = encode(photo(), "PNG")
    grey16 = Image.fromarray(np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 37)
    palette = photo("P")
    palette.info["transparency"] = 3
    return {
        **{f"plain-{each}": encode(photo(), each) for each in FORMATS},
        **{f"one-pixel-{each}": encode(photo(size=(1, 1)), each) for each in FORMATS},
        **{f"exif-{n}": with_orientation("JPEG", n) for n in range(1, 9)},
        "grey": encode(photo("L"), "PNG"),
        "grey-16": encode(grey16, "PNG"),
        "grey-16-tiff": encode(grey16, "TIFF"),
        "bilevel": encode(photo("1"), "PNG"),
        "grey-alpha": encode(photo("LA"), "PNG"),
        "alpha": encode(photo("RGBA"), "WEBP"),
        "palette-transparent": encode(palette, "PNG", transparency=3),
        "cmyk": encode(photo("CMYK"), "JPEG"),
        "cmyk-tiff": encode(photo("CMYK"), "TIFF"),
        "progressive": encode(photo(), "JPEG", progressive=True),
        "gif-animated": _animation("GIF"),
        "webp-animated": _animation("WEBP"),
        "png-animated": _animation("PNG"),
        "polyglot-html": encode(photo(), "PNG") + b"<script>alert(1)</script>",
        "polyglot-zip": encode(photo(), "GIF") + b"PK\x03\x04",
        "giant-exif": jpeg_with(0xE1, b"Exif\0\0" + bytes(65_000), 30),
        "profile-lies": png_with(b"iCCP", b"x\0\0" + zlib.compress(_tall_profile())),
        "png-data-surplus": plain[:33]
        + chunk(b"IDAT", zlib.compress(bytes(100_000_000), 9))
        + plain[33:],
        "png-chunk-longer-than-file": plain[:33] + struct.pack(">I", 2**31 - 1) + plain[37:],
        "tiff-strip-lies": _tiff_with_huge_strip(),
        "jpeg-comments": jpeg_with(0xFE, bytes(65_000), 20),
    }


def refused() -> dict[str, tuple[int, bytes]]:
    """What is no image, or asks for too much, with the status that it is answered."""
    plain = encode(photo(), "PNG")
    text = PngImagePlugin.PngInfo()
    text.add_text("x", "y" * 30_000_000, zip=True)
    return {
        **{
            f"truncated-{each}": (415, encode(photo(), each)[: len(encode(photo(), each)) // 2])
            for each in FORMATS
        },
        "svg": (415, b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
        "avif": (415, encode(photo(), "AVIF")),
        "heic": (415, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)),
        "jpeg-2000": (415, encode(photo(), "JPEG2000")),
        "ico": (415, encode(photo(size=(32, 32)), "ICO")),
        "pdf": (415, encode(photo(), "PDF")),
        "eps": (415, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"),
        "polyglot-begins-as-zip": (415, b"PK\x03\x04" + plain),
        "noise": (415, np.random.default_rng(0).bytes(5000)),
        "png-bomb": (413, _png_claiming(50_000, 40_000)),
        "png-largest": (413, _png_claiming(2**31 - 1, 2**31 - 1)),
        "png-long": (413, _png_claiming(100_000, 1)),
        "gif-frame-bomb": (413, _gif_with_large_frame()),
        "ppm-bomb": (413, b"P6 60000 60000 255\n" + bytes(64)),
        "text-bomb": (415, encode(photo(), "PNG", pnginfo=text)),
        "profile-bomb": (415, png_with(b"iCCP", b"x\0\0" + zlib.compress(bytes(200_000_000), 9))),
        "scans": (415, _jpeg_with_scans(10_000)),
        "too-many-bytes": (413, encode(photo(), "BMP") + bytes(2_100_000)),
    }

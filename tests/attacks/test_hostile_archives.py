"""Archives made to write elsewhere, exhaust or mislead: refused, by name, in bounded memory."""

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from images.archive import ArchiveLimits, inspect_archive, iter_labelled_images
from images.decoding import ImageLimits
from images.errors import ArchiveError

LIMITS = ArchiveLimits()
MEBIBYTE = 1024**2
Entry = tuple[str, bytes]


def _png(number: int = 0) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


GOOD: list[Entry] = [("cat/a.png", _png(0)), ("dog/b.png", _png(1))]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def _zip(path: Path, entries: list[Entry]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def _tar(path: Path, entries: list[Entry]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _folder(path: Path, entries: list[Entry]) -> Path:
    for name, data in entries:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


PACKINGS = [_zip, _tar]


def _inspect(path: Path, limits: ArchiveLimits = LIMITS) -> None:
    inspect_archive(path, limits, ImageLimits())


@contextmanager
def _refused(match: str, peak_mebibytes: int = 64) -> Iterator[None]:
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=match):
            yield
        assert tracemalloc.get_traced_memory()[1] < peak_mebibytes * MEBIBYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("pack", PACKINGS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../cat/a.png", "leaves the archive"),
        ("cat/../../a.png", "leaves the archive"),
        ("cat/..", "leaves the archive"),
        ("/etc/cat/a.png", "absolute"),
        ("C:/cat/a.png", "absolute"),
        ("..\\cat\\a.png", "backslash"),
        ("cat/a\n.png", "control characters"),
        ("a.png", "expected class/image"),
        ("a/b/c/d.png", "expected class/image"),
        ("cat/" + "n" * 600, "limit 512"),
        ("n" * 300 + "/a.png", "class of 300 characters, limit 256"),
    ],
)
def test_names(
    tmp_path: Path, pack: Callable[[Path, list[Entry]], Path], name: str, reason: str
) -> None:
    with _refused(reason):
        _inspect(pack(tmp_path / "a", [(name, _png()), *GOOD]))
    with _refused(reason if "expected" not in reason else "expected"):
        _inspect(pack(tmp_path / "b", [*GOOD, (name, _png())]))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def test_zip_name_cut_at_nul(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a", [("cat/a.pngX../..", _png()), *GOOD])
    path.write_bytes(path.read_bytes().replace(b"pngX..", b"png\0.."))
    with _refused("control characters"):
        _inspect(path)


def test_tar_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a", GOOD)
    data = bytearray(path.read_bytes())
    data[0:1] = b"\xff"
    header = data[:148] + b" " * 8 + data[156:512]
    data[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(data))
    with _refused("not UTF-8"):
        _inspect(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", PACKINGS)
@pytest.mark.parametrize("again", ["cat/a.png", "./cat//a.png"])
def test_duplicate_names(
    tmp_path: Path, pack: Callable[[Path, list[Entry]], Path], again: str
) -> None:
    with _refused("occurs twice"):
        _inspect(pack(tmp_path / "a", [*GOOD, (again, _png(5))]))


@pytest.mark.parametrize("pack", PACKINGS)
@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([], "at least 2|not a zip"),
        (GOOD[:1], r"\['cat'\]: at least 2"),
        ([GOOD[0], ("cat/b.png", _png(3))], r"\['cat'\]: at least 2"),
        ([*GOOD, ("dog/notes.txt", b"hello")], "'dog/notes.txt': image cannot be decoded"),
        ([*GOOD, ("dog/c.svg", b"<svg/>")], "'dog/c.svg': image cannot be decoded"),
        ([*GOOD, ("dog/c.png", _png()[:-60])], "'dog/c.png': image cannot be decoded"),
        ([*GOOD, ("dog/c.png", b"")], "'dog/c.png': empty file"),
        ([*GOOD, ("dog/c.zip", b"PK\5\6" + bytes(18))], "'dog/c.zip'"),
    ],
)
def test_contents(
    tmp_path: Path,
    pack: Callable[[Path, list[Entry]], Path],
    entries: list[Entry],
    reason: str,
) -> None:
    with _refused(reason):
        _inspect(pack(tmp_path / "a", entries))


@pytest.mark.parametrize("pack", PACKINGS)
def test_a_file_above_the_limit_is_not_read(
    tmp_path: Path, pack: Callable[[Path, list[Entry]], Path]
) -> None:
    path = pack(tmp_path / "a", GOOD)
    size = path.stat().st_size
    with _refused(f"archive has {size} bytes, limit {size - 1}"):
        _inspect(path, ArchiveLimits(max_bytes=size - 1))


@pytest.mark.parametrize("pack", [*PACKINGS, _folder])
def test_what_just_fits_is_taken(tmp_path: Path, pack: Callable[[Path, list[Entry]], Path]) -> None:
    path = pack(tmp_path / "a", GOOD)
    sizes = [len(data) for _, data in GOOD]
    limits = ArchiveLimits(
        max_bytes=path.stat().st_size,
        max_entries=4 if pack is _folder else 2,  # the folders of the two classes too
        max_image_bytes=max(sizes),
        max_total_bytes=path.stat().st_size if pack is _tar else sum(sizes),
        max_total_pixels=2 * 8 * 8,
        max_classes=2,
        max_class_chars=len("cat"),
        max_name_chars=len("cat/a.png"),
    )
    _inspect(path, limits)


@pytest.mark.parametrize("pack", [*PACKINGS, _folder])
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ArchiveLimits(max_entries=1), "more than 1 entries"),
        (ArchiveLimits(max_image_bytes=100), "more than 100 bytes for one image"),
        (ArchiveLimits(max_total_bytes=300), "more than 300 bytes unpacked"),
        (ArchiveLimits(max_classes=1), "more than 1 classes"),
    ],
)
def test_limits_are_named(
    tmp_path: Path,
    pack: Callable[[Path, list[Entry]], Path],
    limits: ArchiveLimits,
    reason: str,
) -> None:
    with _refused(reason):
        _inspect(pack(tmp_path / "a", GOOD), limits)


# --- zip ---


@pytest.mark.parametrize("target", ["/etc/passwd", "a.png"])
def test_zip_symbolic_link(tmp_path: Path, target: str) -> None:
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("cat/a.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, target)
    with _refused("symbolic link"):
        _inspect(path)


def test_zip_device(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w") as archive:
        device = zipfile.ZipInfo("cat/a.png")
        device.external_attr = (stat.S_IFCHR | 0o777) << 16
        archive.writestr(device, b"")
    with _refused("neither a file nor a folder"):
        _inspect(path)


def test_zip_bomb_in_one_entry(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/a.png", bytes(100 * MEBIBYTE))
    assert path.stat().st_size < MEBIBYTE
    with _refused("'cat/a.png': more than 20000000 bytes for one image"):
        _inspect(path)


def test_zip_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/a.png", bytes(100 * MEBIBYTE))
    honest = struct.pack("<I", 100 * MEBIBYTE)
    path.write_bytes(path.read_bytes().replace(honest, struct.pack("<I", 1000)))
    with _refused("zip archive cannot be read: Bad CRC"):
        _inspect(path)


def test_zip_bomb_of_entries_that_share_their_data(tmp_path: Path) -> None:
    # As in D. Fifield, "A better zip bomb": many directory entries, one piece of data.
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/a.png", bytes(5 * MEBIBYTE))
        shared = archive.infolist()[0]
        archive.filelist.extend([shared] * 500)
    limits = ArchiveLimits(max_total_bytes=20 * MEBIBYTE)
    with _refused("occurs twice|unpacked|cannot be read"):
        list(iter_labelled_images(path, limits))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_that_expand_without_a_bound(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("cat/a.png", bytes(50 * MEBIBYTE))
    with _refused(f"compression method {method}"):
        _inspect(path)


def test_zip_of_a_million_entries(tmp_path: Path) -> None:
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0
    )
    directory = b"".join(entry + b"c/%03d" % (number % 1000) for number in range(1_000_000))
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65_535, 65_535, len(directory), 0, 0)
    (tmp_path / "a").write_bytes(b"PK\3\4" + bytes(26) + directory + end)
    with _refused("more than 200000 entries", peak_mebibytes=120):
        _inspect(tmp_path / "a")


def test_zip_directory_longer_than_its_limit(tmp_path: Path) -> None:
    size = 110_000_000
    with (tmp_path / "a").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(size)
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    with _refused("zip directory of 110000000 bytes, limit 102400000"):
        _inspect(tmp_path / "a")


def test_zip_encrypted(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a", GOOD)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\1\2") + 8
    data[place] |= 1
    path.write_bytes(bytes(data))
    with _refused("encrypted"):
        _inspect(path)


def test_zip_with_another_name_beside_the_data(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a", GOOD)
    path.write_bytes(path.read_bytes().replace(b"cat/a.png", b"pig/a.png", 1))
    with _refused("cannot be read"):
        _inspect(path)


# --- tar ---


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
@pytest.mark.parametrize("name", ["cat/a.png", "cat/.hidden"])
def test_tar_links_and_devices(tmp_path: Path, kind: bytes, name: str) -> None:
    with tarfile.open(tmp_path / "a", "w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = "/etc/passwd"
        archive.addfile(info)
    with _refused("a link or not a plain file|cannot be read"):
        _inspect(tmp_path / "a")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_tar_bomb(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    plain = _tar(tmp_path / "plain", [("cat/a.png", bytes(64 * MEBIBYTE))])
    path = tmp_path / "a"
    path.write_bytes(compress(plain.read_bytes()))
    plain.unlink()
    assert path.stat().st_size < MEBIBYTE
    with _refused("more than 20000000 bytes for one image"):
        _inspect(path)
    hidden = ArchiveLimits(max_image_bytes=100 * MEBIBYTE, max_total_bytes=MEBIBYTE)
    # One buffer for the largest image that is allowed, nothing in it.
    with _refused("more than 1048576 bytes unpacked", peak_mebibytes=100):
        _inspect(path, hidden)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_tar_header_bomb(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type = kind
    info.size = 300 * MEBIBYTE
    with gzip.open(tmp_path / "a", "wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(300):
            file.write(bytes(MEBIBYTE))
    with _refused("header larger than 65536 bytes"):
        _inspect(tmp_path / "a")


def test_tar_chain_of_headers(tmp_path: Path) -> None:
    record = b"11 aaaa=bb\n"
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = len(record)
    link = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    (tmp_path / "a").write_bytes(link * 5000)
    with _refused("header larger|recursion"):
        _inspect(tmp_path / "a")


def test_tar_of_many_entries(tmp_path: Path) -> None:
    info = tarfile.TarInfo("c")
    info.type = tarfile.DIRTYPE
    with gzip.open(tmp_path / "a", "wb", 1) as file:
        for _ in range(12):
            file.write(info.tobuf(tarfile.USTAR_FORMAT) * 1000)
    with _refused("more than 10000 entries", peak_mebibytes=2):
        _inspect(tmp_path / "a", ArchiveLimits(max_entries=10_000))


def test_tar_member_of_negative_size(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a", GOOD)
    data = bytearray(path.read_bytes())
    data[124:136] = b"\xff" * 10 + b"\xfc\x00"  # base 256: minus 1,024
    header = data[:148] + b" " * 8 + data[156:512]
    data[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(data))
    with _refused("."):
        _inspect(path)


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_tar_truncated(tmp_path: Path, kept: float, compress: Callable[[bytes], bytes]) -> None:
    entries = [(f"{label}/{number}.png", _png(number)) for label in "ab" for number in range(40)]
    data = compress(_tar(tmp_path / "a", entries).read_bytes().rstrip(b"\0"))
    (tmp_path / "a").write_bytes(data[: int(len(data) * kept)])
    with _refused("."):
        _inspect(tmp_path / "a")


def test_tar_without_its_end(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a", GOOD)
    # Exactly the two entries: header and one block of data each.
    path.write_bytes(path.read_bytes()[: 2 * 1024])
    with _refused("without an end marker"):
        _inspect(path)


def test_tar_with_a_damaged_header_inside(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a", [*GOOD, ("dog/c.png", _png(3))])
    data = bytearray(path.read_bytes())
    data[2 * 1024] ^= 1
    path.write_bytes(bytes(data))
    with _refused("damaged near byte"):
        _inspect(path)


def test_xz_that_asks_for_gigabytes_of_memory(tmp_path: Path) -> None:
    plain = _tar(tmp_path / "a", GOOD).read_bytes()
    data = bytearray(lzma.compress(plain))
    # The block header holds the dictionary's size in one byte: 40 means 4 GiB.
    place = data.index(b"\x21\x01", 12) + 2
    data[place] = 40
    size = (data[12] + 1) * 4
    data[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(bytes(data[12 : 12 + size - 4])))
    (tmp_path / "a").write_bytes(bytes(data))
    with _refused("tar archive cannot be read: Memory usage limit"):
        _inspect(tmp_path / "a")


# --- folder ---


@pytest.mark.parametrize("name", ["cat/a.png", "cat/.hidden", "pig"])
def test_folder_with_a_link(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "task"
    for entry, data in GOOD:
        (folder / entry).parent.mkdir(parents=True, exist_ok=True)
        (folder / entry).write_bytes(data)
    (tmp_path / "secret").mkdir()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with _refused("a link or not a plain file"):
        _inspect(folder)


def test_folder_with_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / "a.png")
    with _refused("a link or not a plain file"):
        _inspect(tmp_path)


def test_folder_too_deep(tmp_path: Path) -> None:
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    with _refused("'a/b/c': folder too deep"):
        _inspect(tmp_path)


# --- parquet ---


def _parquet(path: Path, columns: dict[str, pa.Array], huggingface: object = None) -> Path:
    table = pa.table(columns)
    if huggingface is not None:
        text = huggingface if isinstance(huggingface, bytes) else json.dumps(huggingface)
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path, compression="zstd")
    return path


def _features(label: object) -> object:
    return {"info": {"features": {"label": label}}}


IMAGES = pa.array([{"bytes": _png(0)}, {"bytes": _png(1)}])
LABELS = pa.array([0, 1])
NULL_BYTES = pa.array([{"bytes": None, "path": "/etc/passwd"}, {"bytes": _png(1), "path": ""}])
NULL_ROW = pa.array([{"bytes": _png(1)}, None])


@pytest.mark.parametrize(
    ("columns", "huggingface", "reason"),
    [
        ({"image": IMAGES}, None, "exactly one 'label'"),
        ({"label": LABELS}, None, "exactly one 'image'"),
        ({"image": LABELS, "label": LABELS}, None, "column 'image' is int64"),
        ({"image": pa.array(["a", "b"]), "label": LABELS}, None, "column 'image' is string"),
        ({"image": IMAGES, "label": pa.array([0.5, 1.0])}, None, "column 'label' is double"),
        ({"image": IMAGES, "label": IMAGES}, None, "column 'label' is struct"),
        ({"image": NULL_BYTES, "label": LABELS}, None, "row 0: no image bytes"),
        ({"image": NULL_ROW, "label": LABELS}, None, "row 1: (no image|empty)"),
        ({"image": IMAGES, "label": pa.array([0, None])}, None, "row 1: no label"),
        ({"image": IMAGES, "label": pa.array(["", "a"])}, None, "row 0: label ''"),
        ({"image": IMAGES, "label": pa.array(["a\n", "b"])}, None, "row 0: label"),
        (
            {"image": IMAGES, "label": pa.array(["a" * 600, "b"])},
            None,
            "row 0: class of 600 characters, limit 256",
        ),
        ({"image": IMAGES, "label": pa.array([0, -1])}, _features({"names": ["a"]}), "label -1"),
        ({"image": IMAGES, "label": LABELS}, _features({"names": ["a"]}), "label 1 is not"),
        ({"image": IMAGES, "label": LABELS}, _features({"names": [1, 2]}), "list of strings"),
        ({"image": IMAGES, "label": LABELS}, _features({"names": ["a", "a"]}), "repeat"),
        ({"image": IMAGES, "label": LABELS}, _features([]), "does not describe"),
        ({"image": IMAGES, "label": LABELS}, {"info": {}}, "does not describe"),
        ({"image": IMAGES, "label": LABELS}, b"{", "does not describe"),
        ({"image": IMAGES, "label": LABELS}, b"[" * 100_000, "does not describe"),
        ({"image": pa.array([b"x", b"y"]), "label": LABELS}, None, "row 0': image cannot be"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, None, "at least 2"),
        ({"image": IMAGES[:1], "label": LABELS[:1]}, None, r"\['0'\]: at least 2"),
    ],
)
def test_parquet_contents(
    tmp_path: Path, columns: dict[str, pa.Array], huggingface: object, reason: str
) -> None:
    with _refused(reason):
        _inspect(_parquet(tmp_path / "a", columns, huggingface))


def test_parquet_bomb(tmp_path: Path) -> None:
    one = pa.array([bytes(10_000_000)], pa.binary())
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), one)
    path = _parquet(tmp_path / "a", {"image": rows, "label": pa.array(["a"] * 4000)})
    assert path.stat().st_size < 10_000
    limits = ArchiveLimits(max_total_bytes=50_000_000)
    with _refused("'row 5'.*|more than 50000000 bytes unpacked|dictionary"):
        list(iter_labelled_images(path, limits))


def test_parquet_page_that_exceeds_the_memory_of_its_reader(tmp_path: Path) -> None:
    values = pa.array([bytes(150_000_000)] * 3, pa.binary())
    path = _parquet(tmp_path / "a", {"image": values, "label": pa.array(["a"] * 3)})
    assert path.stat().st_size < 100_000
    with _refused("parquet file cannot be read: .*(failed|memory)"):
        _inspect(path, ArchiveLimits(max_reader_memory_bytes=600_000_000))


def test_parquet_limits_are_named(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "a", {"image": IMAGES, "label": LABELS})
    with _refused("2 rows, limit 1"):
        _inspect(path, ArchiveLimits(max_entries=1))
    with _refused("bytes for one image"):
        _inspect(path, ArchiveLimits(max_image_bytes=50))
    with _refused("more than 1 classes"):
        _inspect(path, ArchiveLimits(max_classes=1))
    with _refused("bytes unpacked"):
        _inspect(path, ArchiveLimits(max_total_bytes=50))


def test_parquet_with_flipped_bytes(tmp_path: Path) -> None:
    original = _parquet(tmp_path / "a", {"image": IMAGES, "label": LABELS}).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(8):
        data = np.frombuffer(original, np.uint8).copy()
        places = rng.integers(4, len(data) - 8, 30)
        data[places] = rng.integers(0, 256, len(places))
        (tmp_path / "a").write_bytes(data.tobytes())
        with _refused("."):
            _inspect(tmp_path / "a")


# --- neither ---


@pytest.mark.parametrize(
    "data",
    [b"", b"P", b"PK\3\4", b"PAR1", b"PAR1PAR1", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"Rar!\x1a"],
)
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    for tail in (b"", bytes(600), os.urandom(600)):
        (tmp_path / "a").write_bytes(data + tail)
        with _refused("."):
            _inspect(tmp_path / "a")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds odd
@pytest.mark.parametrize("pack", PACKINGS)
def test_flipped_bytes_end_in_a_summary_or_a_named_error(
    tmp_path: Path, pack: Callable[[Path, list[Entry]], Path]
) -> None:
    original = np.frombuffer(pack(tmp_path / "a", GOOD).read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = original.copy()
        places = rng.integers(0, len(data), rng.integers(1, 8))
        data[places] = rng.integers(0, 256, len(places))
        (tmp_path / "a").write_bytes(data.tobytes())
        try:
            _inspect(tmp_path / "a")
        except ArchiveError as error:
            assert str(error)  # noqa: PT017

import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from images.archive import (
    ArchiveLimits,
    ArchiveSummary,
    LabelledImage,
    inspect_archive,
    iter_labelled_images,
)
from images.decoding import ImageLimits
from images.errors import ArchiveError, InspectionStoppedError

LIMITS = ArchiveLimits()
Png = Callable[[int], bytes]
Entries = dict[str, bytes]


@pytest.fixture
def entries(png: Png) -> Entries:
    """Three cats and one dog, out of order."""
    names = ["dog/b.png", "cat/a.png", "cat/c.png", "cat/b.png"]
    return {name: png(number) for number, name in enumerate(names)}


def _zip(path: Path, entries: Entries, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _tar(path: Path, entries: Entries, mode: str = "w", format_: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=format_) as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _folder(path: Path, entries: Entries) -> Path:
    for name, data in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def _parquet(path: Path, images: pa.Array, labels: pa.Array, names: list[str] | None) -> Path:
    table = pa.table({"image": images, "label": labels, "other": pa.nulls(len(images))})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    pq.write_table(table, path)
    return path


def _structs(data: list[bytes]) -> pa.Array:
    return pa.array([{"bytes": each, "path": "same.png"} for each in data])


@pytest.mark.parametrize("root", ["", "pets/", "./", "./pets/"])
@pytest.mark.parametrize("pack", [_zip, _tar, _folder])
def test_every_packing_gives_the_same_images(
    tmp_path: Path, entries: Entries, root: str, pack: Callable[[Path, Entries], Path]
) -> None:
    path = pack(tmp_path / "a", {root + name: data for name, data in entries.items()})
    found = {(image.label, image.data) for image in iter_labelled_images(path, LIMITS)}
    assert found == {(name.split("/")[0], data) for name, data in entries.items()}
    summary = inspect_archive(path, LIMITS, ImageLimits())
    assert summary == ArchiveSummary(pack.__name__[1:], ("cat", "dog"), (3, 1))


def test_the_pixels_of_all_images_are_counted(tmp_path: Path, entries: Entries) -> None:
    path = _zip(tmp_path / "a", entries)
    enough = replace(LIMITS, max_total_pixels=4 * 8 * 8)
    assert inspect_archive(path, enough, ImageLimits()).counts == (3, 1)
    with pytest.raises(ArchiveError, match="more than 255 pixels in all its images"):
        inspect_archive(path, replace(LIMITS, max_total_pixels=255), ImageLimits())


def test_an_inspection_stops_between_images(tmp_path: Path, entries: Entries) -> None:
    answers = iter([False, False, True])
    with pytest.raises(InspectionStoppedError, match="after 2 images"):
        inspect_archive(_zip(tmp_path / "a", entries), LIMITS, ImageLimits(), lambda: next(answers))


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tar(tmp_path: Path, entries: Entries, mode: str) -> None:
    assert inspect_archive(_tar(tmp_path / "a", entries, mode), LIMITS, ImageLimits()).counts == (
        3,
        1,
    )


def test_xz_of_several_streams(tmp_path: Path, entries: Entries) -> None:
    plain = _tar(tmp_path / "a", entries).read_bytes()
    streams = [lzma.compress(part) for part in (plain[:700], plain[700:1500], plain[1500:])]
    (tmp_path / "b").write_bytes(b"\0\0\0\0".join(streams) + bytes(8))
    assert inspect_archive(tmp_path / "b", LIMITS, ImageLimits()).counts == (3, 1)


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_with_long_names(tmp_path: Path, png: Png, format_: int) -> None:
    long = "n" * 90
    entries = {f"{long}/{long}.png": png(0), "b/ü.png": png(1)}
    path = _tar(tmp_path / "a", entries, "w", format_)
    assert inspect_archive(path, LIMITS, ImageLimits()).classes == ("b", long)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_methods_and_folder_entries(tmp_path: Path, entries: Entries, method: int) -> None:
    path = _zip(tmp_path / "a", {"cat/": b"", "empty/": b"", **entries}, method)
    assert inspect_archive(path, LIMITS, ImageLimits()).classes == ("cat", "dog")


@pytest.mark.parametrize("pack", [_zip, _tar, _folder])
def test_what_systems_leave_behind_is_ignored(
    tmp_path: Path, entries: Entries, pack: Callable[[Path, Entries], Path]
) -> None:
    junk = [".DS_Store", "cat/._a.png", "__MACOSX/cat/._a.png", "cat/Thumbs.db", ".git/a/b/c/d"]
    junk += ["cat/desktop.ini"]
    path = pack(tmp_path / "a", {**dict.fromkeys(junk, b"junk"), **entries})
    assert inspect_archive(path, LIMITS, ImageLimits()).counts == (3, 1)


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_the_archives_order_is_kept(
    tmp_path: Path, entries: Entries, pack: Callable[[Path, Entries], Path]
) -> None:
    path = pack(tmp_path / "a", entries)
    assert [image.name for image in iter_labelled_images(path, LIMITS)] == list(entries)


def test_parquet_with_class_label_names(tmp_path: Path, png: Png) -> None:
    # "cat" is declared and never used; the classes are those that have images, sorted.
    labels, names = pa.array([2, 0, 2], pa.int64()), ["zebra", "cat", "ant"]
    path = _parquet(tmp_path / "a", _structs([png(0), png(1), png(2)]), labels, names)
    assert list(iter_labelled_images(path, LIMITS))[1] == LabelledImage("row 1", "zebra", png(1))
    summary = inspect_archive(path, LIMITS, ImageLimits())
    assert summary == ArchiveSummary("parquet", ("ant", "zebra"), (2, 1))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array(["b", "a"]), ["b", "a"]),
        (pa.array(["b", "a"], pa.large_string()), ["b", "a"]),
        (pa.array([7, 5], pa.uint8()), ["7", "5"]),
    ],
)
@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary"])
def test_parquet_kinds(
    tmp_path: Path, png: Png, labels: pa.Array, expected: list[str], kind: str
) -> None:
    data = [png(0), png(1)]
    images = _structs(data) if kind == "struct" else pa.array(data, getattr(pa, kind)())
    path = _parquet(tmp_path / "a", images, labels, None)
    found = [(image.label, image.data) for image in iter_labelled_images(path, LIMITS)]
    assert found == list(zip(expected, data, strict=True))


def test_leaving_a_parquet_file_early_ends_its_reader(tmp_path: Path, png: Png) -> None:
    path = _parquet(tmp_path / "a", _structs([png(0)] * 9), pa.array(["a"] * 9), None)
    images = iter_labelled_images(path, LIMITS)
    assert next(images).label == "a"
    images.close()
    with pytest.raises(StopIteration):
        next(images)


def test_a_layout_that_changes_is_refused(tmp_path: Path, png: Png) -> None:
    path = _zip(tmp_path / "a", {"cat/a.png": png(0), "pets/dog/b.png": png(1)})
    with pytest.raises(ArchiveError, match=r"'pets/dog/b.png': expected class/image"):
        inspect_archive(path, LIMITS, ImageLimits())


def test_accents_spelled_two_ways_are_one_class(tmp_path: Path, png: Png) -> None:
    path = _zip(tmp_path / "a", {"caf\u00e9/a.png": png(0), "cafe\u0301/b.png": png(1)})
    with pytest.raises(ArchiveError, match=r"\['café'\]: at least 2"):
        inspect_archive(path, LIMITS, ImageLimits())


def test_an_image_over_the_image_limits_is_named(tmp_path: Path, entries: Entries) -> None:
    path = _zip(tmp_path / "a", entries)
    with pytest.raises(ArchiveError, match=r"'dog/b.png': image is 8 x 8 = 64 pixels, limit 63"):
        inspect_archive(path, LIMITS, ImageLimits(max_pixels=63))

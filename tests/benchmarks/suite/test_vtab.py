import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.info import LoadedBackbone
from benchmarks.suite.__main__ import main
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.results_folder import ResultsFolder
from benchmarks.suite.subsets import draw_test_rows
from benchmarks.suite.target_tasks import without_crop
from benchmarks.suite.vtab import VtabTasks, write_pool_archive
from images.preprocessing import Preprocessing, preprocess
from worker.task_images import load_task_images

SIZE = (48, 32)


@pytest.fixture
def preprocessing(backbone: LoadedBackbone) -> Preprocessing:
    return without_crop(backbone.info.preprocessing)


@pytest.fixture
def vtab(tmp_path: Path) -> Path:
    """Two data sets of three classes, 8 training, 4 validation and 9 test images."""
    rng = np.random.default_rng(0)
    for name in ("dtd", "svhn"):
        root = tmp_path / "vtab-1k" / name
        lists = {"train800": 8, "val200": 4, "test": 9}
        for split, count in lists.items():
            (root / "images" / split).mkdir(parents=True)
            lines: list[str] = []
            for number in range(count):
                path = f"images/{split}/{number:06d}.jpg"
                array = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
                Image.fromarray(array).save(root / path)
                lines.append(f"{path} {number % 3}")
            (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
        both = (root / "train800.txt").read_text() + (root / "val200.txt").read_text()
        (root / "train800val200.txt").write_text(both)
    (tmp_path / "vtab-1k" / "notes").mkdir()
    return tmp_path / "vtab-1k"


def test_a_data_set_is_read_as_its_lists_say(vtab: Path, preprocessing: Preprocessing) -> None:
    tasks = VtabTasks(vtab)
    assert tasks.names() == ["dtd", "svhn"]
    task = tasks.load("dtd", preprocessing, None)
    assert task.pool.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2, 0]
    assert task.test.labels.tolist() == [0, 1, 2] * 3
    assert task.pool.classes == task.test.classes == ("0", "1", "2")
    image = Image.open(vtab / "dtd" / "images" / "test" / "000004.jpg")
    assert np.array_equal(task.test.pixels[4].numpy(), preprocess(image, preprocessing))


def test_the_drawn_test_images_keep_their_labels(vtab: Path, preprocessing: Preprocessing) -> None:
    every, some = (VtabTasks(vtab).load("dtd", preprocessing, most).test for most in (None, 4))
    rows = draw_test_rows(9, 4)
    assert rows.tolist() != [0, 1, 2, 3]
    assert torch.equal(some.pixels, every.pixels[rows])
    assert torch.equal(some.labels, every.labels[rows])


def test_a_class_without_training_images_is_one_too(
    vtab: Path, preprocessing: Preprocessing
) -> None:
    path = vtab / "dtd" / "test.txt"
    path.write_text(path.read_text().replace("000008.jpg 2", "000008.jpg 3"))
    task = VtabTasks(vtab).load("dtd", preprocessing, None)
    assert task.pool.classes == task.test.classes == ("0", "1", "2", "3")


def test_images_are_squashed_and_not_cropped(preprocessing: Preprocessing) -> None:
    # Red at the left and right ends, which a centre crop would cut off.
    image = Image.new("RGB", (96, 32))
    image.paste((255, 0, 0), (0, 0, 16, 32))
    image.paste((255, 0, 0), (80, 0, 96, 32))
    pixels = preprocess(image, preprocessing)
    assert pixels.shape == (3, 32, 32)
    assert pixels[0, :, [1, 30]].min() > 200


def test_the_two_lists_stand_for_the_joint_one(vtab: Path, preprocessing: Preprocessing) -> None:
    joint = VtabTasks(vtab).load("dtd", preprocessing, 4)
    (vtab / "dtd" / "train800val200.txt").unlink()
    apart = VtabTasks(vtab).load("dtd", preprocessing, 4)
    assert apart.digest == joint.digest
    assert len(apart.test.labels) == 4
    (vtab / "dtd" / "val200.txt").unlink()
    assert VtabTasks(vtab).names() == ["svhn"]
    with pytest.raises(SuiteError, match=r"dtd has neither train800val200\.txt nor train800"):
        VtabTasks(vtab).load("dtd", preprocessing, 4)


def test_the_digest_covers_what_the_images_show(vtab: Path, preprocessing: Preprocessing) -> None:
    """Of the pool, and of test images whether they are drawn or not."""
    digests = [VtabTasks(vtab).load("dtd", preprocessing, 4).digest]
    assert VtabTasks(vtab).load("dtd", preprocessing, 4).digest == digests[0]
    halves = ["train800/000000", "val200/000003", *(f"test/{row:06d}" for row in range(9))]
    for half in halves:
        path = vtab / "dtd" / "images" / f"{half}.jpg"
        Image.new("RGB", SIZE, (255, 0, 0)).save(path)
        digests.append(VtabTasks(vtab).load("dtd", preprocessing, 4).digest)
    assert len(set(digests)) == 1 + len(halves)


def test_the_digest_covers_the_labels_and_where_the_pool_ends(
    vtab: Path, preprocessing: Preprocessing
) -> None:
    pool, test = (vtab / "dtd" / name for name in ("train800val200.txt", "test.txt"))
    digests = [VtabTasks(vtab).load("dtd", preprocessing, 4).digest]
    *lines, last = pool.read_text().splitlines(keepends=True)
    pool.write_text("".join(lines))
    test.write_text(last + test.read_text())
    digests.append(VtabTasks(vtab).load("dtd", preprocessing, 4).digest)
    test.write_text(last.replace(" 0", " 1") + test.read_text().removeprefix(last))
    digests.append(VtabTasks(vtab).load("dtd", preprocessing, 4).digest)
    assert len(set(digests)) == 3


def test_changed_images_are_not_mixed_into_old_results(
    vtab: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--vtab", str(vtab), "--prompts", str(prompts), "--out", str(tmp_path / "results")]
    part = ["--target", "dtd", "--method", "none", "--shots", "full", "--tuning-epochs", "0"]
    assert main(["run", *arguments, *part, "--seed", "0"]) == 0
    Image.new("RGB", SIZE, (255, 0, 0)).save(vtab / "dtd" / "images" / "test" / "000000.jpg")
    assert main(["run", *arguments, *part, "--seed", "1"]) != 0
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("images/test/000000.jpg", "line 1: .* is not `relative/path label`"),
        ("images/test/000000.jpg x", "line 1: .* is not `relative/path label`"),
        (" 1", "line 1: .* is not `relative/path label`"),
        ("images/test/absent.jpg 1", r"absent\.jpg cannot be read"),
        ("test.txt 1", r"test\.txt: image cannot be decoded"),
        ("", r"test\.txt lists no images"),
    ],
)
def test_what_is_wrong_is_named(
    vtab: Path, preprocessing: Preprocessing, line: str, error: str
) -> None:
    (vtab / "dtd" / "test.txt").write_text(line)
    with pytest.raises(SuiteError, match=error):
        VtabTasks(vtab).load("dtd", preprocessing, None)


def test_the_command_runs_on_vtab(vtab: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    arguments = ["--vtab", str(vtab), "--prompts", str(prompts), "--out", str(out)]
    part = ["--method", "none", "mean", "--sources", "3", "--shots", "full", "--seed", "0"]
    assert main(["run", *arguments, *part, "--tuning-epochs", "0", "--max-test-images", "6"]) == 0
    records = ResultsFolder(out).cells().values()
    assert {(r.cell.target, r.cell.variant) for r in records} == {
        (target, variant) for target in ("dtd", "svhn") for variant in ("none", "mean")
    }
    assert {(r.num_images, r.num_test, r.num_classes) for r in records} == {(12, 6, 3)}


def test_a_pool_becomes_an_archive_that_train_prompt_reads(
    vtab: Path, tmp_path: Path, preprocessing: Preprocessing
) -> None:
    path = tmp_path / "out" / "svhn" / "pool.zip"
    assert write_pool_archive(vtab / "svhn", path) == 12
    images = load_task_images(path, preprocessing)
    assert images.classes == ("0", "1", "2")
    assert images.labels.bincount().tolist() == [5, 4, 3]
    with zipfile.ZipFile(path) as archive:
        first = archive.read("0/00000.jpg")
    assert first == (vtab / "svhn" / "images" / "train800" / "000000.jpg").read_bytes()


def test_classes_of_an_archive_are_in_the_order_of_their_numbers(
    vtab: Path, tmp_path: Path, preprocessing: Preprocessing
) -> None:
    pool = vtab / "svhn" / "train800val200.txt"
    pool.write_text(pool.read_text().replace(".jpg 1", ".jpg 10"))
    write_pool_archive(vtab / "svhn", tmp_path / "pool.zip")
    images = load_task_images(tmp_path / "pool.zip", preprocessing)
    assert images.classes == ("00", "02", "10")
    assert images.labels.bincount().tolist() == [5, 3, 4]

import zipfile
from pathlib import Path

import pytest

from client.errors import ClientError
from client.examples import (
    DEMO_SOURCES,
    DEMO_TASK,
    example_task,
    find_examples,
    held_out_images,
    source_prompts,
)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    (folder / "prompts").mkdir(parents=True)
    for name in ("animals", "digits", "fashion"):
        (folder / "prompts" / f"{name}.safetensors").touch()
    for name in ("animals", "solar"):
        (folder / "tasks" / name).mkdir(parents=True)
        for part in ("train", "test"):
            with zipfile.ZipFile(folder / "tasks" / name / f"{part}.zip", "w") as archive:
                archive.mkdir("root")
                for label in ("cat", "dog"):
                    archive.writestr(f"root/{label}/.DS_Store", b"")
                    for i in range(10):
                        archive.writestr(f"root/{label}/{i}.png", f"{label}{i}")
    return folder


def test_the_demo_takes_a_task_of_its_own_of_those_in_the_source_tree() -> None:
    tree = Path(__file__).parents[2] / "examples"
    assert example_task(tree, None).name == DEMO_TASK
    files = source_prompts(tree, example_task(tree, None))
    assert {file.stem for file in files} == DEMO_SOURCES


def test_the_first_folder_that_has_both_parts_is_taken(examples: Path, tmp_path: Path) -> None:
    assert find_examples(None, [tmp_path, examples]) == examples


def test_no_folder_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"no examples folder found; .*--examples"):
        find_examples(None, [tmp_path])
    with pytest.raises(ClientError, match=f"{tmp_path} has no prompts/ and tasks/"):
        find_examples(tmp_path, [])


def test_the_first_task_is_the_default(examples: Path) -> None:
    assert example_task(examples, None).name == "animals"
    assert example_task(examples, "solar").test == examples / "tasks/solar/test.zip"


def test_an_unknown_task_gets_the_list_of_those_there_are(examples: Path) -> None:
    with pytest.raises(ClientError, match=r"no task x .*: animals, solar"):
        example_task(examples, "x")


def test_the_prompt_of_the_task_itself_is_left_out(examples: Path) -> None:
    names = [file.stem for file in source_prompts(examples, example_task(examples, "animals"))]
    assert names == ["digits", "fashion"]


def test_of_the_example_prompts_the_demo_takes_its_own(examples: Path) -> None:
    for name in (*DEMO_SOURCES, "pair-distance"):
        (examples / "prompts" / f"{name}.safetensors").touch()
    names = {file.stem for file in source_prompts(examples, example_task(examples, "animals"))}
    assert names == DEMO_SOURCES


def test_too_few_prompts_are_an_error(examples: Path) -> None:
    (examples / "prompts" / "digits.safetensors").unlink()
    with pytest.raises(ClientError, match="1 source prompts"):
        source_prompts(examples, example_task(examples, "animals"))


def test_the_same_images_are_drawn_every_time(examples: Path) -> None:
    task = example_task(examples, None)
    first = held_out_images(task, 8, seed=1)
    assert first == held_out_images(task, 8, seed=1) != held_out_images(task, 8, seed=2)
    assert len({image.name for image in first}) == 8
    assert all(image.data.decode().startswith(image.label) for image in first)
    assert len(held_out_images(task, 1000, seed=1)) == 20


def test_an_archive_that_cannot_be_read_is_named(examples: Path) -> None:
    task = example_task(examples, None)
    task.test.write_bytes(b"no zip")
    with pytest.raises(ClientError, match=r"cannot read .*test.zip"):
        held_out_images(task, 8, seed=1)

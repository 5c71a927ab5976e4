import argparse
import itertools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones.info import LoadedBackbone
from ensemble.class_head import fit_class_head
from ensemble.features import extract_features
from ensemble.prompt_tuning import LabelledPixels, TunedPrompt, TuningConfig, tune_prompt
from ensemble.splits import stratified_split
from prompt_store.codec import BackboneShape, PromptLimits, read_prompt
from tests.tiny_backbone import load_tiny_backbone
from worker.task_images import load_task_images
from worker.train_prompt import (
    _compare,  # pyright: ignore[reportPrivateUsage]
    _initial_prompt,  # pyright: ignore[reportPrivateUsage]
    main,
)

MakeFolder = Callable[..., tuple[Path, tuple[str, ...]]]
QUICK = ["--epochs", "2", "--num-prompt-tokens", "2", "--batch-size", "16"]


@pytest.fixture(autouse=True)
def workplace(tiny_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    del tiny_environment
    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_source_prompt_is_trained_and_written(
    make_folder: MakeFolder, workplace: Path, backbone: LoadedBackbone
) -> None:
    task, classes = make_folder(seed=1)
    test, _ = make_folder("test", seed=2)
    arguments = ["--task", str(task), "--test", str(test), "--name", "inks", *QUICK]

    status = main([*arguments, "--report", "report.json", "--license", "CC0-1.0"])

    assert status == 0
    info = backbone.info
    shape = BackboneShape(digest=info.digest, embed_dim=info.embed_dim, depth=info.depth)
    prompt = read_prompt(workplace / "inks.safetensors", PromptLimits(), shape)
    assert (prompt.prompt_embeddings.shape, prompt.dtype) == ((2, 2, 192), "F16")
    assert prompt.classes == classes
    assert prompt.metadata["license"] == "CC0-1.0"
    assert prompt.labels == {"task": "inks"}

    report = json.loads((workplace / "report.json").read_text())
    assert report["backbone_digest"] == info.digest
    assert (report["train_images"], report["classes"]) == (24, list(classes))
    assert report["figures"]["validation"]["num_images"] == 6
    assert [epoch["epoch"] for epoch in report["epochs"]] == [0, 1, 2]
    # The head is that of the features under the prompt as it was written.
    assert prompt.head_weight is not None
    assert prompt.head_bias is not None
    stored = torch.from_numpy(prompt.prompt_embeddings)
    images = load_task_images(task, info.preprocessing)
    train, _ = stratified_split(images.labels, 0.2, 0)
    (features,) = extract_features(backbone.vit, images.pixels[train], [stored], batch_size=16)
    head = fit_class_head(features, images.labels[train], 3)
    torch.testing.assert_close(
        torch.from_numpy(prompt.head_weight).double(), head.weight, atol=2e-3, rtol=2e-3
    )
    # And so is the figure for the test images.
    images = load_task_images(test, info.preprocessing)
    (features,) = extract_features(backbone.vit, images.pixels, [stored], batch_size=16)
    logits = features @ torch.from_numpy(prompt.head_weight).T + torch.from_numpy(prompt.head_bias)
    accuracy = float((logits.argmax(1) == images.labels).double().mean())
    assert report["figures"]["test"]["prompted"] == pytest.approx(accuracy, abs=0.04)
    assert accuracy > 0.6


def test_copies_count_once_and_test_images_of_the_task_not_at_all(
    make_folder: MakeFolder, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, _ = make_folder(seed=1)
    test, _ = make_folder("test", seed=2)
    written: list[bytes] = []
    reports: list[dict[str, Any]] = []

    for copied in (False, True):
        if copied:
            shutil.copy(task / "cyan" / "000.png", task / "cyan" / "999.png")
            for source in sorted((task / "yellow").iterdir())[:4]:
                shutil.copy(source, test / "yellow" / f"seen-{source.name}")
            shutil.copy(task / "cyan" / "001.png", test / "magenta" / "seen.png")
        arguments = ["--task", str(task), "--test", str(test), "--name", "inks", *QUICK]
        assert main([*arguments, "--report", "report.json"]) == 0
        written.append((workplace / "inks.safetensors").read_bytes())
        reports.append(json.loads((workplace / "report.json").read_text()))

    assert written[0] == written[1]
    assert reports[0]["figures"] == reports[1]["figures"]
    assert reports[0]["left_out"] == {"task": 0, "test": 0}
    assert reports[1]["left_out"] == {"task": 1, "test": 5}
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("left out") == 2
    assert "left out: 1 of 31 images of" in said
    assert "left out: 5 of 35 images of" in said


def test_a_test_on_the_training_images_is_refused(
    make_folder: MakeFolder, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make_folder()[0]

    assert main(["--task", str(task), "--test", str(task), "--name", "inks", *QUICK]) == 1

    assert f"every image of {task} is in {task} too" in capsys.readouterr().err
    assert list(workplace.glob("*.safetensors")) == []


def test_each_head_is_tried_on_the_features_that_it_is_for(
    make_folder: MakeFolder, backbone: LoadedBackbone
) -> None:
    images = load_task_images(make_folder()[0], backbone.info.preprocessing)
    prompt = torch.randn(2, 2, 192, generator=torch.Generator().manual_seed(0))
    plain, prompted = extract_features(backbone.vit, images.pixels, [None, prompt], batch_size=16)
    heads = {
        "plain": fit_class_head(plain, images.labels, 3),
        "prompted": fit_class_head(prompted, (images.labels + 1) % 3, 3),
    }

    found = _compare(backbone, prompt, heads, LabelledPixels(images.pixels, images.labels), 16)

    assert (found.num_images, found.plain, found.prompted) == (30, 1.0, 0.0)


def test_every_option_reaches_the_training_and_the_report(
    make_folder: MakeFolder, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[LabelledPixels, LabelledPixels, TuningConfig]] = []

    def spy(
        vit: Any, prompt: Tensor, train: LabelledPixels, validation: LabelledPixels, **more: Any
    ) -> TunedPrompt:
        given.append((train, validation, more["config"]))
        return tune_prompt(vit, prompt, train, validation, **more)

    monkeypatch.setattr("worker.train_prompt.tune_prompt", spy)
    task, _ = make_folder(seed=1)
    options = {
        "epochs": 2,
        "batch_size": 7,
        "optimizer": "sgd",
        "prompt_learning_rate": 0.25,
        "head_learning_rate": 0.125,
        "weight_decay": 0.5,
        "warmup_epochs": 1.5,
        "patience": 3,
        "seed": 5,
        "init_seed": 6,
    }
    chosen = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    arguments = ["--task", str(task), "--name", "inks", "--num-prompt-tokens", "2"]
    arguments += [*itertools.chain(*chosen), "--validation-fraction", "0.4"]

    assert main([*arguments, "--report", "report.json"]) == 0

    report = json.loads((workplace / "report.json").read_text())
    ((train, validation, config),) = given
    assert report["config"] == asdict(config) | {"init_seed": 6}
    assert {name: report["config"][name] for name in options} == options
    assert (report["train_images"], report["figures"]["validation"]["num_images"]) == (18, 12)
    images = load_task_images(task, load_tiny_backbone().info.preprocessing)
    for found, rows in zip(
        (train, validation), stratified_split(images.labels, 0.4, 5), strict=True
    ):
        assert torch.equal(found.pixels, images.pixels[rows])
        assert torch.equal(found.labels, images.labels[rows])


def test_a_random_start_has_the_bound_of_the_backbone(backbone: LoadedBackbone) -> None:
    args = argparse.Namespace(depth="deep", num_prompt_tokens=100, init_seed=0)

    for patch_size_px in (4, 14):
        info = replace(backbone.info, patch_size_px=patch_size_px)
        bound = math.sqrt(6 / (3 * patch_size_px**2 + info.embed_dim))
        assert 0.99 * bound < float(_initial_prompt(args, info).abs().max()) <= bound


def test_an_interruption_is_said_and_nothing_is_written(
    make_folder: MakeFolder,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> TunedPrompt:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.train_prompt.tune_prompt", interrupted)

    assert main(["--task", str(make_folder()[0]), "--name", "inks", *QUICK]) == 130

    assert capsys.readouterr().err.endswith("interrupted; nothing was written\n")
    assert list(workplace.iterdir()) == []


def test_the_report_of_a_training_that_diverged_is_json(
    make_folder: MakeFolder, workplace: Path
) -> None:
    task, _ = make_folder(seed=1)
    wild = ["--optimizer", "sgd", "--head-learning-rate", "100", "--weight-decay", "10"]
    arguments = ["--task", str(task), "--name", "inks", *QUICK, *wild, "--epochs", "40"]

    assert main([*arguments, "--report", "report.json"]) == 0

    report = json.loads((workplace / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["epochs"][0]["validation_loss"] is not None
    assert report["epochs"][-1]["train_loss"] is None
    losses = [epoch["validation_loss"] for epoch in report["epochs"]]
    assert losses[report["best_epoch"]] == min(loss for loss in losses if loss is not None)


def test_the_same_seeds_give_the_same_bytes(make_folder: MakeFolder, workplace: Path) -> None:
    task, _ = make_folder()
    written: list[bytes] = []

    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        arguments = ["--task", str(task), "--name", "inks", "--output", name, "--init-seed", seed]
        assert main([*arguments, "--depth", "shallow", *QUICK]) == 0
        written.append((workplace / name).read_bytes())

    assert written[0] == written[1] != written[2]
    assert read_prompt(written[0], PromptLimits()).prompt_embeddings.shape == (1, 2, 192)


def test_prompts_of_different_names_can_be_of_one_task(
    make_folder: MakeFolder, workplace: Path
) -> None:
    arguments = ["--task", str(make_folder()[0]), "--name", "inks-2", "--task-name", "inks"]

    assert main([*arguments, *QUICK]) == 0

    assert read_prompt(workplace / "inks-2.safetensors", PromptLimits()).labels["task"] == "inks"


def test_help_shows_the_defaults_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--help"])

    shown = capsys.readouterr().out
    assert exited.value.code == 0
    assert "(default: 10)" in shown
    assert "None" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs is 0; it must be 1 to"),
        (["--epochs", "-2"], "--epochs is -2"),
        (["--num-prompt-tokens", "0"], "--num-prompt-tokens is 0"),
        (["--num-prompt-tokens", "513"], "--num-prompt-tokens is 513; it must be 1 to 512"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--patience", "0"], "--patience is 0"),
        (["--prompt-learning-rate", "0"], "--prompt-learning-rate is 0"),
        (["--head-learning-rate", "nan"], "--head-learning-rate is nan"),
        (["--weight-decay", "-1"], "--weight-decay is -1"),
        (["--warmup-epochs", "inf"], "--warmup-epochs is inf"),
        (["--validation-fraction", "0"], "--validation-fraction is 0"),
        (["--validation-fraction", "1"], "--validation-fraction is 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--name", "../inks"], "name '../inks' does not match"),
        (["--name", ""], "name '' does not match"),
        (["--task-name", "../inks"], "name '../inks' does not match"),
        (["--task-name", ""], "name '' does not match"),
        (["--output", "absent/inks.safetensors"], "cannot write absent/inks.safetensors"),
        (["--report", "absent/report.json"], "cannot write absent/report.json"),
        (["--output", "."], "cannot write"),
        (["--task", "absent"], "no file or folder absent"),
        (["--test", "absent"], "no file or folder absent"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_anything_is_computed(
    make_folder: MakeFolder,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    task, _ = make_folder()

    status = main(["--task", str(task), "--name", "inks", *arguments])

    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("hgprompt train-prompt: ")
    assert words in err
    assert list(workplace.iterdir()) == []


def test_tasks_that_cannot_be_learned_are_refused(
    make_folder: MakeFolder, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = workplace / "empty"
    empty.mkdir()
    for path, words in (
        (empty, "holds no images"),
        (make_folder("one class", cat=5)[0], "only the class ('cat',); 2 are needed"),
        (make_folder("too few", cat=1, dog=1)[0], "2 images in 2 classes"),
        (Path(__file__), "not a zip, tar or parquet file"),
    ):
        assert main(["--task", str(path), "--name", "inks", *QUICK]) == 1
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_a_file_that_would_be_too_large_is_refused_before_the_training(
    make_folder: MakeFolder,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.train_prompt.tune_prompt", None)
    counts = {f"{i:03}" + "n" * 197: 1 for i in range(330)}
    task = make_folder("many", **counts | {"most": 5}).path

    assert main(["--task", str(task), "--name", "inks", *QUICK]) == 1

    assert "limit is 65536" in capsys.readouterr().err
    assert list(workplace.glob("*.safetensors")) == []


def test_test_images_of_other_classes_are_refused(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    task, test = make_folder(cat=4, dog=4)[0], make_folder("test", cat=4, cow=4)[0]

    assert main(["--task", str(task), "--test", str(test), "--name", "inks", *QUICK]) == 1

    assert "test classes ('cat', 'cow') differ from ('cat', 'dog')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BACKBONE", "nope", "'nope' is neither"),
        ("BACKBONE", "random:resnet10t", "not a timm VisionTransformer"),
        ("PRECISION", "fp8", "HGPROMPT_PRECISION='fp8': "),
    ],
)
def test_a_backbone_that_cannot_be_loaded_is_said(
    make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    words: str,
) -> None:
    monkeypatch.setenv(f"HGPROMPT_{name}", value)

    assert main(["--task", str(make_folder()[0]), "--name", "inks"]) == 1

    assert words in capsys.readouterr().err

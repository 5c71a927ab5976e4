"""`hgprompt train-prompt`: train a source prompt on a labelled task and write its file.

Reports the validation accuracy of a linear head on the prompted features beside that of the same
head on plain features: a prompt that does not beat that is not worth sharing. Both heads are
fitted in the same way on the same images; the validation images also chose the epoch, so the
comparison on `--test` images, which chose nothing, is the one to quote.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from backbones.errors import BackboneError
from backbones.info import BackboneInfo, LoadedBackbone
from backbones.settings import BackboneSettings
from configuration.environment import SettingsError
from ensemble.class_head import ClassHead, fit_class_head
from ensemble.errors import EnsembleError, TooFewImagesError
from ensemble.features import extract_features
from ensemble.prompt_tuning import (
    Epoch,
    LabelledPixels,
    TunedPrompt,
    TuningConfig,
    tune_prompt,
)
from ensemble.prompted_vit import init_prompt
from ensemble.splits import stratified_split
from images.errors import ImagesError
from prompt_store.codec import PromptFile, write_prompt
from prompt_store.errors import PromptStoreError
from prompt_store.names import check_name
from worker.task_images import TaskImages, load_task_images

_BOUNDS = {
    "num_prompt_tokens": (1, 512),
    "epochs": (1, 10_000),
    "batch_size": (1, 65_536),
    "prompt_learning_rate": (1e-9, 100.0),
    "head_learning_rate": (1e-9, 100.0),
    "weight_decay": (0.0, 10.0),
    "warmup_epochs": (0.0, 10_000.0),
    "patience": (1, 10_000),
    "validation_fraction": (0.01, 0.9),
    "seed": (0, 2**63 - 1),
    "init_seed": (0, 2**63 - 1),
}
"""Smallest and largest value of each numeric option."""


@dataclass(frozen=True)
class Accuracies:
    """Accuracy in [0, 1] of a head on plain and on prompted features of the same images."""

    num_images: int
    plain: float
    prompted: float


class ArgumentError(ValueError):
    """An option has a value that cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 with one line on standard error when the input is at fault."""
    args = _parser().parse_args(arguments)
    try:
        _check(args)
        _run(args)
    except (
        ArgumentError,
        BackboneError,
        EnsembleError,
        ImagesError,
        PromptStoreError,
        SettingsError,
        OSError,
    ) as error:
        sys.stderr.write(f"hgprompt train-prompt: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        return 130
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse at once what would otherwise fail after the training, or never."""
    check_name(args.name)
    check_name(_task_name(args))
    for name, (low, high) in _BOUNDS.items():
        value = getattr(args, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise ArgumentError(f"--{option} is {value:g}; it must be {low:g} to {high:g}")
    for path in (args.task, args.test):
        if path is not None and not path.exists():
            raise ArgumentError(f"no file or folder {path}")
    for path in (_output(args), args.report):
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise ArgumentError(f"cannot write {path}: it is a folder, or lies in none")
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ArgumentError(f"cannot write {path}: there is no permission")


def _task_name(args: argparse.Namespace) -> str:
    return args.name if args.task_name is None else args.task_name


def _output(args: argparse.Namespace) -> Path:
    return args.output or Path(f"{args.name}.safetensors")


def _run(args: argparse.Namespace) -> None:
    console = Console(stderr=True)
    started = time.monotonic()
    backbone = BackboneSettings.read().load()
    task = load_task_images(args.task, backbone.info.preprocessing)
    test = load_task_images(args.test, backbone.info.preprocessing) if args.test else None
    if len(task.classes) < 2:  # noqa: PLR2004
        raise TooFewImagesError(f"{args.task} has only the class {task.classes}; 2 are needed")
    if test is not None and test.classes != task.classes:
        raise EnsembleError(f"test classes {test.classes} differ from {task.classes}")
    train_rows, validation_rows = stratified_split(task.labels, args.validation_fraction, args.seed)
    train = LabelledPixels(task.pixels[train_rows], task.labels[train_rows])
    validation = LabelledPixels(task.pixels[validation_rows], task.labels[validation_rows])
    console.print(
        f"{args.name}: {len(train)} training and {len(validation)} validation images, "
        f"{len(task.classes)} classes, {backbone.info.name} on {backbone.vit.device}"
    )
    initial = _initial_prompt(args, backbone.info)
    _check_file(args, backbone, task, initial)
    tuned = _tune(args, backbone, initial, (train, validation), len(task.classes), console)
    stored = tuned.prompt.half().float().cpu()  # what the file will hold
    heads = {
        label: _fit(backbone, prompt, train, len(task.classes), args.batch_size)
        for label, prompt in (("plain", None), ("prompted", stored))
    }
    figures = {"validation": _compare(backbone, stored, heads, validation, args.batch_size)}
    if test is not None:
        held_out = LabelledPixels(test.pixels, test.labels)
        figures["test"] = _compare(backbone, stored, heads, held_out, args.batch_size)
    for split, figure in figures.items():
        console.print(
            f"{split}: prompted {figure.prompted:.3f}, plain {figure.plain:.3f} "
            f"({figure.num_images} images)"
        )
    head = heads["prompted"]
    file = _prompt_file(args, backbone, task, stored, head.weight, head.bias)
    data = write_prompt(file, "F16")
    output = _output(args)
    output.write_bytes(data)
    console.print(f"wrote {output} ({len(data):,} bytes)")
    if args.report is not None:
        report = {
            "name": args.name,
            "classes": list(task.classes),
            "train_images": len(train),
            "figures": {split: asdict(figure) for split, figure in figures.items()},
            "best_epoch": tuned.best.epoch,
            "epochs": [_finite(asdict(epoch)) for epoch in tuned.epochs],
            "seconds": round(time.monotonic() - started, 1),
            "torch": torch.__version__,
            "backbone": backbone.info.name,
            "backbone_digest": backbone.info.digest,
            "precision": backbone.info.dtype,
            "config": asdict(_config(args)) | {"init_seed": args.init_seed},
        }
        args.report.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    """With null for the losses of a training that diverged: JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


def _initial_prompt(args: argparse.Namespace, info: BackboneInfo) -> Tensor:
    """The random start that prompts share, (L, P, D)."""
    return init_prompt(
        info.depth if args.depth == "deep" else 1,
        args.num_prompt_tokens,
        info.embed_dim,
        patch_size_px=info.patch_size_px,
        generator=torch.Generator().manual_seed(args.init_seed),
    )


def _check_file(
    args: argparse.Namespace, backbone: LoadedBackbone, task: TaskImages, initial: Tensor
) -> None:
    """Refuse before the training what would make a file that is too large."""
    weight = torch.zeros(len(task.classes), backbone.info.embed_dim)
    write_prompt(_prompt_file(args, backbone, task, initial, weight, weight[:, 0]), "F16")


def _tune(
    args: argparse.Namespace,
    backbone: LoadedBackbone,
    initial: Tensor,
    images: tuple[LabelledPixels, LabelledPixels],
    num_classes: int,
    console: Console,
) -> TunedPrompt:
    """Train from the initial prompt on training and validation images, under a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("epoch 0", total=args.epochs)

        def on_epoch(epoch: Epoch) -> None:
            progress.update(
                bar,
                completed=epoch.epoch,
                description=f"epoch {epoch.epoch}/{epoch.epochs}, validation loss "
                f"{epoch.validation_loss:.3f}, accuracy {epoch.validation_accuracy:.3f}",
            )

        return tune_prompt(
            backbone.vit,
            initial,
            *images,
            num_classes=num_classes,
            config=_config(args),
            on_epoch=on_epoch,
        )


def _fit(
    backbone: LoadedBackbone,
    prompt: Tensor | None,
    train: LabelledPixels,
    num_classes: int,
    batch_size: int,
) -> ClassHead:
    (features,) = extract_features(backbone.vit, train.pixels, [prompt], batch_size=batch_size)
    return fit_class_head(features, train.labels, num_classes)


def _compare(
    backbone: LoadedBackbone,
    prompt: Tensor,
    heads: dict[str, ClassHead],
    images: LabelledPixels,
    batch_size: int,
) -> Accuracies:
    """Accuracy of the plain and the prompted head on `images`."""

    def accuracy(prompt: Tensor | None, head: ClassHead) -> float:
        (features,) = extract_features(backbone.vit, images.pixels, [prompt], batch_size=batch_size)
        return float((head.logits(features).argmax(1) == images.labels).double().mean())

    return Accuracies(
        num_images=len(images),
        plain=accuracy(None, heads["plain"]),
        prompted=accuracy(prompt, heads["prompted"]),
    )


def _prompt_file(
    args: argparse.Namespace,
    backbone: LoadedBackbone,
    task: TaskImages,
    prompt: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
) -> PromptFile:
    metadata = {
        "backbone": backbone.info.name,
        "backbone_digest": backbone.info.digest,
        "classes": json.dumps(list(task.classes), ensure_ascii=False),
        "task": _task_name(args),
    }
    if args.license:
        metadata["license"] = args.license
    return PromptFile(
        prompt_embeddings=prompt.numpy().astype(np.float32),
        head_weight=head_weight.numpy().astype(np.float32),
        head_bias=head_bias.numpy().astype(np.float32),
        metadata=metadata,
    )


def _config(args: argparse.Namespace) -> TuningConfig:
    return TuningConfig(
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
        prompt_learning_rate=args.prompt_learning_rate,
        head_learning_rate=args.head_learning_rate,
        weight_decay=args.weight_decay,
        warmup_epochs=args.warmup_epochs,
        patience=args.patience,
        seed=args.seed,
    )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    defaults = TuningConfig()
    parser = argparse.ArgumentParser(
        prog="hgprompt train-prompt",
        description="Train a source prompt on a labelled task (visual prompt tuning).",
        formatter_class=_HelpFormatter,
        epilog="HGPROMPT_BACKBONE, HGPROMPT_DEVICE and HGPROMPT_PRECISION say with which backbone, "
        "where and in which arithmetic. The classes of --test have to be those of --task.",
    )
    add = parser.add_argument
    add(
        "--task",
        type=Path,
        metavar="PATH",
        required=True,
        help="labelled images: one folder of images per class, alone or as zip or tar; or a "
        "parquet file",
    )
    add("--name", required=True, help="name of the prompt")
    add(
        "--task-name",
        help="name of the task, the file's label `task`; prompts of other seeds or lengths can "
        "share it (default: NAME)",
    )
    add("--output", type=Path, metavar="FILE", help="prompt to write (default: NAME.safetensors)")
    add("--test", type=Path, metavar="PATH", help="held-out images, as --task: report accuracy")
    add("--report", type=Path, metavar="FILE", help="JSON file to write with this run's figures")
    add(
        "--depth",
        choices=("deep", "shallow"),
        default="deep",
        help="tokens before every block of the backbone, or before the first only",
    )
    number = partial(add, metavar="N")
    number("--num-prompt-tokens", type=int, default=10, help="tokens before a block")
    number("--epochs", type=int, default=defaults.epochs, help="passes over the training images")
    number("--batch-size", type=int, default=defaults.batch_size, help="images a step")
    add("--optimizer", choices=("adamw", "sgd"), default=defaults.optimizer, help="optimiser")
    number(
        "--prompt-learning-rate",
        type=float,
        default=defaults.prompt_learning_rate,
        help="peak learning rate of the prompt",
    )
    number(
        "--head-learning-rate",
        type=float,
        default=defaults.head_learning_rate,
        help="peak learning rate of the class head",
    )
    number("--weight-decay", type=float, default=defaults.weight_decay, help="of prompt and head")
    number(
        "--warmup-epochs",
        type=float,
        default=defaults.warmup_epochs,
        help="epochs in which the learning rates rise to their peaks",
    )
    number(
        "--patience",
        type=int,
        default=defaults.patience,
        help="stop after so many epochs without improvement",
    )
    number(
        "--validation-fraction",
        type=float,
        default=0.2,
        help="share of the images held out to choose the epoch",
    )
    number("--seed", type=int, default=0, help="of the split and the order of the images")
    number(
        "--init-seed",
        type=int,
        default=0,
        help="of the initial prompt; the prompts of an ensemble should share it",
    )
    add("--license", help="licence of the images, recorded in the file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`hgprompt train-prompt`: train a source prompt on a labelled task and write its file.

Reports the validation accuracy of a linear head on the prompted features beside that of the same
head on plain features: a prompt that does not beat that is not worth sharing. Both heads are
fitted in the same way on the same images; the validation images also chose the epoch, so the
comparison on `--test` images, which chose nothing, is the one to quote. Images that equal another
one of their class count once, and test images that are among the task's do not count.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    tune_prompt,
)
from ensemble.prompted_vit import init_prompt
from ensemble.splits import stratified_split
from images.errors import ImagesError
from prompt_store.codec import PromptFile, write_prompt
from prompt_store.errors import PromptStoreError
from worker.task_images import TaskImages, load_task_images
from worker.train_prompt_arguments import (
    ArgumentError,
    argument_parser,
    check,
    output_path,
    task_name,
    tuning_config,
)


@dataclass(frozen=True)
class Accuracies:
    """Accuracy in [0, 1] of a head on plain and on prompted features of the same images."""

    num_images: int
    plain: float
    prompted: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 with one line on standard error when the input is at fault."""
    args = argument_parser().parse_args(arguments)
    try:
        check(args)
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


def _run(args: argparse.Namespace) -> None:
    console = Console(stderr=True)
    started = time.monotonic()
    backbone = BackboneSettings.read().load()
    task = load_task_images(args.task, backbone.info.preprocessing).without_copies()
    test = load_task_images(args.test, backbone.info.preprocessing) if args.test else None
    if len(task.classes) < 2:  # noqa: PLR2004
        raise TooFewImagesError(f"{args.task} has only the class {task.classes}; 2 are needed")
    if test is not None and test.classes != task.classes:
        raise EnsembleError(f"test classes {test.classes} differ from {task.classes}")
    if task.num_copies:
        _tell_left_out(task, "equal to another one of their class", args.task, console)
    if test is not None:
        test = _unseen(test, task, args, console)
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
    output = output_path(args)
    output.write_bytes(data)
    console.print(f"wrote {output} ({len(data):,} bytes)")
    if args.report is not None:
        report = {
            "name": args.name,
            "classes": list(task.classes),
            "train_images": len(train),
            "left_out": {"task": task.num_copies} | ({"test": test.num_copies} if test else {}),
            "figures": {split: asdict(figure) for split, figure in figures.items()},
            "best_epoch": tuned.best.epoch,
            "epochs": [_finite(asdict(epoch)) for epoch in tuned.epochs],
            "seconds": round(time.monotonic() - started, 1),
            "torch": torch.__version__,
            "backbone": backbone.info.name,
            "backbone_digest": backbone.info.digest,
            "precision": backbone.info.dtype,
            "config": asdict(tuning_config(args)) | {"init_seed": args.init_seed},
        }
        args.report.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def _unseen(
    test: TaskImages, task: TaskImages, args: argparse.Namespace, console: Console
) -> TaskImages:
    """The test images that are not among those that the prompt is trained on."""
    unseen = test.without(task)
    if not len(unseen.labels):
        raise EnsembleError(f"every image of {args.test} is in {args.task} too")
    if unseen.num_copies:
        _tell_left_out(unseen, f"which are in {args.task} too", args.test, console)
    return unseen


def _tell_left_out(images: TaskImages, why: str, path: Path, console: Console) -> None:
    num_images = len(images.labels) + images.num_copies
    console.print(f"left out: {images.num_copies} of {num_images} images of {path}, {why}")


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
            config=tuning_config(args),
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
        "task": task_name(args),
    }
    if args.license:
        metadata["license"] = args.license
    return PromptFile(
        prompt_embeddings=prompt.numpy().astype(np.float32),
        head_weight=head_weight.numpy().astype(np.float32),
        head_bias=head_bias.numpy().astype(np.float32),
        metadata=metadata,
    )


if __name__ == "__main__":
    sys.exit(main())

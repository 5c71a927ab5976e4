"""Arguments of `hgprompt train-prompt`."""

import argparse
import os
from functools import partial
from pathlib import Path

from ensemble.prompt_tuning import TuningConfig
from prompt_store.names import check_name

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


class ArgumentError(ValueError):
    """An option has a value that cannot be used."""


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
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
    add(
        "--test",
        type=Path,
        metavar="PATH",
        help="held-out images, as --task: report accuracy; those that --task has too do not count",
    )
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


def check(args: argparse.Namespace) -> None:
    """Refuse at once what would otherwise fail after the training, or never.

    Raises:
        ArgumentError: An option has a value that cannot be used.
        NameInvalidError: A name is malformed.
    """
    check_name(args.name)
    check_name(task_name(args))
    for name, (low, high) in _BOUNDS.items():
        value = getattr(args, name)
        if not low <= value <= high:
            option = name.replace("_", "-")
            raise ArgumentError(f"--{option} is {value:g}; it must be {low:g} to {high:g}")
    for path in (args.task, args.test):
        if path is not None and not path.exists():
            raise ArgumentError(f"no file or folder {path}")
    for path in (output_path(args), args.report):
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise ArgumentError(f"cannot write {path}: it is a folder, or lies in none")
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ArgumentError(f"cannot write {path}: there is no permission")


def task_name(args: argparse.Namespace) -> str:
    """Return the name of the task, the file's label `task`."""
    return args.name if args.task_name is None else args.task_name


def output_path(args: argparse.Namespace) -> Path:
    """Return the path of the prompt to write."""
    return args.output or Path(f"{args.name}.safetensors")


def tuning_config(args: argparse.Namespace) -> TuningConfig:
    """Return how to tune."""
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

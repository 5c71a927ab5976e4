"""Compute every cell that is not there yet, under a progress bar."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from backbones.info import LoadedBackbone
from benchmarks.reporting.machine import describe_machine
from benchmarks.suite.cached_features import CachedFeatures
from benchmarks.suite.cells import Cell, Plan, shard_of
from benchmarks.suite.compute import compute_cell
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.records import CellRecord, FailureRecord, RunRecord, Setting
from benchmarks.suite.request import Request
from benchmarks.suite.results_folder import ResultsFolder
from benchmarks.suite.source_prompts import SourcePrompt, allowed_sources, draw_sources
from benchmarks.suite.target_tasks import TargetTask, without_crop
from ensemble.errors import EnsembleError

# Cells take seconds to minutes: an estimate over the last few would jump about.
_ESTIMATE_PERIOD_S = 3600.0


class Runner:
    """Computes cells on one backbone.

    Args:
        request: What is asked for.
        backbone: In memory.
        prompts: All source prompts.
        results: Where cells are written.
        console: Where people look.
    """

    def __init__(
        self,
        request: Request,
        backbone: LoadedBackbone,
        prompts: Sequence[SourcePrompt],
        results: ResultsFolder,
        console: Console,
    ) -> None:
        self.request = request
        self.backbone = backbone
        self.prompts = prompts
        self.results = results
        self.console = console
        self.run = uuid.uuid4().hex[:12]
        self.variants = {variant.name: variant for variant in request.variants}

    def __call__(self) -> int:
        """Compute the missing cells of the shard; return how many were refused.

        Raises:
            SuiteError: The results folder holds other settings, options or task images.
        """
        request = self.request
        self.results.open(self._setting())
        plan = self._plan()
        done = self.results.cells()
        self._check_options(done.values())
        shard = shard_of(plan.cells(), *request.shard)
        pending = [cell for cell in shard if cell not in done]
        self._announce(plan, shard, pending)
        if not pending:
            return 0
        self.results.add(
            RunRecord(
                run=self.run,
                command=request.command,
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
                machine=describe_machine(self.backbone.vit.device),
                plan=plan,
            )
        )
        refused = 0
        with self._progress() as progress:
            overall = progress.add_task("cells", total=len(pending))
            stage_bar = progress.add_task("", total=None)

            def on_stage(stage: str, step: int, total: int) -> None:
                progress.update(stage_bar, description=stage, completed=step, total=total)

            for target, cells in groupby(pending, key=lambda cell: cell.target):
                on_stage(f"reading {target}", 0, 1)
                task, extract = self._load(target, done.values()), self._features(target)
                for cell in cells:
                    refused += not self._compute(cell, task, extract, on_stage)
                    progress.advance(overall)
        return refused

    def _setting(self) -> Setting:
        return Setting(
            backbone=self.backbone.info.name,
            backbone_digest=self.backbone.info.digest,
            precision=self.backbone.info.dtype,
            max_test_images=self.request.max_test_images,
            tuning_epochs=self.request.tuning_epochs,
            prompts={prompt.name: prompt.digest for prompt in self.prompts},
        )

    def _plan(self) -> Plan:
        request = self.request
        return Plan(
            targets={t: len(allowed_sources(t, self.prompts)) for t in request.targets},
            shots=request.shots,
            seeds=request.seeds,
            num_sources=request.num_sources,
            variants={variant.name: variant.uses_sources for variant in request.variants},
        )

    def _check_options(self, done: Iterable[CellRecord]) -> None:
        """Refuse to add to cells of the same name that were fitted with other options."""
        for record in done:
            variant = self.variants.get(record.cell.variant)
            if variant is not None and record.options != asdict(variant.options):
                raise SuiteError(
                    f"{self.results.path} holds {record.cell.variant!r} with the options "
                    f"{record.options}, they are now {asdict(variant.options)}; "
                    "choose another --out"
                )

    def _announce(self, plan: Plan, shard: Sequence[Cell], pending: Sequence[Cell]) -> None:
        info, request = self.backbone.info, self.request
        self.console.print(
            f"{len(shard)} cells in shard {request.shard[0]}/{request.shard[1]}, "
            f"{len(shard) - len(pending)} of them finished before; {info.name} in {info.dtype} on "
            f"{self.backbone.vit.device}",
            soft_wrap=True,
        )
        for target, numbers in plan.impossible().items():
            self.console.print(
                f"{target}: only {plan.targets[target]} source prompts are allowed, left out: "
                f"{', '.join(map(str, numbers))} sources",
                soft_wrap=True,
            )

    def _load(self, target: str, done: Iterable[CellRecord]) -> TargetTask:
        """Read a task, and check that finished cells were computed on the same one."""
        preprocessing = without_crop(self.backbone.info.preprocessing)
        task = self.request.tasks.load(target, preprocessing, self.request.max_test_images)
        before = {record.task_digest for record in done if record.cell.target == target}
        if before - {task.digest}:
            raise SuiteError(
                f"{self.results.path} holds {target} as {', '.join(sorted(before))}, it is now "
                f"{task.digest}; choose another --out"
            )
        return task

    def _compute(
        self,
        cell: Cell,
        task: TargetTask,
        extract: CachedFeatures,
        on_stage: Callable[[str, int, int], None],
    ) -> bool:
        """Compute and store one cell; False if its fit refused the input."""
        sources = draw_sources(cell.target, self.prompts, cell.num_sources, cell.seed)
        try:
            record = compute_cell(
                cell,
                variant=self.variants[cell.variant],
                task=task,
                sources=sources,
                vit=self.backbone.vit,
                extract=extract,
                run=self.run,
                on_stage=on_stage,
            )
        except EnsembleError as error:
            self.results.add(FailureRecord(cell=cell, error=str(error), run=self.run))
            self.console.print(f"{cell}: refused, {error}", style="red", soft_wrap=True)
            return False
        self.results.add(record)
        self.console.print(
            f"{cell}: {record.test_accuracy:.3f} on {record.num_test} test images, "
            f"{record.fit_s:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
        return True

    def _features(self, target: str) -> CachedFeatures:
        """Features of one target's images, apart for all that changes their last digits."""
        info = self.backbone.info
        digest = info.digest.removeprefix("sha256:")[:16]
        setting = f"{digest}-{info.dtype}-{self.backbone.vit.device.type}"
        folder = self.request.cache / setting / target
        return CachedFeatures(folder, [p.prompt for p in allowed_sources(target, self.prompts)])

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=_ESTIMATE_PERIOD_S,
        )

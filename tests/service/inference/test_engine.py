import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from backbones.info import LoadedBackbone
from backbones.precision import in_precision
from ensemble.prompted_vit import PromptedViT
from prompt_store.artifacts import Artifact
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.batcher import Batcher
from service.inference.engine import (
    MAX_PASS_S,
    UNHEALTHY_AFTER_FAILURES,
    BatchReport,
    Compute,
    Engine,
)
from service.inference.errors import DeadlineExceededError, EngineFailedError, NotFiniteError
from service.inference.forward import ComputedRow, Forward
from service.inference.host_artifact import host_artifact
from service.inference.rows import Row, RowOutcome, RowResult
from service.inference.streams import CoreStreams

FOREVER_S = float("inf")


class Harness:
    """An engine over real parts, with the outcomes of its rows."""

    def __init__(
        self,
        vit: PromptedViT,
        max_batch_size: int = 32,
        compute: Compute | None = None,
        num_streams: int = 1,
        make_room: Callable[[], bool] = lambda: False,
        free_cached: Callable[[], None] = lambda: None,
    ) -> None:
        self.bank = ArtifactBank(vit.device)
        self.batcher = Batcher(max_batch_size, streams=CoreStreams(num_streams))
        self.num_threads = 1
        self.ahead_s = 0.0  # of the clock
        self.reports: list[BatchReport] = []
        self.outcomes: dict[Row, RowOutcome] = {}
        self._arrived = threading.Condition()
        self.engine = Engine(
            compute or Forward(EagerPass(vit)),
            self.batcher,
            deliver=self._deliver,
            report=self.reports.append,
            prepare=lambda _: torch.set_num_threads(self.num_threads),
            make_room=make_room,
            free_cached=free_cached,
            num_streams=num_streams,
            clock=lambda: time.monotonic() + self.ahead_s,
        )

    def insert(self, digest: str, artifact: Artifact) -> BankEntry:
        return self.bank.insert(host_artifact(digest, artifact))

    def classify(self, rows: list[Row]) -> list[RowOutcome]:
        assert self.batcher.submit(rows)
        return self.wait(rows)

    def wait(self, rows: list[Row]) -> list[RowOutcome]:
        with self._arrived:
            done = self._arrived.wait_for(lambda: all(row in self.outcomes for row in rows), 30)
        assert done
        return [self.outcomes[row] for row in rows]

    def _deliver(self, outcomes: list[tuple[Row, RowOutcome]]) -> None:
        with self._arrived:
            self.outcomes.update(dict(outcomes))
            self._arrived.notify_all()


@contextmanager
def running(
    vit: PromptedViT, max_batch_size: int = 32, compute: Compute | None = None
) -> Iterator[Harness]:
    harness = Harness(vit, max_batch_size, compute)
    harness.engine.start()
    try:
        yield harness
    finally:
        assert harness.engine.stop(30)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def row(seed: int, entry: BankEntry, deadline_s: float = FOREVER_S) -> Row:
    return Row(pixels(seed), entry, deadline_s, time.monotonic(), entry.digest)


def probabilities(outcome: RowOutcome) -> np.ndarray:
    assert isinstance(outcome, RowResult)
    return outcome.probabilities


@torch.inference_mode()
def reference(vit: PromptedViT, artifact: Artifact, seed: int) -> np.ndarray:
    """The same answer, computed plainly for one image and one artifact."""
    prompt = torch.from_numpy(artifact.prompt_embeddings)
    feature = vit(torch.from_numpy(pixels(seed))[None], prompt)[0]
    logits = torch.from_numpy(artifact.head_weight) @ feature + torch.from_numpy(artifact.head_bias)
    return logits.softmax(-1).numpy()


def test_one_batch_serves_ensembles_of_different_heads(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifacts = [
        make_artifact(1),
        make_artifact(2, classes=("x", "y")),
        make_artifact(3, classes=tuple(f"class {i}" for i in range(40))),
    ]
    with running(loaded.vit) as harness:
        entries = [harness.insert(f"d{i}", a) for i, a in enumerate(artifacts)]
        gate = row(9, harness.insert("gate", make_artifact(4, num_tokens=0)))
        rows = [row(seed, entries[seed % 3]) for seed in range(12)]
        outcomes = harness.classify([gate, *rows])[1:]
    for seed, outcome in enumerate(outcomes):
        expected = reference(loaded.vit, artifacts[seed % 3], seed)
        np.testing.assert_allclose(probabilities(outcome), expected, atol=1e-5)
        assert isinstance(outcome, RowResult)
        assert outcome.digest == f"d{seed % 3}"
    assert (12, 3) in [(report.size, report.num_artifacts) for report in harness.reports]


@pytest.mark.parametrize(("num_layers", "num_tokens"), [(1, 5), (2, 5), (2, 1), (1, 0)])
def test_every_prompt_shape_is_served(
    loaded: LoadedBackbone,
    make_artifact: Callable[..., Artifact],
    num_layers: int,
    num_tokens: int,
) -> None:
    artifact = make_artifact(1, num_layers=num_layers, num_tokens=num_tokens)
    with running(loaded.vit) as harness:
        outcomes = harness.classify([row(5, harness.insert("d", artifact))])
    expected = reference(loaded.vit, artifact, 5)
    np.testing.assert_allclose(probabilities(outcomes[0]), expected, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch_mates(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    with running(loaded.vit) as harness:
        mine = harness.insert("mine", make_artifact(1))
        mates = [harness.insert(f"d{i}", make_artifact(i)) for i in range(2, 9)]
        alone = probabilities(harness.classify([row(0, mine)])[0])
        for first in range(3):
            batch = [row(0, mine), *(row(first + i, mate) for i, mate in enumerate(mates))]
            together = probabilities(harness.classify(batch)[0])
            np.testing.assert_array_equal(together, alone)


def test_integers_and_normalised_pixels_are_computed_apart(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifact, info = make_artifact(1), loaded.info.preprocessing
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (info.mean, info.std))
    with running(loaded.vit) as harness:
        gate = row(9, harness.insert("gate", make_artifact(4, num_tokens=0)))
        entry = harness.insert("d", artifact)
        integers = [row(seed, entry) for seed in range(4)]
        normalised = [row(seed, entry) for seed in range(4)]
        for each in normalised:
            each.pixels = (each.pixels / np.float32(255) - mean) / std
        mixed = [each for pair in zip(integers, normalised, strict=True) for each in pair]
        outcomes = harness.classify([gate, *mixed])[1:]
    for i, outcome in enumerate(outcomes):
        expected = reference(loaded.vit, artifact, i // 2)
        np.testing.assert_allclose(probabilities(outcome), expected, atol=1e-5)
    assert [report.size for report in harness.reports] == [1, 4, 4]


def test_artifacts_can_come_and_go_while_batches_run(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifact = make_artifact(1)
    expected = reference(loaded.vit, artifact, 0)
    with running(loaded.vit, max_batch_size=4) as harness:
        mine = harness.insert("mine", artifact)
        stop = threading.Event()

        def churn() -> None:
            seed = 100
            while not stop.is_set():
                added = [harness.insert(f"d{seed}-{i}", make_artifact(seed + i)) for i in range(20)]
                del added
                seed += 20

        churning = threading.Thread(target=churn)
        churning.start()
        try:
            for _ in range(20):
                for outcome in harness.classify([row(0, mine) for _ in range(4)]):
                    np.testing.assert_allclose(probabilities(outcome), expected, atol=1e-5)
        finally:
            stop.set()
            churning.join()


def test_late_and_cancelled_rows_leave_their_batch_mates_alone(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifact = make_artifact(1)
    harness = Harness(loaded.vit)
    entry = harness.insert("d", artifact)
    good, late, cancelled, other = (row(i, entry) for i in range(4))
    late = row(1, entry, deadline_s=time.monotonic() - 1)
    harness.batcher.submit([good, late, cancelled, other])
    cancelled.cancelled = True
    harness.engine.start()
    outcomes = harness.wait([good, late, other])
    assert harness.engine.stop(30)
    np.testing.assert_allclose(
        probabilities(outcomes[0]), reference(loaded.vit, artifact, 0), atol=1e-5
    )
    assert isinstance(outcomes[1], DeadlineExceededError)
    np.testing.assert_allclose(
        probabilities(outcomes[2]), reference(loaded.vit, artifact, 3), atol=1e-5
    )
    assert cancelled not in harness.outcomes
    assert [report.size for report in harness.reports] == [2]


def test_a_failed_batch_is_reported_to_its_rows_and_the_next_one_runs(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    broken = threading.Event()

    def fail(*_: object) -> None:
        if broken.is_set():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    hook = loaded.vit.vit.patch_embed.register_forward_pre_hook(fail)
    try:
        with running(loaded.vit) as harness:
            entry = harness.insert("d", make_artifact(1))
            broken.set()
            for _ in range(UNHEALTHY_AFTER_FAILURES):
                assert harness.engine.healthy
                outcomes = harness.classify([row(0, entry), row(1, entry)])
                assert [type(outcome) for outcome in outcomes] == [EngineFailedError] * 2
            assert not harness.engine.healthy
            assert harness.reports[-1].failed
            broken.clear()
            assert isinstance(harness.classify([row(0, entry)])[0], RowResult)
            assert harness.engine.healthy
    finally:
        hook.remove()


def test_an_image_that_fails_in_every_batch_makes_the_engine_no_less_healthy(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    forward = Forward(EagerPass(loaded.vit))
    guilty: list[Row] = []

    def compute(rows: list[Row]) -> list[ComputedRow]:
        if any(each in guilty for each in rows):
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows)

    with running(loaded.vit, compute=compute) as harness:
        entry = harness.insert("d", make_artifact(1))
        for _ in range(UNHEALTHY_AFTER_FAILURES + 1):
            guilty.append(row(1, entry))
            outcomes = harness.classify([row(0, entry), guilty[-1]])
            assert [type(outcome) for outcome in outcomes] == [RowResult, EngineFailedError]
            assert harness.engine.healthy


def test_a_device_that_is_lost_for_good_still_gives_each_row_an_outcome(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an illegal access every call to the device fails, that which frees memory too."""

    def fail(*_: object) -> list[ComputedRow]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    with running(loaded.vit, compute=fail) as harness:
        entry = harness.insert("d", make_artifact(1))
        for _ in range(UNHEALTHY_AFTER_FAILURES):
            assert harness.engine.healthy
            outcomes = harness.classify([row(0, entry), row(1, entry)])
            assert [type(outcome) for outcome in outcomes] == [EngineFailedError] * 2
        assert not harness.engine.healthy


def test_a_pass_that_succeeds_in_halves_has_failed_as_a_whole(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    forward = Forward(EagerPass(loaded.vit))

    def compute(rows: list[Row]) -> list[ComputedRow]:
        if len(rows) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows)

    with running(loaded.vit, compute=compute) as harness:
        entry = harness.insert("d", make_artifact(1))
        outcomes = harness.classify([row(0, entry), row(1, entry)])
        assert [type(outcome) for outcome in outcomes] == [RowResult] * 2
    assert [report.failed for report in harness.reports] == [True]


def test_rows_are_tried_again_although_cached_memory_cannot_be_given_back(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    """As torch refuses it after a capture that failed."""
    forward = Forward(EagerPass(loaded.vit))
    events: list[int | str] = []

    def compute(rows: list[Row]) -> list[ComputedRow]:
        events.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows)

    def free_cached() -> None:
        events.append("free")
        raise RuntimeError("a capture is under way")

    harness = Harness(loaded.vit, compute=compute, free_cached=free_cached)
    entry = harness.insert("d", make_artifact(1))
    rows = [row(i, entry) for i in range(2)]
    harness.batcher.submit(rows)
    harness.engine.start()
    assert [type(outcome) for outcome in harness.wait(rows)] == [RowResult] * 2
    assert harness.engine.stop(30)
    assert events == [2, "free", 1, "free", 1]


def test_an_engine_that_waits_for_rows_keeps_none_of_those_before(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    """Their pixels may be memory of a front that is gone, their artifacts deleted."""
    with running(loaded.vit) as harness:
        entry = harness.insert("d", make_artifact(1))
        rows = [row(0, entry), row(1, entry), row(2, entry, deadline_s=0.0)]
        kept = [weakref.ref(each) for each in rows]
        harness.classify(rows)
        harness.outcomes.clear()
        rows.clear()
        deadline_s = time.monotonic() + 10
        while any(each() is not None for each in kept):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


@pytest.mark.parametrize("was_idle", [True, False])
def test_what_is_idle_leaves_for_a_pass_that_runs_out_of_memory(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact], was_idle: bool
) -> None:
    forward = Forward(EagerPass(loaded.vit))
    sizes: list[int] = []
    room: list[bool] = []

    def compute(rows: list[Row]) -> list[ComputedRow]:
        sizes.append(len(rows))
        if len(rows) > 1 and not any(room):
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows)

    def make_room() -> bool:
        room.append(was_idle)
        return was_idle

    harness = Harness(loaded.vit, compute=compute, make_room=make_room)
    entry = harness.insert("d", make_artifact(1))
    rows = [row(i, entry) for i in range(2)]
    harness.batcher.submit(rows)
    harness.engine.start()
    assert [type(outcome) for outcome in harness.wait(rows)] == [RowResult] * 2
    assert harness.engine.stop(30)
    assert room == [was_idle]
    assert sizes == ([2, 2] if was_idle else [2, 1, 1])


def test_another_failure_than_want_of_memory_makes_no_room(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    def compute(rows: list[Row]) -> list[ComputedRow]:
        raise RuntimeError(f"{len(rows)} rows")

    harness = Harness(loaded.vit, compute=compute, make_room=lambda: pytest.fail("no need"))
    entry = harness.insert("d", make_artifact(1))
    harness.engine.start()
    (outcome,) = harness.classify([row(0, entry)])
    assert isinstance(outcome, EngineFailedError)
    assert harness.engine.healthy
    assert harness.engine.stop(30)


def test_stop_answers_what_is_queued(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    harness = Harness(loaded.vit, max_batch_size=2)
    entry = harness.insert("d", make_artifact(1))
    rows = [row(i, entry) for i in range(9)]
    harness.batcher.submit(rows)
    assert not harness.engine.healthy
    harness.engine.start()
    assert harness.engine.stop(30)
    assert all(isinstance(harness.outcomes[each], RowResult) for each in rows)
    assert not harness.batcher.submit([row(0, entry)])


def test_a_row_that_fails_alone_does_not_take_others_with_it(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    """As when memory does not suffice for the whole batch, and one row is past all help."""
    artifact = make_artifact(1)
    forward = Forward(EagerPass(loaded.vit))
    sizes: list[int] = []

    def compute(rows: list[Row]) -> list[ComputedRow]:
        sizes.append(len(rows))
        if len(rows) > 4 or guilty in rows:
            raise torch.OutOfMemoryError("out of memory")
        return forward(rows)

    harness = Harness(loaded.vit, compute=compute)
    entry = harness.insert("d", artifact)
    rows = [row(i, entry) for i in range(16)]
    guilty = rows[5]
    harness.batcher.submit(rows)
    harness.engine.start()
    outcomes = harness.wait(rows)
    assert harness.engine.healthy
    assert harness.engine.stop(30)
    for i, outcome in enumerate(outcomes):
        if rows[i] is guilty:
            assert isinstance(outcome, EngineFailedError)
        else:
            expected = reference(loaded.vit, artifact, i)
            np.testing.assert_allclose(probabilities(outcome), expected, atol=1e-5)
    assert sizes == [16, 8, 4, 4, 2, 1, 1, 2, 8, 4, 4]
    assert [report.failed for report in harness.reports] == [True]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_whose_pixels_are_not_finite_fails_alone(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact], value: float
) -> None:
    def floats(seed: int, entry: BankEntry) -> Row:
        values = np.random.default_rng(seed).standard_normal((3, 32, 32), dtype=np.float32)
        return Row(values, entry, FOREVER_S, time.monotonic(), entry.digest)

    with running(loaded.vit) as harness:
        entry = harness.insert("d", make_artifact(1))
        alone = [probabilities(harness.classify([floats(i, entry)])[0]) for i in range(4)]
        rows = [floats(i, entry) for i in range(4)]
        rows[2].pixels[1, 5, 7] = value
        outcomes = harness.classify(rows)
        for i in (0, 1, 3):
            np.testing.assert_array_equal(probabilities(outcomes[i]), alone[i])
        assert isinstance(outcomes[2], NotFiniteError)
        assert harness.engine.healthy


def test_an_artifact_that_gives_nothing_finite_is_not_the_image_s_fault(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifact = make_artifact(1)
    artifact.head_weight[:] = 3e38
    with running(loaded.vit) as harness:
        entry, good = harness.insert("d", artifact), harness.insert("e", make_artifact(2))
        outcomes = harness.classify([row(0, entry), row(1, good)])
    assert isinstance(outcomes[0], EngineFailedError)
    assert isinstance(outcomes[1], RowResult)


@pytest.mark.parametrize("gone", range(4))
def test_cancelling_one_of_four_while_they_run_leaves_the_other_three_alone(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact], gone: int
) -> None:
    artifact = make_artifact(1)
    inside, let_go = threading.Event(), threading.Event()
    forward = Forward(EagerPass(loaded.vit))

    def compute(rows: list[Row]) -> list[ComputedRow]:
        inside.set()
        assert let_go.wait(30)
        return forward(rows)

    harness = Harness(loaded.vit, compute=compute)
    entry = harness.insert("d", artifact)
    rows = [row(i, entry) for i in range(4)]
    harness.batcher.submit(rows)
    harness.engine.start()
    assert inside.wait(30)
    rows[gone].cancelled = True
    let_go.set()
    for i, outcome in enumerate(harness.wait(rows)):
        expected = reference(loaded.vit, artifact, i)
        np.testing.assert_allclose(probabilities(outcome), expected, atol=1e-5)
    assert harness.engine.stop(30)


BF16_TOLERANCE = 0.02
"""Of a probability: what the kernels chosen for other batch sizes may change of it."""


def test_in_bf16_a_row_depends_on_its_batch_mates_within_the_tolerance(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    half = in_precision(loaded, "bf16").vit
    artifact = make_artifact(1)
    artifact.head_weight[:] /= 10  # so that probabilities are not all 0 or 1
    with running(half) as harness:
        mine = harness.insert("mine", artifact)
        mates = [harness.insert(f"d{i}", make_artifact(i)) for i in range(2, 32)]
        alone = probabilities(harness.classify([row(0, mine)])[0])
        assert 0.05 < alone.max() < 0.95
        for count in (1, 2, 3, 7, 15, 30):
            batch = [row(0, mine), *(row(i, mate) for i, mate in enumerate(mates[:count]))]
            together = probabilities(harness.classify(batch)[0])
            np.testing.assert_allclose(together, alone, atol=BF16_TOLERANCE)
    exact = reference(loaded.vit, artifact, 0)
    np.testing.assert_allclose(alone, exact, atol=BF16_TOLERANCE)


def test_features_come_with_the_rows_that_want_them_only(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifact = make_artifact(1)
    with running(loaded.vit) as harness:
        entry = harness.insert("d", artifact)
        rows = [row(i, entry) for i in range(3)]
        rows[1].wants_features = True
        outcomes = harness.classify(rows)
    found = [outcome.features for outcome in outcomes if isinstance(outcome, RowResult)]
    assert found[0] is None
    assert found[2] is None
    with torch.inference_mode():
        prompt = torch.from_numpy(artifact.prompt_embeddings)
        expected = loaded.vit(torch.from_numpy(pixels(1))[None], prompt)[0]
    assert found[1] is not None
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


def test_streams_compute_side_by_side(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifact = make_artifact(1)
    forward = Forward(EagerPass(loaded.vit))
    both = threading.Barrier(2)

    def compute(rows: list[Row]) -> list[ComputedRow]:
        both.wait(30)
        return forward(rows)

    harness = Harness(loaded.vit, compute=compute, num_streams=2)
    entry = harness.insert("d", artifact)
    rows = [row(i, entry) for i in range(6)]
    harness.batcher.submit(rows)
    harness.engine.start()
    for i, outcome in enumerate(harness.wait(rows)):
        expected = reference(loaded.vit, artifact, i)
        np.testing.assert_allclose(probabilities(outcome), expected, atol=1e-5)
    assert harness.engine.stop(30)
    assert [report.size for report in harness.reports] == [3, 3]


def test_one_stream_that_fails_makes_the_engine_unhealthy(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    forward = Forward(EagerPass(loaded.vit))

    def compute(rows: list[Row]) -> list[ComputedRow]:
        if threading.current_thread().name == "engine-1":
            raise RuntimeError("its memory is broken")
        return forward(rows)

    harness = Harness(loaded.vit, compute=compute, num_streams=2)
    entry = harness.insert("d", make_artifact(1))
    harness.engine.start()
    until_s = time.monotonic() + 30
    while harness.engine.healthy:
        assert time.monotonic() < until_s
        outcomes = harness.classify([row(i, entry) for i in range(8)])
        assert {type(each) for each in outcomes} <= {RowResult, EngineFailedError}
    assert harness.engine.stop(30)


def test_a_pass_that_does_not_end_makes_the_engine_unhealthy(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    forward, hangs, goes_on = Forward(EagerPass(loaded.vit)), threading.Event(), threading.Event()

    def compute(rows: list[Row]) -> list[ComputedRow]:
        hangs.set()
        assert goes_on.wait(30)
        return forward(rows)

    with running(loaded.vit, compute=compute) as harness:
        entry = harness.insert("d", make_artifact(1))
        rows = [row(0, entry)]
        assert harness.batcher.submit(rows)
        assert hangs.wait(30)
        assert harness.engine.healthy
        harness.ahead_s += MAX_PASS_S + 1
        assert not harness.engine.healthy
        goes_on.set()
        assert isinstance(harness.wait(rows)[0], RowResult)
        harness.ahead_s += MAX_PASS_S + 1  # idle for longer than a pass may take
        assert harness.engine.healthy


def test_the_number_of_threads_changes_nothing(
    loaded: LoadedBackbone, make_artifact: Callable[..., Artifact]
) -> None:
    artifact = make_artifact(1)
    usual = torch.get_num_threads()
    try:
        with running(loaded.vit) as harness:
            mine = harness.insert("mine", artifact)
            harness.num_threads = 1
            alone = probabilities(harness.classify([row(0, mine)])[0])
            harness.num_threads = 2
            together = probabilities(harness.classify([row(0, mine)])[0])
        np.testing.assert_array_equal(together, alone)
    finally:
        torch.set_num_threads(usual)

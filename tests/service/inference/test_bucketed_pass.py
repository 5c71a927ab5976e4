from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.info import LoadedBackbone
from ensemble.prompted_vit import PromptedViT
from prompt_store.artifacts import Artifact
from service.inference import bucketed_pass
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.bucketed_pass import BucketedPass, Replay, StaticBatch, static_bytes
from service.inference.host_artifact import host_artifact
from service.inference.rows import Row

BUCKETS = (1, 2, 4, 8)


class Recorder:
    """Prepares a pass that runs as it is over the static batch, and notes the sizes."""

    def __init__(self) -> None:
        self.captured: list[int] = []
        self.replayed: list[int] = []

    def __call__(self, vit: PromptedViT, static: StaticBatch) -> Replay:
        size = len(static.pixels)
        self.captured.append(size)

        def replay() -> Tensor:
            self.replayed.append(size)
            return vit(static.pixels, static.prompts)

        return replay


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def bucketed(loaded: LoadedBackbone, recorder: Recorder) -> BucketedPass:
    return BucketedPass(loaded.vit, BUCKETS, recorder)


@pytest.fixture
def entries(make_artifact: Callable[..., Artifact]) -> list[BankEntry]:
    bank = ArtifactBank(torch.device("cpu"))
    return [bank.insert(host_artifact(f"d{i}", make_artifact(i))) for i in range(3)]


def rows_of(entries: list[BankEntry], count: int, *, floats: bool = False) -> list[Row]:
    rng = np.random.default_rng(count)
    values = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    pixels = values.astype(np.float32) / 100 if floats else values
    return [Row(each, entries[i % len(entries)], 0.0, 0.0, "a") for i, each in enumerate(pixels)]


@pytest.mark.parametrize("floats", [False, True])
@torch.inference_mode()
def test_a_batch_in_a_bucket_gives_what_it_gives_alone(
    loaded: LoadedBackbone,
    bucketed: BucketedPass,
    recorder: Recorder,
    entries: list[BankEntry],
    floats: bool,
) -> None:
    eager = EagerPass(loaded.vit)
    for size in (8, 3, 1, 5, 2, 7, 8):
        rows = rows_of(entries, size, floats=floats)
        found = bucketed(rows)
        assert found.shape == (size, loaded.info.embed_dim)
        np.testing.assert_array_equal(found, eager(rows))
    assert recorder.captured == [8, 4, 1, 2]
    assert recorder.replayed == [8, 4, 1, 8, 2, 8, 8]


@torch.inference_mode()
def test_what_an_earlier_batch_left_in_the_padding_does_no_harm(
    loaded: LoadedBackbone, bucketed: BucketedPass, entries: list[BankEntry]
) -> None:
    broken = rows_of(entries, 4, floats=True)
    for row in broken:
        row.pixels[:] = np.nan
    assert torch.isnan(bucketed(broken)).all()
    rows = rows_of(entries, 3, floats=True)
    np.testing.assert_array_equal(bucketed(rows), EagerPass(loaded.vit)(rows))


@torch.inference_mode()
def test_each_prompt_shape_and_dtype_is_prepared_apart(
    loaded: LoadedBackbone,
    bucketed: BucketedPass,
    entries: list[BankEntry],
    make_artifact: Callable[..., Artifact],
) -> None:
    bank = ArtifactBank(torch.device("cpu"))
    none = bank.insert(host_artifact("none", make_artifact(7, num_tokens=0)))
    shallow = bank.insert(host_artifact("shallow", make_artifact(8, num_layers=1)))
    eager = EagerPass(loaded.vit)
    for each in (entries, [none], [shallow]):
        for floats in (False, True):
            rows = rows_of(each, 2, floats=floats)
            np.testing.assert_array_equal(bucketed(rows), eager(rows))
    assert bucketed.num_prepared == 6


@torch.inference_mode()
def test_past_the_bound_batches_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
    loaded: LoadedBackbone,
    bucketed: BucketedPass,
    recorder: Recorder,
    entries: list[BankEntry],
) -> None:
    monkeypatch.setattr(bucketed_pass, "MAX_GRAPHS", 2)
    eager = EagerPass(loaded.vit)
    for size in (1, 2, 3, 5, 1):
        rows = rows_of(entries, size)
        np.testing.assert_array_equal(bucketed(rows), eager(rows))
    assert recorder.captured == [1, 2]
    assert recorder.replayed == [1, 2, 1]


@torch.inference_mode()
def test_past_the_memory_for_buffers_batches_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
    loaded: LoadedBackbone,
    bucketed: BucketedPass,
    recorder: Recorder,
    entries: list[BankEntry],
) -> None:
    one = StaticBatch(1, rows_of(entries, 1)[0], torch.device("cpu")).num_bytes
    assert one == 3 * 32 * 32 + entries[0].prompt.nbytes  # uint8 pixels
    monkeypatch.setattr(bucketed_pass, "MAX_STATIC_BYTES", 3 * one)
    for size in (1, 8, 2, 4):
        rows = rows_of(entries, size)
        np.testing.assert_array_equal(bucketed(rows), EagerPass(loaded.vit)(rows))
    assert recorder.captured == [1, 2]


@torch.inference_mode()
def test_buffers_are_not_made_before_there_is_room_for_them(
    monkeypatch: pytest.MonkeyPatch,
    bucketed: BucketedPass,
    recorder: Recorder,
    entries: list[BankEntry],
) -> None:
    made: list[int] = []

    class Noted(StaticBatch):
        def __init__(self, bucket: int, row: Row, device: torch.device) -> None:
            made.append(bucket)
            super().__init__(bucket, row, device)

    monkeypatch.setattr(bucketed_pass, "StaticBatch", Noted)
    limit = static_bytes(3, rows_of(entries, 1)[0])
    monkeypatch.setattr(bucketed_pass, "MAX_STATIC_BYTES", limit)
    for size in (1, 8, 2, 4):
        bucketed(rows_of(entries, size))
    assert made == recorder.captured == [1, 2]


@pytest.mark.parametrize("floats", [False, True])
def test_what_buffers_take_is_known_before_they_are_made(
    entries: list[BankEntry], make_artifact: Callable[..., Artifact], floats: bool
) -> None:
    bank = ArtifactBank(torch.device("cpu"))
    none = bank.insert(host_artifact("none", make_artifact(7, num_tokens=0)))
    shallow = bank.insert(host_artifact("shallow", make_artifact(8, num_layers=1)))
    for entry in (entries[0], none, shallow):
        (row,) = rows_of([entry], 1, floats=floats)
        for bucket in BUCKETS:
            static = StaticBatch(bucket, row, torch.device("cpu"))
            assert static_bytes(bucket, row) == static.num_bytes


@torch.inference_mode()
def test_past_the_bound_what_was_used_longest_ago_gives_way_when_it_is_idle(
    monkeypatch: pytest.MonkeyPatch,
    loaded: LoadedBackbone,
    recorder: Recorder,
    entries: list[BankEntry],
) -> None:
    monkeypatch.setattr(bucketed_pass, "MAX_GRAPHS", 2)
    now_s = [0.0]
    bucketed = BucketedPass(loaded.vit, BUCKETS, recorder, lambda: now_s[0])
    eager = EagerPass(loaded.vit)
    for at_s, size in ((0, 1), (0, 2), (40, 1), (40, 4), (70, 4), (99, 4), (100, 4), (100, 1)):
        now_s[0] = float(at_s)
        rows = rows_of(entries, size)
        np.testing.assert_array_equal(bucketed(rows), eager(rows))
    # 4 had no room at 40, when 2 was not idle for long, and is looked at again after a minute.
    assert recorder.captured == [1, 2, 4]
    assert recorder.replayed == [1, 2, 1, 4, 1]
    assert bucketed.num_prepared == 2


@torch.inference_mode()
def test_what_is_idle_gives_its_buffers_to_others(
    monkeypatch: pytest.MonkeyPatch,
    loaded: LoadedBackbone,
    recorder: Recorder,
    entries: list[BankEntry],
) -> None:
    one = StaticBatch(1, rows_of(entries, 1)[0], torch.device("cpu")).num_bytes
    monkeypatch.setattr(bucketed_pass, "MAX_STATIC_BYTES", 5 * one)
    now_s = [0.0]
    bucketed = BucketedPass(loaded.vit, BUCKETS, recorder, lambda: now_s[0])
    for at_s, size in ((0, 1), (1, 2), (2, 4), (62, 4), (63, 1), (63, 8), (200, 8)):
        now_s[0] = float(at_s)
        rows = rows_of(entries, size)
        np.testing.assert_array_equal(bucketed(rows), EagerPass(loaded.vit)(rows))
    assert recorder.captured == [1, 2, 4, 1]
    assert bucketed.num_prepared == 2  # nothing goes for one that has no room even then


@torch.inference_mode()
def test_a_capture_that_fails_is_tried_again_after_a_while(
    loaded: LoadedBackbone, recorder: Recorder, entries: list[BankEntry]
) -> None:
    now_s, tries = [0.0], 0

    def fail_once(vit: PromptedViT, static: StaticBatch) -> Replay:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise torch.OutOfMemoryError("out of memory")
        return recorder(vit, static)

    bucketed = BucketedPass(loaded.vit, BUCKETS, fail_once, lambda: now_s[0])
    rows = rows_of(entries, 3)
    for at_s, expected in ((0, 1), (59, 1), (60, 2), (61, 2)):
        now_s[0] = float(at_s)
        np.testing.assert_array_equal(bucketed(rows), EagerPass(loaded.vit)(rows))
        assert tries == expected
    assert recorder.replayed == [4, 4]


@torch.inference_mode()
def test_a_capture_that_fails_is_not_tried_again_at_once(
    loaded: LoadedBackbone, entries: list[BankEntry]
) -> None:
    tries: list[int] = []

    def fail(_: PromptedViT, static: StaticBatch) -> Replay:
        tries.append(len(static.pixels))
        raise torch.OutOfMemoryError("out of memory")

    bucketed = BucketedPass(loaded.vit, BUCKETS, fail)
    rows = rows_of(entries, 3)
    for _ in range(2):
        np.testing.assert_array_equal(bucketed(rows), EagerPass(loaded.vit)(rows))
    assert tries == [4]
    assert bucketed.num_prepared == 0

import gc
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import cast

import pytest
import torch

from backbones.info import LoadedBackbone
from jobs.ensembles import EnsembleStore
from prompt_store.blobs import BlobStore
from prompt_store.objects import ObjectStore
from service.inference import known_shapes
from service.inference.backbone_pass import EagerPass
from service.inference.bank import ArtifactBank
from service.inference.engine_parts import warm_up_engine
from service.inference.forward import ComputedRow, Forward
from service.inference.known_shapes import known_prompt_shapes
from service.inference.rows import Row
from service.inference.warm_up import warm_up


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_every_size_runs_once_for_every_prompt_shape(
    loaded: LoadedBackbone, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    forward = Forward(EagerPass(loaded.vit))
    ran: list[tuple[tuple[int, int], int]] = []

    def compute(rows: list[Row]) -> list[ComputedRow]:
        ran.append((rows[0].entry.prompt_shape, len(rows)))
        return forward(rows)

    warm_up(
        compute,
        ArtifactBank(loaded.vit.device),
        shapes={(2, 3), (1, 5)},
        sizes=(1, 4),
        embed_dim=loaded.info.embed_dim,
        image_size_px=loaded.info.image_size_px,
    )
    assert ran == [(shape, size) for shape in ((0, 0), (1, 5), (2, 3)) for size in (4, 1)]
    (record,) = [record for record in caplog.records if record.message == "warmed up"]
    assert record.__dict__["seconds"] > 0
    assert gc.get_freeze_count() > 0
    assert record.__dict__["batch_sizes"] == [1, 4]


def test_float_pixels_run_at_sizes_of_their_own(loaded: LoadedBackbone) -> None:
    ran: list[tuple[str, int]] = []
    warm_up(
        lambda rows: ran.append((rows[0].pixels.dtype.name, len(rows))),
        ArtifactBank(loaded.vit.device),
        shapes=(),
        sizes=(1, 2, 4),
        float_sizes=(1, 4),
        embed_dim=loaded.info.embed_dim,
        image_size_px=loaded.info.image_size_px,
    )
    assert ran == [("uint8", 4), ("uint8", 2), ("uint8", 1), ("float32", 4), ("float32", 1)]


def test_a_cpu_runs_two_sizes_also_where_there_is_a_gpu(
    loaded: LoadedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sizes: list[int] = []

    def compute(rows: list[Row]) -> list[ComputedRow]:
        sizes.append(len(rows))
        return []

    bank = ArtifactBank(torch.device("cpu"))
    warm_up_engine(cast("Forward", compute), bank, loaded.info, 8, set())
    assert sizes == [8, 1]


def test_the_shapes_of_what_can_be_served_are_known(
    publish: Callable[..., object],
    ensembles: EnsembleStore,
    blobs: BlobStore,
    loaded: LoadedBackbone,
) -> None:
    assert known_prompt_shapes(ensembles, blobs, loaded.info.digest) == set()
    publish("deep", num_layers=2, num_tokens=3)
    publish("shallow", num_layers=1, num_tokens=7)
    publish("none", num_tokens=0)
    publish("alien", num_layers=9, num_tokens=4, backbone_digest=f"sha256:{'f' * 64}")
    assert known_prompt_shapes(ensembles, blobs, loaded.info.digest) == {(2, 3), (1, 7), (0, 0)}


def test_an_unfinished_fit_has_no_shape(
    make_spec: Callable[..., object],
    ensembles: EnsembleStore,
    blobs: BlobStore,
    loaded: LoadedBackbone,
) -> None:
    ensembles.create(make_spec("zoo"))
    assert known_prompt_shapes(ensembles, blobs, loaded.info.digest) == set()


def test_a_damaged_artifact_does_not_keep_the_service_from_starting(
    publish: Callable[..., tuple[object, str]],
    objects: ObjectStore,
    blobs: BlobStore,
    loaded: LoadedBackbone,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, digest = publish("zoo")
    objects.delete(f"sha256/{digest.removeprefix('sha256:')[:2]}/{digest.removeprefix('sha256:')}")
    ensembles = EnsembleStore(objects, blobs, lambda: datetime.now(UTC))
    assert known_prompt_shapes(ensembles, blobs, loaded.info.digest) == set()
    assert "not known" in caplog.text
    publish("zoo-2", num_layers=1, num_tokens=7)
    assert known_prompt_shapes(ensembles, blobs, loaded.info.digest) == {(1, 7)}


def test_what_cannot_be_served_takes_no_place_among_those_looked_at(
    publish: Callable[..., object],
    make_spec: Callable[..., object],
    ensembles: EnsembleStore,
    blobs: BlobStore,
    loaded: LoadedBackbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_shapes, "MAX_ENSEMBLES", 1)
    publish("a-deleted")
    ensembles.delete("a-deleted")
    ensembles.create(make_spec("b-unfinished"))
    publish("c-alien", num_layers=2, num_tokens=4, backbone_digest=f"sha256:{'f' * 64}")
    publish("d-zoo", num_layers=1, num_tokens=7)
    publish("e-ark", num_layers=1, num_tokens=5)
    assert known_prompt_shapes(ensembles, blobs, loaded.info.digest) == {(1, 7)}


def test_a_slow_store_is_not_asked_for_all(
    publish: Callable[..., object],
    ensembles: EnsembleStore,
    blobs: BlobStore,
    loaded: LoadedBackbone,
) -> None:
    publish("ark", num_layers=1, num_tokens=5)
    publish("zoo", num_layers=1, num_tokens=7)
    readings = iter([0.0, known_shapes.MAX_SECONDS + 1])  # the first took so long
    digest = loaded.info.digest
    found = known_prompt_shapes(ensembles, blobs, digest, clock=lambda: next(readings))
    assert found == {(1, 5)}

import errno
import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.info import LoadedBackbone
from backbones.precision import in_precision
from ensemble.errors import FitStoppedError
from ensemble.fitting import fit_ensemble
from ensemble.options import TUNING_METHODS, FitOptions, Method
from ensemble.prompt_tuning import LabelledPixels
from images.errors import ArchiveError
from jobs.context import FitContext
from jobs.errors import FitRefusedError
from jobs.records import FitResultDocs, FitSpec, SourceRef, TaskRef
from prompt_store.artifacts import read_artifact
from prompt_store.blobs import BlobStore
from prompt_store.codec import PromptFile, PromptLimits, write_prompt
from prompt_store.errors import (
    DigestMismatchError,
    InvalidPromptError,
    NotFoundError,
    StoreFullError,
    StoreUnavailableError,
)
from worker.fit_job import EXPECTED_ERRORS, FitJob, build_artifact, load_sources
from worker.result_document import result_document
from worker.stored_prompts import stored_prompt
from worker.task_images import load_task_images

MakeSpec = Callable[..., FitSpec]
Claim = Callable[[FitSpec], FitContext]
METHODS: tuple[Method, ...] = get_args(Method)
NAMES = ("one", "two", "three")


@pytest.fixture
def run(backbone: LoadedBackbone, blobs: BlobStore, claim: Claim) -> Callable[..., FitResultDocs]:
    def run_(spec: FitSpec) -> FitResultDocs:
        return FitJob(backbone, blobs, lambda: backbone)(claim(spec))

    return run_


Run = Callable[[FitSpec], FitResultDocs]


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_publishes_an_artifact_and_describes_it(
    run: Run, make_spec: MakeSpec, method: Method
) -> None:
    options = FitOptions(tuning_epochs=1 if method in TUNING_METHODS else 0)
    spec = make_spec(method=method, options=options, seed=4)

    docs = run(spec)

    artifact, result = read_artifact(docs.artifact), json.loads(docs.result_json())
    assert artifact.classes == tuple(result["classes"]) == ("cyan", "magenta", "yellow")
    assert artifact.backbone_digest == spec.backbone_digest
    assert artifact.head_weight.shape == (3, 192)
    assert artifact.metadata["method"] == method
    assert artifact.metadata["chosen"] == result["chosen"]["method"]
    assert artifact.metadata["seed"] == "4"
    assert artifact.metadata["code_version"] == version("hgprompt")
    assert artifact.metadata["task"] == "inks@1"
    assert artifact.metadata["task_digest"] == spec.task.digest
    assert artifact.metadata["composite_digest"] == result["lineage"]["composite_digest"]
    chosen_sources = [(s.name, s.version, s.digest) for s in artifact.sources]
    if result["chosen"]["method"] == "none":
        assert (chosen_sources, artifact.prompt_embeddings.shape) == ([], (1, 0, 192))
    elif result["chosen"]["method"] == "vpt":
        assert (chosen_sources, artifact.prompt_embeddings.shape) == ([], (2, 3, 192))
    else:
        assert chosen_sources == [(s.name, s.version, s.digest) for s in spec.sources]
        assert [s.weight for s in artifact.sources] == artifact.weights.tolist()
        assert artifact.prompt_embeddings.shape == (2, 3, 192)
    assert result["validation"]["num_images"] == sum(map(sum, result["confusion_matrix"])) == 9
    assert result["chosen"] in result["leaderboard"]
    for place in result["leaderboard"]:
        low, high = place["ci95"]
        assert low <= place["accuracy"] <= high
        if place["method"] != "spot":  # whose candidates are the nearest source and an average
            assert ("source" in place) == (place["method"] in {"single", "logme", "panda"})
    assert result["lineage"]["num_images"] == 30


def test_copies_of_an_image_count_once(
    run: Run,
    make_spec: MakeSpec,
    make_folder: Callable[..., tuple[Path, tuple[str, ...]]],
    put_task: Callable[..., TaskRef],
) -> None:
    path, _ = make_folder(cyan=10, magenta=10)
    copies = {f"cyan__{i}.png": (path / "cyan" / "003.png").read_bytes() for i in range(6)}

    once, again = (run(make_spec(task=put_task(path, **more))).result for more in ({}, copies))

    assert (again["lineage"]["num_images"], again["lineage"]["num_copies"]) == (20, 6)
    for part in ("leaderboard", "weights", "validation", "confusion_matrix"):
        assert again[part] == once[part]


def test_the_result_of_a_learned_ensemble_is_complete(run: Run, make_spec: MakeSpec) -> None:
    result = json.loads(run(make_spec()).result_json())

    assert set(result["weights"]) == set(NAMES)
    assert sum(result["weights"].values()) == pytest.approx(1)
    assert set(result["objective"]) == {
        "h_score",
        "h_score_adjusted",
        "gradient_penalty",
        "total",
        "composite_h_score_adjusted",
    }
    assert [source["name"] for source in result["sources"]] == list(NAMES)
    by_source = {p.get("source"): p["accuracy"] for p in result["leaderboard"]}
    for source in result["sources"]:
        assert source["validation_accuracy"] == by_source[source["name"]]
        assert 0 <= source["h_score"] <= 2 + 1e-9
    assert np.array(result["gradient_cosine"]).shape == (3, 3)
    assert 0 < result["composition_gap"]["aligned"] < 10
    numbers, objectives = zip(*result["objective_curve"], strict=True)
    assert list(numbers) == list(range(1, len(numbers) + 1))
    assert objectives[-1] == pytest.approx(result["objective"]["total"])
    stages = {"features", "gradients", "weights", "composite", "head"}
    stages |= {"source scores", "composition gap"}
    assert set(result["timings_s"]) == stages


def test_the_artifact_alone_classifies_as_the_result_says(
    run: Run, make_spec: MakeSpec, backbone: LoadedBackbone, make_folder: Callable[..., Any]
) -> None:
    """With nothing but the artifact and the backbone, as the service does it."""
    docs = run(make_spec())

    artifact = read_artifact(docs.artifact)
    fresh = load_task_images(make_folder("fresh", seed=9).path, backbone.info.preprocessing)
    features = backbone.vit(fresh.pixels, torch.from_numpy(artifact.prompt_embeddings))
    logits = features @ torch.from_numpy(artifact.head_weight).T
    logits = logits + torch.from_numpy(artifact.head_bias)
    assert fresh.classes == artifact.classes
    assert (logits.argmax(1) == fresh.labels).float().mean() > 0.9
    assert json.loads(docs.result_json())["validation"]["accuracy"] > 0.7


@pytest.mark.parametrize(
    ("method", "options"),
    [("hgprompt", FitOptions()), ("single", FitOptions()), ("mean", FitOptions(tuning_epochs=2))],
)
def test_the_same_fit_gives_the_same_bytes(
    run: Run, make_spec: MakeSpec, method: Method, options: FitOptions
) -> None:
    spec = make_spec(method=method, options=options)

    first, second = run(spec), run(spec)  # the second is the next version of the ensemble

    assert first.artifact == second.artifact
    results = [docs.result | {"timings_s": None} for docs in (first, second)]
    assert results[0] == results[1]


def test_an_artifact_names_the_sources_that_were_kept(
    backbone: LoadedBackbone, blobs: BlobStore, claim: Claim, make_spec: MakeSpec, tmp_path: Path
) -> None:
    request = claim(make_spec()).request
    task = load_task_images(tmp_path / "task", backbone.info.preprocessing)
    prompts = load_sources(request.sources, blobs, backbone)
    found = fit_ensemble(
        backbone.vit,
        [prompts[0], prompts[2]],
        LabelledPixels(task.pixels, task.labels),
        num_classes=3,
        method="mean",
    )

    artifact = build_artifact(request, task, replace(found, kept=(0, 2)))

    assert [(s.name, s.weight) for s in artifact.sources] == [("one", 0.5), ("three", 0.5)]


def test_the_seed_of_the_request_decides_what_is_held_out(
    run: Run, make_spec: MakeSpec, put_task: Callable[..., TaskRef]
) -> None:
    spec = make_spec(method="none", sources=(), task=put_task())

    first, same, other = (
        json.loads(run(spec.model_copy(update={"seed": seed})).result_json()) for seed in (4, 4, 5)
    )

    assert first["validation"] == same["validation"] != other["validation"]


def test_one_source_and_identical_sources_can_be_published(
    run: Run,
    make_spec: MakeSpec,
    put_prompt: Callable[..., SourceRef],
    put_task: Callable[..., TaskRef],
) -> None:
    task = put_task()
    for names in (("one",), ("one", "same", "again")):
        sources = tuple(put_prompt(name, 0) for name in names)

        result = json.loads(run(make_spec(sources=sources, task=task)).result_json())

        assert result["composition_gap"] is None
        assert result["advice"]
        assert list(result["weights"].values()) == pytest.approx([1 / len(names)] * len(names))


def test_an_artifact_has_the_weights_of_the_candidate_it_serves(
    backbone: LoadedBackbone, blobs: BlobStore, claim: Claim, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Which need not be the learned ones."""
    request = claim(make_spec()).request
    task = load_task_images(tmp_path / "task", backbone.info.preprocessing)
    found = fit_ensemble(
        backbone.vit,
        load_sources(request.sources, blobs, backbone),
        LabelledPixels(task.pixels, task.labels),
        num_classes=3,
    )
    second = next(c for c in found.candidates if c.standing.source == 1)
    found = replace(found, served=second)

    artifact = build_artifact(request, task, found)

    assert artifact.weights.tolist() == [source.weight for source in artifact.sources] == [0, 1, 0]
    for stored, fitted in (
        (artifact.prompt_embeddings, second.prompt),
        (artifact.head_weight, second.head.weight),
        (artifact.head_bias, second.head.bias),
    ):
        assert torch.equal(torch.from_numpy(stored), fitted.float())
    assert (artifact.metadata["method"], artifact.metadata["chosen"]) == ("hgprompt", "single")
    described = result_document(request, task, found)
    assert described["chosen"]["source"] == "two"
    assert list(described["weights"].values()) == found.weights.tolist()


def test_a_fit_without_sources(run: Run, make_spec: MakeSpec) -> None:
    result = json.loads(run(make_spec(sources=(), method="none")).result_json())

    assert (result["weights"], result["sources"], result["objective"]) == ({}, [], None)


def test_no_prompt_reads_no_source(
    run: Run, make_spec: MakeSpec, put_prompt: Callable[..., SourceRef]
) -> None:
    shapes = (put_prompt("deep"), put_prompt("shallow", num_layers=1))
    docs = run(make_spec(method="none", sources=shapes))
    assert docs.result["chosen"]["method"] == "none"
    assert [source["name"] for source in docs.result["lineage"]["sources"]] == ["deep", "shallow"]


def test_an_artifact_is_not_called_tuned_where_tuning_did_not_help(
    run: Run, make_spec: MakeSpec
) -> None:
    """Steps as large as these only spoil a prompt."""
    docs = run(
        make_spec(method="mean", options=FitOptions(tuning_epochs=2, prompt_learning_rate=1.0))
    )

    assert "tuning" in docs.result["timings_s"]
    assert [place.get("tuned", False) for place in docs.result["leaderboard"]] == [False]
    assert read_artifact(docs.artifact).metadata["tuned"] == "false"


def test_progress_is_reported_stage_by_stage(
    backbone: LoadedBackbone, blobs: BlobStore, claim: Claim, make_spec: MakeSpec
) -> None:
    context = claim(make_spec())

    docs = FitJob(backbone, blobs, lambda: backbone)(context)

    reports = context.take_reports()
    stages = [report.stage for report in reports]
    assert stages == [
        "images",
        "features",
        "gradients",
        "weights",
        "composite",
        "composition gap",
        "publish",
    ]
    assert (reports[0].step, reports[1].step, reports[1].total) == (30, 120, 120)
    assert reports[3].weights == docs.result["weights"]
    assert reports[3].objective == pytest.approx(docs.result["objective"]["total"])


def test_a_worker_with_rounded_weights_computes_in_fp32_where_it_is_asked_to(
    backbone: LoadedBackbone, blobs: BlobStore, claim: Claim, make_spec: MakeSpec
) -> None:
    spec = make_spec(method="none", options=FitOptions(precision="fp32"))
    rounded, loads = in_precision(backbone, "bf16"), []

    def load_fp32() -> LoadedBackbone:
        loads.append(backbone)
        return backbone

    job = FitJob(rounded, blobs, load_fp32)
    exact = FitJob(backbone, blobs, lambda: backbone)(claim(spec)).artifact
    assert [job(claim(spec)).artifact for _ in range(2)] == [exact, exact]
    assert loads == [backbone]
    assert job(claim(make_spec(method="none", task=spec.task))).artifact != exact


def test_it_stops_while_it_reads_the_images(
    backbone: LoadedBackbone, blobs: BlobStore, claim: Claim, make_spec: MakeSpec
) -> None:
    context = claim(make_spec())
    context.stop("ended")

    with pytest.raises(FitStoppedError, match="after 1 images were read"):
        FitJob(backbone, blobs, lambda: backbone)(context)


def test_it_stops_while_it_computes(
    backbone: LoadedBackbone,
    blobs: BlobStore,
    claim: Claim,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = claim(make_spec())
    report = context.report_progress

    def stop_at_features(stage: str, *arguments: Any, **more: Any) -> None:
        report(stage, *arguments, **more)
        if stage == "features":
            context.stop("ended")

    monkeypatch.setattr(context, "report_progress", stop_at_features)
    with pytest.raises(FitStoppedError, match="forward passes"):
        FitJob(backbone, blobs, lambda: backbone)(context)


def test_another_backbone_is_refused_by_both_digests(
    run: Run, make_spec: MakeSpec, backbone: LoadedBackbone
) -> None:
    other = f"sha256:{'4' * 64}"

    with pytest.raises(FitRefusedError) as caught:
        run(make_spec(backbone_digest=other))

    assert other in caught.value.detail
    assert backbone.info.digest in caught.value.detail
    assert caught.value.slug == "backbone-mismatch"


def blob_path(folder: Path, digest: str) -> Path:
    """The file that holds a blob."""
    (path,) = folder.rglob(digest.removeprefix("sha256:"))
    return path


@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE])
def test_a_scratch_disk_that_cannot_be_written_is_no_failure(
    run: Run, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """It is the worker's: another one, or this one later, may compute the fit."""
    spec = make_spec()

    def on_a_bad_disk(**_: object) -> str:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(tempfile, "mkdtemp", on_a_bad_disk)
    with pytest.raises(StoreUnavailableError, match="the task cannot be unpacked") as caught:
        run(spec)
    assert not isinstance(caught.value, (StoreFullError, *EXPECTED_ERRORS))


@pytest.mark.parametrize("what", ["source", "task"])
def test_a_blob_that_has_rotted_ends_the_fit_with_its_digest(
    run: Run, make_spec: MakeSpec, tmp_path: Path, what: str
) -> None:
    spec = make_spec()
    digest = spec.sources[1].digest if what == "source" else spec.task.digest
    path = blob_path(tmp_path / "store", digest)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)

    with pytest.raises(DigestMismatchError, match=digest) as caught:
        run(spec)

    assert isinstance(caught.value, EXPECTED_ERRORS)


def test_a_blob_that_is_gone_is_named(run: Run, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    blob_path(tmp_path / "store", spec.sources[0].digest).unlink()

    with pytest.raises(NotFoundError, match=spec.sources[0].digest[7:]) as caught:
        run(spec)

    assert isinstance(caught.value, EXPECTED_ERRORS)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_scratch_disk_is_no_failure(
    run: Run, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    spec = make_spec()
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def on_a_full_disk(**_: object) -> str:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(tempfile, "mkdtemp", on_a_full_disk)
    with pytest.raises(
        StoreFullError, match=rf"no room to unpack the task: .*{os.strerror(error)}"
    ):
        run(spec)


def test_a_source_of_the_wrong_depth_is_refused(
    run: Run, make_spec: MakeSpec, put_prompt: Callable[..., SourceRef]
) -> None:
    sources = (put_prompt("odd", num_layers=3),)

    with pytest.raises(InvalidPromptError, match="has depth 3; it must be 1 or the backbone's 2"):
        run(make_spec(sources=sources))


def test_an_image_that_is_none_is_named(
    run: Run, make_spec: MakeSpec, put_task: Callable[..., TaskRef]
) -> None:
    task = put_task(cyan__broken=b"not an image")

    with pytest.raises(ArchiveError, match="entry 'cyan/broken'") as caught:
        run(make_spec(task=task))

    assert isinstance(caught.value, EXPECTED_ERRORS)


def test_what_the_service_was_told_to_take_can_be_fitted(
    run: Run,
    make_spec: MakeSpec,
    put_task: Callable[..., TaskRef],
    backbone: LoadedBackbone,
    blobs: BlobStore,
    tmp_path: Path,
) -> None:
    """Its limits can be raised; the worker has none of its own on what is stored."""
    buffer = io.BytesIO()
    Image.new("RGB", (2700, 2700)).save(buffer, "BMP")
    task = put_task(cyan__large=buffer.getvalue())
    blobs.fetch_to(task.digest, tmp_path / "task.zip")
    with pytest.raises(ArchiveError, match="for one image"):
        load_task_images(tmp_path / "task.zip", backbone.info.preprocessing)

    assert run(make_spec(task=task)).artifact

    large = np.zeros((1, 512, 9000), np.float32)
    file = PromptFile(
        large, metadata={"backbone": "large", "backbone_digest": f"sha256:{'0' * 64}"}
    )
    data = write_prompt(file, limits=PromptLimits(max_bytes=20_000_000))
    assert len(data) > PromptLimits().max_bytes
    assert stored_prompt(blobs, blobs.put_bytes(data)).shape == large.shape

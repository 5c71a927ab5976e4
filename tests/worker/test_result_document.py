"""The result document, for every method and option: complete, about the right sources, and JSON."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from backbones.info import LoadedBackbone
from ensemble import screening as screening_module
from ensemble.composition import composite_digest
from ensemble.fit_result import FitResult
from ensemble.fitting import fit_ensemble
from ensemble.methods import hgprompt, target_prompt
from ensemble.methods.findings import CompositionGap
from ensemble.methods.hgprompt import GRADIENT_IMAGES
from ensemble.options import TUNING_METHODS, FitOptions, Method
from ensemble.projection import t_sne
from ensemble.prompt_tuning import LabelledPixels
from jobs.context import FitContext
from jobs.records import FitRequest, FitSpec, SourceRef, TaskRef
from jobs.result_document import ResultDocument
from prompt_store.blobs import BlobStore
from tests.result_parts import RESULT_PARTS
from worker import result_document as document_module
from worker.fit_job import build_artifact, load_sources
from worker.result_document import result_document
from worker.task_images import TaskImages, load_task_images

METHODS: tuple[Method, ...] = get_args(Method)
NAMES = ["zero", "one", "two", "three"]
EVERYTHING = FitOptions(
    tuning_epochs=1, composition="exact", cotangent_refreshes=2, ablations=True, max_sources=3
)


@dataclass(frozen=True)
class Described:
    """A fit, and its document as a reader gets it."""

    request: FitRequest
    task: TaskImages
    found: FitResult
    document: dict[str, Any]


def described(request: FitRequest, task: TaskImages, found: FitResult) -> dict[str, Any]:
    return json.loads(json.dumps(result_document(request, task, found), allow_nan=False))


@pytest.fixture(autouse=True)
def short_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the target's prompt after a few steps: as it is done, but soon."""
    monkeypatch.setattr(target_prompt, "NUM_STEPS", 4)


@pytest.fixture
def task(
    backbone: LoadedBackbone, put_task: Callable[..., TaskRef], tmp_path: Path
) -> tuple[TaskRef, TaskImages]:
    ref = put_task()
    return ref, load_task_images(tmp_path / "task", backbone.info.preprocessing)


@pytest.fixture
def describe(
    backbone: LoadedBackbone,
    blobs: BlobStore,
    claim: Callable[[FitSpec], FitContext],
    make_spec: Callable[..., FitSpec],
    put_prompt: Callable[..., SourceRef],
    task: tuple[TaskRef, TaskImages],
) -> Callable[..., Described]:
    """Fit 30 images and four sources, and describe it."""

    def run(method: Method = "hgprompt", **fields: Any) -> Described:
        options = FitOptions(tuning_epochs=1 if method in TUNING_METHODS else 0)
        usual: dict[str, Any] = {
            "sources": tuple(put_prompt(name, seed) for seed, name in enumerate(NAMES)),
            "options": options,
            "seed": 4,
        }
        ref, images = task
        request = claim(make_spec(method=method, task=ref, **(usual | fields))).request
        found = fit_ensemble(
            backbone.vit,
            load_sources(request.sources, blobs, backbone),
            LabelledPixels(images.pixels, images.labels),
            num_classes=3,
            method=method,
            options=request.options,
            seed=request.seed,
        )
        return Described(request, images, found, described(request, images, found))

    return run


Describe = Callable[..., Described]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [None, EVERYTHING])
def test_every_part_is_there_and_is_json(
    describe: Describe, method: Method, options: FitOptions | None
) -> None:
    fit = describe(method, **({"options": options} if options else {}))

    document = fit.document
    assert document.keys() == set(RESULT_PARTS) == set(ResultDocument.model_fields)
    read = ResultDocument.model_validate(document)
    assert read.model_dump(mode="json", exclude_unset=True) == document
    kept = [NAMES[i] for i in fit.found.kept]
    assert len(kept) == (4 if options is None or method in {"none", "vpt"} else 3)
    weights = fit.found.weights.tolist()
    assert document["weights"] == (dict(zip(kept, weights, strict=True)) if weights else {})
    assert document["chosen"] in document["leaderboard"]
    for told, place in zip(document["leaderboard"], fit.found.leaderboard, strict=True):
        assert (told["method"], told.get("tuned", False)) == (place.method, place.tuned)
        source = None if place.source is None else kept[place.source]
        assert told.get("source") == source
        assert (told["accuracy"], told["log_loss"]) == (place.accuracy, place.log_loss)
        assert told["ci95"] == list(place.ci95)
    assert document["advice"] == fit.found.diagnostics.advice
    assert [s["name"] for s in document["sources"]] == kept
    assert document["lineage"]["method"] == method
    assert [s["name"] for s in document["lineage"]["sources"]] == NAMES
    assert all(seconds >= 0 for seconds in document["timings_s"].values())
    assert document["timings_s"] == pytest.approx(fit.found.timings_s, abs=1e-3)


def test_sources_carry_what_the_method_learned_of_them(describe: Describe) -> None:
    learned = {"h_score", "h_score_adjusted", "logme"}
    expected: dict[Method, list[set[str]]] = {
        "hgprompt": [learned | {"validation_accuracy"}] * 4,
        "single": [learned | {"validation_accuracy"}] * 4,
        "mean": [set()] * 4,
        "h_ensemble": [learned] * 4,
    }
    for method, parts in expected.items():
        sources = describe(method).document["sources"]
        assert [set(s) - {"name", "version", "digest"} for s in sources] == parts

    logme = describe("logme").document
    assert [learned <= set(source) for source in logme["sources"]] == [True] * 4
    best = max(logme["sources"], key=lambda source: source["logme"])
    assert [s for s in logme["sources"] if "validation_accuracy" in s] == [best]
    assert logme["chosen"]["source"] == best["name"]


def test_a_tuned_source_is_not_taken_for_the_source_alone(describe: Describe) -> None:
    fit = describe("single")
    best, *others = fit.found.candidates
    assert best.standing.source is not None
    worse = replace(best.standing, tuned=True, accuracy=0.0)
    found = replace(fit.found, candidates=(best, *others, replace(best, standing=worse)))

    document = described(fit.request, fit.task, found)

    assert document["leaderboard"][-1] | {"tuned": True} == document["leaderboard"][-1]
    assert document["sources"] == fit.document["sources"]
    told = document["sources"][best.standing.source]
    assert told["validation_accuracy"] == best.standing.accuracy > 0


def test_where_a_fit_comes_from_is_told(describe: Describe) -> None:
    fit = describe("none")

    lineage = fit.document["lineage"]

    assert lineage["seed"] == 4
    assert lineage["code_version"] == version("hgprompt")
    assert lineage["backbone_digest"] == fit.request.backbone_digest
    assert lineage["task"] == fit.request.task.model_dump(mode="json")
    assert lineage["sources"] == [each.model_dump(mode="json") for each in fit.request.sources]


def test_an_option_of_the_screening_is_used_where_sources_were_screened(
    describe: Describe,
) -> None:
    for most, unused in ((3, []), (4, ["shrinkage"])):
        options = FitOptions(max_sources=most, shrinkage=0.2)
        document = describe("mean", options=options).document
        assert [name for name in document["unused_options"] if name == "shrinkage"] == unused


@pytest.mark.parametrize("method", ["spot", "panda"])
def test_similarities_are_told_of_each_source(describe: Describe, method: Method) -> None:
    fit = describe(method)

    told = [source["similarity"] for source in fit.document["sources"]]
    assert told == list(fit.found.diagnostics.similarities)
    assert len(set(told)) == 4
    nearest = NAMES[told.index(max(told))]
    if method == "spot":
        # The nearest source and the average of the nearest three are told apart.
        assert {place.get("source") for place in fit.document["leaderboard"]} == {nearest, None}
    if method == "panda":
        assert fit.document["chosen"]["source"] == nearest
        assert fit.document["weights"][nearest] == 1


def test_what_was_dropped_is_named_with_the_reason(describe: Describe) -> None:
    fit = describe(options=FitOptions(max_sources=2))

    screening, found = fit.document["screening"], fit.found.screening
    assert found is not None
    assert screening["num_images"] == found.num_images == 21
    dropped = {source["name"]: source for source in screening["dropped"]}
    assert sorted([*dropped, *fit.document["weights"]]) == sorted(NAMES)
    lowest = min(score for i, score in enumerate(found.scores) if i in found.kept)
    for name, source in dropped.items():
        index = NAMES.index(name)
        assert source["digest"] == fit.request.sources[index].digest
        assert source["score"] == found.scores[index] <= lowest
        assert source["num_images"] == 21
        assert f"{source['score']:.3f} on 21 images" in source["reason"]
        assert f"the 2 sources that were kept have {lowest:.3f} or more" in source["reason"]
    assert [s["name"] for s in fit.document["sources"]] == list(fit.document["weights"])
    assert len(fit.document["gradient_cosine"]) == 2
    assert describe(options=FitOptions(max_sources=4)).document["screening"] is None


def test_a_source_is_told_the_look_that_dropped_it(
    describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening_module, "FIRST_IMAGES", 12)
    monkeypatch.setattr(screening_module, "SECOND_LOOK", 2)
    fit = describe("single", options=FitOptions(max_sources=1))

    screening, found = fit.document["screening"], fit.found.screening
    assert found is not None
    first, second = found.looks
    assert screening["num_images"] == 21
    assert screening["looks"] == [
        {"num_images": 12, "num_sources": 4},
        {"num_images": 21, "num_sources": 2},
    ]
    dropped = {NAMES.index(source["name"]): source for source in screening["dropped"]}
    assert sorted([*dropped, *found.kept]) == [0, 1, 2, 3]
    for i, source in dropped.items():
        look, stayed = (second, "kept") if i in first.kept else (first, "looked at again")
        lowest = min(look.scores[i] for i in look.kept)
        assert source["score"] == look.scores[i] <= lowest
        assert source["num_images"] == look.num_images
        assert source["reason"] == (
            f"adjusted H-score {source['score']:.3f} on {look.num_images} images; the "
            f"{len(look.kept)} sources that were {stayed} have {lowest:.3f} or more"
        )


@pytest.mark.parametrize("method", ["hgprompt", "none"])
def test_the_calibration_error_follows_from_the_reliability_bins(
    describe: Describe, method: Method
) -> None:
    fit = describe(method)

    validation = fit.document["validation"]
    bins = validation["reliability"]
    filled = [b for b in bins if b["count"]]
    error = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in filled)
    assert validation["ece"] == pytest.approx(error / validation["num_images"])
    assert sum(b["count"] for b in bins) == validation["num_images"] == 9
    right = sum(b["count"] * b["accuracy"] for b in filled)
    assert right / 9 == pytest.approx(validation["accuracy"])
    assert sum(fit.document["confusion_matrix"][c][c] for c in range(3)) == pytest.approx(right)
    assert [b["low"] for b in bins] == pytest.approx([i / 15 for i in range(15)])
    assert all(b["low"] <= b["confidence"] <= b["high"] for b in filled)
    assert all(b["confidence"] is b["accuracy"] is None for b in bins if not b["count"])
    assert validation["temperature"] == fit.found.head.temperature > 0


@pytest.mark.parametrize(("most", "told"), [(3, True), (2, False)])
def test_the_confusions_of_very_many_classes_are_left_out(
    describe: Describe, monkeypatch: pytest.MonkeyPatch, most: int, told: bool
) -> None:
    monkeypatch.setattr(document_module, "MAX_CONFUSION_CLASSES", most)

    matrix = describe("none").document["confusion_matrix"]

    assert (matrix is not None and len(matrix) == 3) == told


def test_the_rows_of_the_confusions_are_the_actual_classes(describe: Describe) -> None:
    fit = describe("none")
    matrix = torch.tensor([[1, 2, 0], [0, 3, 0], [1, 0, 2]])
    validation = replace(fit.found.validation, confusion_matrix=matrix)

    document = described(fit.request, fit.task, replace(fit.found, validation=validation))

    assert document["confusion_matrix"] == matrix.tolist()


def test_images_are_mapped_by_their_plain_features_and_those_of_the_learned_ensemble(
    describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = describe()

    embedding = fit.document["embedding"]

    assert embedding["composite_of"] == "hgprompt"
    assert embedding["labels"] == fit.task.labels.tolist()
    candidates = {c.standing.method: c for c in fit.found.candidates}
    for name, method in (("plain", "none"), ("composite", "hgprompt")):
        expected = t_sne(candidates[method].features, seed=4)
        torch.testing.assert_close(
            torch.tensor(embedding[name], dtype=torch.float64), expected, atol=1e-4, rtol=0
        )
    assert embedding["plain"] != embedding["composite"]
    monkeypatch.setattr(document_module, "MAX_PROJECTED_IMAGES", 12)
    some = described(fit.request, fit.task, fit.found)["embedding"]
    # Archives hold one class after another: the first 12 would be of two classes of three.
    rows = torch.randperm(30, generator=torch.Generator().manual_seed(4))[:12].sort().values
    assert some["labels"] == fit.task.labels[rows].tolist()
    assert set(some["labels"]) == {0, 1, 2}
    for name, method in (("plain", "none"), ("composite", "hgprompt")):
        expected = t_sne(candidates[method].features[rows], seed=4)
        torch.testing.assert_close(
            torch.tensor(some[name], dtype=torch.float64), expected, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("method", ["none", "single", "hgprompt"])
def test_the_map_is_the_same_whatever_is_served(describe: Describe, method: Method) -> None:
    fit = describe()
    served = next(c for c in fit.found.candidates if c.standing.method == method)

    document = described(fit.request, fit.task, replace(fit.found, served=served))

    assert document["chosen"]["method"] == method
    assert document["embedding"] == fit.document["embedding"]
    assert document["lineage"]["composite_digest"] == composite_digest(served.prompt)


def test_only_the_learned_ensemble_maps_images(describe: Describe) -> None:
    assert describe("mean").document["embedding"] is None
    assert describe("none").document["embedding"] is None


def test_ablations_are_told_with_their_weights(describe: Describe) -> None:
    fit = describe(options=EVERYTHING)

    ablations = fit.document["ablations"]
    assert [ablation["name"] for ablation in ablations] == [
        "without the gradient penalty",
        "without alignment",
        "weights of the feature sum",
        "without composing",
        "with tuning",
    ]
    (learned,) = [
        p for p in fit.document["leaderboard"] if p["method"] == "hgprompt" and not p.get("tuned")
    ]
    for ablation, known in zip(ablations, fit.found.diagnostics.ablations, strict=True):
        assert ablation["ci95"] == list(known.standing.ci95)
        assert list(ablation["weights"]) == list(fit.document["weights"])
        assert ablation["difference"] == pytest.approx(ablation["accuracy"] - learned["accuracy"])
        low, high = ablation["difference_ci95"]
        assert low <= ablation["difference"] <= high
    assert ablations[1]["weights"] == fit.document["weights"]


def test_curves_count_their_evaluations(describe: Describe) -> None:
    document = describe(options=EVERYTHING).document

    for name in ("objective_curve", "composite_curve"):
        numbers, values = zip(*document[name], strict=True)
        assert list(numbers) == list(range(1, len(numbers) + 1))
        assert list(values) == sorted(values)
    assert describe("h_ensemble").document["composite_curve"] == []


@pytest.mark.parametrize(("most", "told"), [(GRADIENT_IMAGES, GRADIENT_IMAGES), (100, 21)])
def test_the_cosines_come_with_their_number_of_images(
    describe: Describe, monkeypatch: pytest.MonkeyPatch, most: int, told: int
) -> None:
    monkeypatch.setattr(hgprompt, "GRADIENT_IMAGES", most)

    document = describe().document

    assert document["gradient_num_images"] == told
    assert describe("mean").document["gradient_num_images"] is None


def test_a_gap_that_is_not_defined_is_null(describe: Describe) -> None:
    fit = describe()
    diagnostics = replace(
        fit.found.diagnostics, composition_gap=CompositionGap(float("nan"), 0.5, 21)
    )

    document = described(fit.request, fit.task, replace(fit.found, diagnostics=diagnostics))

    assert document["composition_gap"] == {"aligned": None, "unaligned": 0.5, "num_images": 21}


@pytest.mark.parametrize("method", ["none", "vpt"])
def test_a_fit_without_sources_has_a_document_too(describe: Describe, method: Method) -> None:
    document = describe(method, sources=()).document

    assert (document["weights"], document["sources"], document["screening"]) == ({}, [], None)
    assert {place["method"] for place in document["leaderboard"]} == {method}


def test_a_tuned_prompt_is_called_so(describe: Describe) -> None:
    fit = describe("mean")
    served = fit.found.served
    tuned = replace(served, standing=replace(served.standing, tuned=True))
    found = replace(fit.found, served=tuned, candidates=(tuned, served))

    document = described(fit.request, fit.task, found)

    assert [place.get("tuned", False) for place in document["leaderboard"]] == [True, False]
    assert document["chosen"]["tuned"]
    assert build_artifact(fit.request, fit.task, found).metadata["tuned"] == "true"

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backbones.info import LoadedBackbone
from ensemble.options import FitOptions, Method
from jobs.context import FitContext
from jobs.ensembles import EnsembleStore
from jobs.records import FitId, FitResultDocs, FitSpec, SourceRef
from prompt_store.artifacts import Artifact, read_artifact, write_artifact
from prompt_store.blobs import BlobStore
from prompt_store.objects import ObjectStore
from worker.fit_job import FitJob
from worker.verify import main

MakeSpec = Callable[..., FitSpec]
Publish = Callable[..., FitId]


@pytest.fixture
def publish(
    backbone: LoadedBackbone,
    blobs: BlobStore,
    ensembles: EnsembleStore,
    claim: Callable[[FitSpec], FitContext],
) -> Publish:
    """Run a fit and publish its artifact, or what a test makes of it."""

    def publish_(spec: FitSpec, change: Callable[[Artifact], Artifact] | None = None) -> FitId:
        context = claim(spec)
        docs = FitJob(backbone, blobs, lambda: backbone)(context)
        if change is not None:
            artifact = write_artifact(change(read_artifact(docs.artifact)))
            docs = FitResultDocs(artifact, docs.result)
        fit_id = FitId(spec.name, ensembles.versions(spec.name)[-1])
        attempt = ensembles.attempt(fit_id, 1)
        assert attempt is not None
        ensembles.publish_result(fit_id, attempt, docs)
        return fit_id

    return publish_


Verify = Callable[[FitId | str], tuple[int, str]]


@pytest.fixture
def verify(tiny_environment: None, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Run the command; its exit status and all it says, which is one line."""
    del tiny_environment

    def verify_(ensemble: FitId | str) -> tuple[int, str]:
        status = main([str(ensemble)])
        said = "".join(capsys.readouterr())
        assert said.count("\n") == 1
        return status, said

    return verify_


@pytest.mark.parametrize("method", ["hgprompt", "mean", "single", "none"])
@pytest.mark.parametrize("align", [True, False])
def test_a_composite_is_made_again_from_its_sources(
    publish: Publish, verify: Verify, make_spec: MakeSpec, method: Method, align: bool
) -> None:
    fit_id = publish(make_spec(method=method, options=FitOptions(align=align)))

    status, said = verify(fit_id)

    assert (status, said[:5]) == (0, "same:")
    assert len(set(said.split()[1::2])) == 1  # the three digests


def test_a_single_source_with_negative_zeros_is_its_composite(
    publish: Publish,
    verify: Verify,
    make_spec: MakeSpec,
    put_prompt: Callable[..., SourceRef],
) -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 192))
    values[:, :, ::2] = -1e-9  # below the smallest half-precision number
    sources = (put_prompt("odd", values=values), put_prompt("two", 1))

    fit_id = publish(make_spec(method="single", sources=sources))

    assert verify(fit_id)[0] == 0


def swap_weights(artifact: Artifact) -> Artifact:
    return replace(artifact, weights=np.array([0.2, 0.3, 0.5]))


def bend_prompt(artifact: Artifact) -> Artifact:
    prompt = artifact.prompt_embeddings.copy()
    prompt[0, 0, 0] += 1e-6
    return replace(artifact, prompt_embeddings=prompt)


def bend_digest(artifact: Artifact) -> Artifact:
    digest = {"composite_digest": f"sha256:{'0' * 64}"}
    return replace(artifact, metadata=artifact.metadata | digest)


def forget_digest(artifact: Artifact) -> Artifact:
    kept = {k: v for k, v in artifact.metadata.items() if k != "composite_digest"}
    return replace(artifact, metadata=kept)


def call_tuned(artifact: Artifact) -> Artifact:
    return replace(artifact, metadata=artifact.metadata | {"tuned": "true"})


@pytest.mark.parametrize("change", [swap_weights, bend_prompt, bend_digest, forget_digest])
def test_an_artifact_that_is_not_what_its_sources_make_is_told(
    publish: Publish, verify: Verify, make_spec: MakeSpec, change: Callable[[Artifact], Artifact]
) -> None:
    fit_id = publish(make_spec(method="mean"), change)

    status, said = verify(fit_id)

    assert (status, said[:10]) == (1, "DIFFERENT:")


def test_a_tuned_prompt_cannot_be_made_again(
    publish: Publish, verify: Verify, make_spec: MakeSpec
) -> None:
    fit_id = publish(make_spec(method="mean"), call_tuned)

    status, said = verify(fit_id)

    assert status == 1
    assert "inks@1 was tuned" in said


def test_what_cannot_be_verified_is_said_in_a_line(
    publish: Publish,
    verify: Verify,
    make_spec: MakeSpec,
    ensembles: EnsembleStore,
    objects: ObjectStore,
    store_url: str,
) -> None:
    spec = make_spec(method="mean")
    assert verify("inks") == (
        1,
        "cannot verify inks: 'inks' is not a version of an ensemble; expected name@version\n",
    )
    assert verify("inks@1") == (1, f"inks@1 has no published artifact in {store_url}\n")
    ensembles.create(spec)
    assert verify("inks@1") == (1, f"inks@1 has no published artifact in {store_url}\n")

    fit_id = publish(spec)
    digest = spec.sources[1].digest[7:]
    objects.delete(f"sha256/{digest[:2]}/{digest}")
    status, said = verify(fit_id)
    assert status == 1
    assert said.startswith("cannot verify inks@2: there is no object")


def test_settings_that_make_no_sense_are_said_not_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HGPROMPT_LEASE_S", "soon")

    assert main(["inks@1"]) == 1

    assert "HGPROMPT_LEASE_S='soon': " in capsys.readouterr().err

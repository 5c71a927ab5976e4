import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from prompt_store.artifacts import (
    Artifact,
    ArtifactSource,
    artifact_metadata,
    read_artifact,
    write_artifact,
)
from prompt_store.errors import InvalidPromptError

DIGEST = f"sha256:{'b' * 64}"


def make_artifact(
    num_sources: int = 2, num_tokens: int = 4, depth: int = 3, seed: int = 0
) -> Artifact:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(num_sources)) if num_sources else np.zeros(0)
    sources = [
        ArtifactSource(f"source-{i}", i + 1, f"sha256:{i:064x}", float(weight))
        for i, weight in enumerate(weights)
    ]
    return Artifact(
        weights=weights,
        prompt_embeddings=rng.standard_normal((depth, num_tokens, 6)).astype(np.float32),
        head_weight=rng.standard_normal((2, 6)).astype(np.float32),
        head_bias=rng.standard_normal(2).astype(np.float32),
        metadata=artifact_metadata(
            classes=["kätzchen", "dog"],
            sources=sources,
            backbone_digest=DIGEST,
            lineage={"method": "hgprompt", "seed": "7"},
        ),
    )


@given(st.integers(0, 5), st.integers(0, 4), st.sampled_from([1, 3]), st.integers(0, 99))
def test_an_artifact_comes_back_as_it_was(sources: int, tokens: int, depth: int, seed: int) -> None:
    artifact = make_artifact(sources, tokens, depth, seed)
    data = write_artifact(artifact)
    back = read_artifact(data)
    for name in ("weights", "prompt_embeddings", "head_weight", "head_bias"):
        theirs, ours = getattr(back, name), getattr(artifact, name)
        np.testing.assert_array_equal(theirs, ours)
        assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
    assert back.metadata == artifact.metadata
    assert write_artifact(back) == data


def test_its_lineage_can_be_read() -> None:
    artifact = make_artifact()
    assert artifact.classes == ("kätzchen", "dog")
    assert artifact.backbone_digest == DIGEST
    assert [source.name for source in artifact.sources] == ["source-0", "source-1"]
    assert [source.weight for source in artifact.sources] == artifact.weights.tolist()
    assert artifact.metadata["method"] == "hgprompt"


def test_other_tools_read_it(tmp_path: Path) -> None:
    artifact = make_artifact()
    path = tmp_path / "artifact.safetensors"
    path.write_bytes(write_artifact(artifact))
    tensors = safetensors.numpy.load_file(path)
    assert set(tensors) == {"weights", "prompt_embeddings", "head.weight", "head.bias"}
    np.testing.assert_array_equal(tensors["weights"], artifact.weights)
    assert read_artifact(path).metadata == artifact.metadata


def test_ten_thousand_classes_fit() -> None:
    classes = [f"{i:05d}-{'x' * 250}" for i in range(10_000)]
    artifact = make_artifact()
    large = replace(
        artifact,
        head_weight=np.zeros((10_000, 6), np.float32),
        head_bias=np.zeros(10_000, np.float32),
        metadata=artifact.metadata | {"classes": json.dumps(classes)},
    )
    assert read_artifact(write_artifact(large)).classes == tuple(classes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": np.array([0.5, 0.6])}, r"minimum 0.5 and sum 1.1; .*sum 1 within 1e-06"),
        ({"weights": np.array([0.5, 0.50001])}, r"sum 1.00001; .*sum 1 within 1e-06"),
        ({"weights": np.array([1.5, -0.5])}, "minimum -0.5"),
        ({"weights": np.array([np.nan, 1])}, r"weights\[0\] is nan; every value must be finite"),
        ({"weights": np.ones(1)}, r"weights has shape \[1\]; expected \[2\], for 2 sources"),
        ({"head_bias": np.zeros(3)}, r"head.bias has shape \[3\]; expected \[2\], for 2 classes"),
        ({"head_weight": np.zeros((2, 5))}, r"head.weight has shape \[2, 5\]; expected \[2, 6\]"),
        ({"head_weight": np.full((2, 6), np.inf)}, r"head.weight\[0, 0\] is inf"),
        ({"prompt_embeddings": np.zeros((4, 6))}, r"shape \[4, 6\]; expected \(L, P, D\)"),
    ],
)
def test_an_artifact_that_is_inconsistent_is_not_written(
    change: dict[str, np.ndarray], reason: str
) -> None:
    with pytest.raises(InvalidPromptError, match=reason):
        write_artifact(replace(make_artifact(), **change))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("classes", None, "metadata classes is missing"),
        ("classes", '["a"]', "for 1 classes"),
        ("sources", None, "metadata sources is missing"),
        ("sources", "{", "metadata sources is '{', not a JSON list"),
        ("sources", '[{"name":"a"}]', "must have exactly name, version, digest and weight"),
        (
            "sources",
            '[{"name":"a","version":1,"digest":"x","weight":1}]',
            "source 'a' has digest 'x'",
        ),
        ("backbone_digest", None, "metadata backbone_digest is missing"),
        ("backbone_digest", "x", "metadata backbone_digest is 'x'"),
    ],
)
def test_an_artifact_without_lineage_is_not_written(
    key: str, value: str | None, reason: str
) -> None:
    artifact = make_artifact()
    metadata = {k: v for k, v in artifact.metadata.items() if k != key}
    if value is not None:
        metadata[key] = value
    with pytest.raises(InvalidPromptError, match=reason):
        write_artifact(replace(artifact, metadata=metadata))


def test_a_file_with_another_dtype_is_refused() -> None:
    artifact = make_artifact()
    tensors = safetensors.numpy.load(write_artifact(artifact))
    tensors["weights"] = tensors["weights"].astype(np.float32)
    with pytest.raises(InvalidPromptError, match="tensor weights is F32; expected F64"):
        read_artifact(safetensors.numpy.save(tensors, artifact.metadata))
    del tensors["weights"]
    with pytest.raises(InvalidPromptError, match="tensor weights is missing; expected F64"):
        read_artifact(safetensors.numpy.save(tensors, artifact.metadata))

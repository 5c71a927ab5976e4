from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.info import LoadedBackbone
from prompt_store.artifacts import Artifact
from service.inference import heads
from service.inference.bank import ArtifactBank, BankEntry
from service.inference.heads import (
    class_probabilities,
    flat_logits,
    flat_probabilities,
    softmax,
)
from service.inference.host_artifact import host_artifact

CLASS_COUNTS = (2, 3, 16, 17, 100)


@pytest.fixture
def artifacts(make_artifact: Callable[..., Artifact]) -> list[Artifact]:
    return [
        make_artifact(seed, classes=tuple(f"class {i}" for i in range(count)))
        for seed, count in enumerate(CLASS_COUNTS)
    ]


@pytest.fixture
def entries(artifacts: list[Artifact]) -> list[BankEntry]:
    bank = ArtifactBank(torch.device("cpu"))
    return [bank.insert(host_artifact(f"d{i}", each)) for i, each in enumerate(artifacts)]


@pytest.fixture
def features(loaded: LoadedBackbone) -> Tensor:
    return torch.randn(10, loaded.info.embed_dim, generator=torch.Generator().manual_seed(0))


def on_a_gpu(features: Tensor, entries: Sequence[BankEntry]) -> list[np.ndarray]:
    logits = flat_logits(features, entries).numpy()
    return flat_probabilities(logits, [len(entry.head_bias) for entry in entries])


@pytest.mark.parametrize("compute", [class_probabilities, on_a_gpu])
@pytest.mark.parametrize("max_elements", [1, 25_000, 1 << 26])
def test_each_row_gets_the_probabilities_of_its_own_head(
    monkeypatch: pytest.MonkeyPatch,
    artifacts: list[Artifact],
    entries: list[BankEntry],
    features: Tensor,
    compute: Callable[[Tensor, Sequence[BankEntry]], list[np.ndarray]],
    max_elements: int,
) -> None:
    monkeypatch.setattr(heads, "MAX_GATHERED_ELEMENTS", max_elements)
    answers = compute(features, [entries[i % 5] for i in range(10)])
    for i, answer in enumerate(answers):
        artifact = artifacts[i % 5]
        logits = artifact.head_weight.astype(np.float64) @ features[i].double().numpy()
        logits += artifact.head_bias
        expected = np.exp(logits - logits.max())
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, expected / expected.sum(), atol=1e-5)


@pytest.mark.parametrize("compute", [class_probabilities, on_a_gpu])
def test_a_row_does_not_depend_on_its_batch_mates(
    entries: list[BankEntry],
    features: Tensor,
    compute: Callable[[Tensor, Sequence[BankEntry]], list[np.ndarray]],
) -> None:
    together = compute(features, [entries[i % 5] for i in range(10)])
    for i in range(10):
        alone = compute(features[i : i + 1], [entries[i % 5]])
        np.testing.assert_array_equal(alone[0], together[i])


def test_a_gather_leaves_the_heads_as_they_were(
    artifacts: list[Artifact], entries: list[BankEntry], features: Tensor
) -> None:
    flat_logits(features[:1], entries[:1])
    np.testing.assert_array_equal(entries[0].head_weight, artifacts[0].head_weight)


def test_large_logits_do_not_overflow_and_nan_is_told() -> None:
    np.testing.assert_array_equal(softmax(np.float32([1e30, 1e30, 0])), np.float32([0.5, 0.5, 0]))
    assert np.isnan(softmax(np.float32([np.nan, 0.0]))).all()


def test_a_row_that_is_not_finite_leaves_those_beside_it_alone() -> None:
    logits = np.float32([1e30, 1e30, 0, np.nan, 0, np.inf, 2, 2])
    first, second, third, last = flat_probabilities(logits, [3, 2, 1, 2])
    np.testing.assert_array_equal(first, np.float32([0.5, 0.5, 0]))
    assert np.isnan(second).all()
    assert np.isnan(third).all()
    np.testing.assert_array_equal(last, np.float32([0.5, 0.5]))

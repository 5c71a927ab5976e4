from collections.abc import Callable

import numpy as np
import pytest
import torch

from backbones.info import LoadedBackbone
from prompt_store.artifacts import Artifact
from service.inference import heads
from service.inference.bank import ArtifactBank, padded_class_count
from service.inference.heads import class_probabilities


@pytest.mark.parametrize(
    ("num_classes", "padded"), [(1, 16), (16, 16), (17, 32), (64, 64), (10_000, 16_384)]
)
def test_class_counts_are_padded_to_few_sizes(num_classes: int, padded: int) -> None:
    assert padded_class_count(num_classes) == padded


@pytest.mark.parametrize("max_elements", [1, 1 << 26])
def test_each_row_gets_the_probabilities_of_its_own_head(
    monkeypatch: pytest.MonkeyPatch,
    loaded: LoadedBackbone,
    make_artifact: Callable[..., Artifact],
    max_elements: int,
) -> None:
    monkeypatch.setattr(heads, "MAX_GATHERED_ELEMENTS", max_elements)
    width = loaded.info.embed_dim
    bank = ArtifactBank(width, torch.device("cpu"))
    artifacts = [
        make_artifact(seed, classes=tuple(f"class {i}" for i in range(count)))
        for seed, count in enumerate([2, 3, 16, 17, 100])
    ]
    entries = [bank.insert(f"d{i}", artifact) for i, artifact in enumerate(artifacts)]
    features = torch.randn(10, width, generator=torch.Generator().manual_seed(0))
    answers = class_probabilities(features, [entries[i % 5] for i in range(10)], bank)
    for i, answer in enumerate(answers):
        artifact = artifacts[i % 5]
        logits = artifact.head_weight.astype(np.float64) @ features[i].double().numpy()
        logits += artifact.head_bias
        expected = np.exp(logits - logits.max())
        np.testing.assert_allclose(answer, expected / expected.sum(), atol=1e-5)

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones.info import LoadedBackbone
from benchmarks.suite import cached_features
from benchmarks.suite.cached_features import NO_PROMPT, CachedFeatures, prompt_digest
from benchmarks.suite.errors import SuiteError
from ensemble.errors import FitStoppedError
from ensemble.features import extract_features
from ensemble.prompted_vit import PromptedViT


@pytest.fixture(scope="module")
def vit(backbone: LoadedBackbone) -> PromptedViT:
    return backbone.vit


@pytest.fixture
def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (10, 3, 32, 32), generator=generator, dtype=torch.uint8)


@pytest.fixture
def sources(vit: PromptedViT) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(vit.depth, 3, vit.embed_dim, generator=generator) for _ in range(3)]


def _forwards(
    vit: PromptedViT, cached: CachedFeatures, pixels: Tensor, prompts: Sequence[Tensor | None]
) -> int:
    """Forward passes that a call costs, in images times prompts."""
    count = 0

    def on_image(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
        nonlocal count
        count += len(inputs[0])

    handle = vit.vit.blocks[0].register_forward_hook(on_image)
    try:
        cached(vit, pixels, prompts, batch_size=4)
    finally:
        handle.remove()
    return count


def test_features_are_those_of_the_backbone_and_cost_nothing_again(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    prompts = [None, *sources]
    expected = extract_features(vit, pixels, prompts, batch_size=4)

    first = CachedFeatures(tmp_path, sources)(vit, pixels, prompts, batch_size=4)
    again = CachedFeatures(tmp_path, sources)
    second = again(vit, pixels, prompts, batch_size=4)

    for one, two, right in zip(first, second, expected, strict=True):
        assert torch.equal(one, right)
        assert torch.equal(two, right)
    assert _forwards(vit, again, pixels, prompts) == 0


def test_only_absent_images_and_prompts_are_computed(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    cached = CachedFeatures(tmp_path, sources)
    assert _forwards(vit, cached, pixels[:6], [None, sources[0]]) == 12
    # Image order does not matter; images 6 to 9 are new, and so is the second source.
    shuffled = torch.tensor([9, 0, 8, 1, 7, 2, 6, 3])
    assert _forwards(vit, cached, pixels[shuffled], sources[:2]) == 4 + 8
    features = cached(vit, pixels[shuffled], sources[:2], batch_size=4)
    expected = extract_features(vit, pixels[shuffled], sources[:2], batch_size=4)
    for one, right in zip(features, expected, strict=True):
        assert torch.allclose(one, right, atol=1e-5)


def test_what_two_processes_add_to_a_file_is_kept(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    one, other = (CachedFeatures(tmp_path, sources) for _ in range(2))
    for cached, rows in ((one, [1, 4, 2]), (other, [0, 3]), (one, [9, 5])):
        cached(vit, pixels[rows], sources[:1], batch_size=4)
    rows = [0, 1, 2, 3, 4, 5, 9]
    third = CachedFeatures(tmp_path, sources)
    assert _forwards(vit, third, pixels[rows], sources[:1]) == 0
    (features,) = third(vit, pixels[rows], sources[:1], batch_size=4)
    (expected,) = extract_features(vit, pixels[rows], sources[:1], batch_size=4)
    assert torch.allclose(features, expected, atol=1e-5)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"]


def test_permuted_tokens_are_the_same_prompt(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    cached = CachedFeatures(tmp_path, sources)
    cached(vit, pixels, sources, batch_size=4)
    permuted = sources[1].clone()
    permuted[0], permuted[1] = permuted[0][[2, 0, 1]], permuted[1][[1, 0, 2]]
    assert _forwards(vit, cached, pixels, [permuted]) == 0
    (features,) = cached(vit, pixels, [permuted], batch_size=4)
    (expected,) = extract_features(vit, pixels, [permuted], batch_size=4)
    assert torch.allclose(features, expected, atol=1e-4)


def test_other_prompts_are_kept_in_memory_and_not_on_disk(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    cached = CachedFeatures(tmp_path, sources[:1])
    assert _forwards(vit, cached, pixels, [sources[2]]) == 10
    assert _forwards(vit, cached, pixels, [sources[2], sources[1]]) == 10
    assert list(tmp_path.iterdir()) == []
    assert _forwards(vit, CachedFeatures(tmp_path, sources[:1]), pixels, [sources[2]]) == 10


def test_of_other_prompts_the_latest_are_kept(
    tmp_path: Path,
    vit: PromptedViT,
    pixels: Tensor,
    sources: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cached_features, "MAX_COMPOSITES", 2)
    cached = CachedFeatures(tmp_path, [])
    for source in sources:
        cached(vit, pixels, [source], batch_size=4)
    assert _forwards(vit, cached, pixels, [sources[1], sources[2]]) == 0
    assert _forwards(vit, cached, pixels, [sources[0]]) == 10


def test_progress_counts_every_image_whether_cached_or_not(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    cached = CachedFeatures(tmp_path, sources)
    cached(vit, pixels[:3], [None], batch_size=4)
    counts: list[int] = []
    cached(vit, pixels, [None, sources[0]], batch_size=4, on_batch=counts.append)
    assert sum(counts) == 20


def test_a_stopped_extraction_keeps_nothing(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    cached = CachedFeatures(tmp_path, sources)
    with pytest.raises(FitStoppedError):
        cached(vit, pixels, sources, batch_size=4, should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(
    tmp_path: Path, vit: PromptedViT, pixels: Tensor, sources: list[Tensor]
) -> None:
    cached = CachedFeatures(tmp_path, sources)
    cached(vit, pixels, [None], batch_size=4)
    path = tmp_path / f"{NO_PROMPT}.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(SuiteError, match=r"none\.safetensors is damaged"):
        CachedFeatures(tmp_path, sources)(vit, pixels, [None], batch_size=4)


def test_digests_tell_prompts_apart(sources: list[Tensor]) -> None:
    changed = sources[0].clone()
    changed[1, 2, 3] += 0.001
    across = sources[0].flip(0)  # a layer's tokens elsewhere are another prompt
    shallow = sources[0][:1]
    variants = [*sources, changed, across, shallow, sources[0][:, :2]]
    assert len({prompt_digest(p) for p in variants}) == len(variants)
    assert prompt_digest(None) == prompt_digest(torch.zeros(1, 0, 192)) == NO_PROMPT
    two = torch.stack((torch.zeros(3), torch.ones(3)))
    assert prompt_digest(two[None]) != prompt_digest(two[:, None])  # in one layer, or in two
    negative_zero = torch.zeros(1, 2, 3).neg()
    assert prompt_digest(negative_zero) == prompt_digest(torch.zeros(1, 2, 3))

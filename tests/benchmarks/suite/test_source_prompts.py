from itertools import pairwise
from pathlib import Path

import pytest
import torch

from backbones.info import LoadedBackbone
from benchmarks.suite.errors import SuiteError
from benchmarks.suite.source_prompts import (
    SourcePrompt,
    allowed_sources,
    draw_sources,
    load_source_prompts,
)
from benchmarks.suite.task_groups import GROUPS, share_images
from benchmarks.tasks.catalogue import NAMES
from prompt_store.codec import PromptFile, PromptLimits, read_prompt, write_prompt
from prompt_store.errors import InvalidPromptError


def _named(*names: str) -> list[SourcePrompt]:
    return [SourcePrompt(name, name, "0", torch.zeros(1, 1, 1)) for name in names]


ALL = _named(*NAMES)


def test_every_task_has_a_group() -> None:
    assert set(NAMES) <= set(GROUPS)


def test_the_target_and_what_shows_its_images_are_no_sources() -> None:
    names = {prompt.name for prompt in allowed_sources("solar-cell-defect", ALL)}
    assert names == set(NAMES) - {"solar-cell-defect", "solar-cell-silicon"}
    for one, other in (
        ("dsprites_loc", "dsprites_ori"),
        ("clevr_count", "clevr_dist"),
        ("smallnorb_azi", "smallnorb_ele"),
    ):
        assert share_images(one, other)
        assert share_images(other, one)
        assert not share_images(one, "solar-cell-defect")
    assert not share_images("mnist", "digits")


def test_a_prompt_is_left_out_by_its_task_and_not_by_its_file_name() -> None:
    renamed = SourcePrompt("mine", "mnist", "0", torch.zeros(1, 1, 1))
    assert allowed_sources("mnist", [renamed]) == []
    assert allowed_sources("digits", [renamed]) == [renamed]


def test_draws_of_a_seed_are_nested_and_those_of_seeds_differ() -> None:
    draws = [[p.name for p in draw_sources("mnist", ALL, m, seed=0)] for m in (3, 5, 8, 11)]
    for few, many in pairwise(draws):
        assert many[: len(few)] == few
    assert len(set(draws[-1])) == 11
    assert draws[-1] != [p.name for p in draw_sources("mnist", ALL, 11, seed=1)]
    assert draws[0] != [p.name for p in draw_sources("digits", ALL, 3, seed=0)]


def test_another_prompt_does_not_reorder_the_rest() -> None:
    before = [p.name for p in draw_sources("mnist", ALL, 16, seed=0)]
    more = [*_named("aaa"), *ALL, *_named("zzz")]
    after = [p.name for p in draw_sources("mnist", more, 18, seed=0)]
    assert [name for name in after if name not in ("aaa", "zzz")] == before


def test_every_source_is_drawn_about_equally_often() -> None:
    counts = dict.fromkeys((p.name for p in ALL if p.name != "mnist"), 0)
    for seed in range(400):
        for prompt in draw_sources("mnist", ALL, 4, seed):
            counts[prompt.name] += 1
    # 100 expected each; the standard deviation is below 9.
    assert 65 < min(counts.values()) <= max(counts.values()) < 135


def test_too_few_sources_are_refused() -> None:
    with pytest.raises(SuiteError, match="mnist: 1 sources are allowed, 2 are needed"):
        draw_sources("mnist", _named("mnist", "count"), 2, seed=0)
    (drawn,) = draw_sources("mnist", _named("mnist", "count"), 1, seed=0)
    assert drawn.name == "count"


def test_prompts_are_read_and_checked(
    tmp_path: Path, prompts: Path, backbone: LoadedBackbone
) -> None:
    loaded = load_source_prompts(prompts, backbone.info, ())
    assert [p.name for p in loaded] == ["count", "digits", "emoji-group", "mnist", "texture"]
    assert loaded[0].prompt.shape == (backbone.info.depth, 4, backbone.info.embed_dim)
    with pytest.raises(SuiteError, match=r"holds no \*\.safetensors"):
        load_source_prompts(tmp_path, backbone.info, ())
    data = (prompts / "count.safetensors").read_bytes()
    other = data.replace(backbone.info.digest.encode(), b"sha256:" + b"0" * 64)
    (tmp_path / "other.safetensors").write_bytes(other)
    with pytest.raises(InvalidPromptError, match="trained on backbone sha256:000"):
        load_source_prompts(tmp_path, backbone.info, ())


def test_a_prompt_of_a_task_that_nobody_knows_is_refused(
    tmp_path: Path, prompts: Path, backbone: LoadedBackbone
) -> None:
    """It may have seen the target's images: "count-20-tokens" is not told from another task."""
    file = read_prompt((prompts / "count.safetensors").read_bytes(), PromptLimits())
    for name in ("count", "count-20-tokens"):
        metadata = file.metadata | {"task": name}
        data = write_prompt(PromptFile(file.prompt_embeddings, metadata=metadata), "F16")
        (tmp_path / "count-20-tokens.safetensors").write_bytes(data)
        if name == "count":
            (loaded,) = load_source_prompts(tmp_path, backbone.info, ())
            assert (loaded.name, loaded.task) == ("count-20-tokens", "count")
    with pytest.raises(SuiteError, match=r"count-20-tokens.safetensors was trained on the task 'c"):
        load_source_prompts(tmp_path, backbone.info, ())
    (own,) = load_source_prompts(tmp_path, backbone.info, ["count-20-tokens"])
    assert own.task == "count-20-tokens"


def test_the_shipped_prompts_are_of_known_tasks() -> None:
    for path in (Path(__file__).parents[3] / "examples" / "prompts").glob("*.safetensors"):
        assert read_prompt(path.read_bytes(), PromptLimits()).metadata["task"] in GROUPS

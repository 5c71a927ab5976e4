"""The example prompts that are shipped: valid, small, for the default backbone, and worth it."""

import json
from pathlib import Path

import pytest

from backbones.offline_vit_s14 import DEPTH
from prompt_store.codec import BackboneShape, PromptLimits, read_prompt

FOLDER = Path(__file__).parents[2] / "examples" / "prompts"
FILES = sorted(FOLDER.glob("*.safetensors"))


def test_there_are_at_least_eight_of_distinct_tasks() -> None:
    assert len({file.stem for file in FILES}) >= 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_prompt_is_valid_and_beats_plain_features(file: Path) -> None:
    report = json.loads(file.with_suffix(".json").read_text())
    shape = BackboneShape(digest=report["backbone_digest"], embed_dim=384, depth=DEPTH)
    prompt = read_prompt(file, PromptLimits(), shape)
    assert prompt.classes == tuple(report["classes"])
    assert 15_000 <= file.stat().st_size <= 200_000
    for split in ("validation", "test"):
        assert report["figures"][split]["prompted"] > report["figures"][split]["plain"]


def test_all_are_for_one_backbone_and_named_in_the_readme() -> None:
    reports = [json.loads(file.with_suffix(".json").read_text()) for file in FILES]
    assert len({report["backbone_digest"] for report in reports}) == 1
    readme = (FOLDER / "README.md").read_text()
    for report in reports:
        figure = report["figures"]["test"]
        row = f"| {report['name']} |"
        assert row in readme
        (line,) = [line for line in readme.splitlines() if line.startswith(row)]
        assert f"{figure['plain']:.3f}" in line
        assert f"{figure['prompted']:.3f}" in line

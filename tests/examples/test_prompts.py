"""The example prompts that are shipped: valid, small, for the default backbone, and worth it."""

import json
import re
from pathlib import Path

import pytest

from backbones.offline_vit_s14 import DEPTH
from benchmarks.tasks.catalogue import DRAWN
from client.examples import DEMO_SOURCES
from prompt_store.codec import BackboneShape, PromptLimits, read_prompt

FOLDER = Path(__file__).parents[2] / "examples" / "prompts"
FILES = sorted(FOLDER.glob("*.safetensors"))


def test_there_are_at_least_twelve_of_distinct_tasks() -> None:
    names = {file.stem for file in FILES}
    assert len(names) >= 12
    assert names >= DEMO_SOURCES


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


def test_the_script_makes_every_prompt_from_a_pool_of_its_size() -> None:
    limits = {
        name: int(limit)
        for name, limit in re.findall(r"\[([a-z-]+)\]=(\d+)", (FOLDER / "train.sh").read_text())
    }
    assert {file.stem for file in FILES} <= set(limits)
    for file in FILES:
        report = json.loads(file.with_suffix(".json").read_text())
        images = report["train_images"] + report["figures"]["validation"]["num_images"]
        # A drawn task fills its pool, and so does a package with enough images.
        assert images <= limits[file.stem]
        if file.stem in DRAWN:
            assert images == limits[file.stem]

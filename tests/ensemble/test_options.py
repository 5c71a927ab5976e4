from dataclasses import replace
from typing import get_args

import pytest

from ensemble.options import (
    SOURCE_FREE_METHODS,
    TUNING_METHODS,
    FitOptions,
    Method,
    unused_options,
)

CHANGED = FitOptions(
    tuning_epochs=1,
    validation_fraction=0.2,
    max_sources=3,
    shrinkage=0.1,
    penalty_weight=0.0,
    align=False,
    composition="exact",
    cotangent_refreshes=2,
    prompt_learning_rate=0.1,
    precision="fp32",
    ablations=True,
)
LEARNING = ("penalty_weight", "composition", "cotangent_refreshes")


METHODS: tuple[Method, ...] = get_args(Method)


@pytest.mark.parametrize(
    ("method", "unused"),
    [
        ("hgprompt", ()),
        ("mean", (*LEARNING, "ablations")),
        ("logme", ("penalty_weight", "align", *LEARNING[1:], "ablations")),
        ("vpt", ("max_sources", "shrinkage", LEARNING[0], "align", *LEARNING[1:], "ablations")),
    ],
)
def test_options_without_a_meaning_are_named(method: Method, unused: tuple[str, ...]) -> None:
    assert unused_options(method, CHANGED, 4) == unused
    assert unused_options(method, FitOptions(), 4) == ()


def test_without_a_prompt_nothing_is_tuned() -> None:
    found = unused_options("none", FitOptions(tuning_epochs=5, max_sources=2), 0)
    assert found == ("tuning_epochs", "max_sources")


def methods_without(option: str, options: FitOptions, num_sources: int) -> set[Method]:
    return {m for m in METHODS if option in unused_options(m, options, num_sources)}


def test_the_learning_rate_is_of_tuning_and_of_the_steps_of_a_task_embedding() -> None:
    without = replace(CHANGED, tuning_epochs=0)

    assert methods_without("prompt_learning_rate", CHANGED, 4) == {"none"}
    # "panda" and "vpt" are refused without epochs.
    assert methods_without("prompt_learning_rate", without, 4) - TUNING_METHODS == {
        "hgprompt",
        "none",
        "single",
        "mean",
        "h_ensemble",
        "logme",
    }


def test_tokens_are_aligned_where_prompts_are_averaged() -> None:
    averaging = {"hgprompt", "mean", "spot", "h_ensemble"}
    assert methods_without("align", CHANGED, 4) == set(METHODS) - averaging


@pytest.mark.parametrize(("num_sources", "screened"), [(3, False), (4, True)])
def test_the_shrinkage_is_of_methods_that_score_and_of_screening(
    num_sources: int, screened: bool
) -> None:
    only_screened = set[Method]() if screened else {"single", "mean", "spot", "panda"}
    found = methods_without("shrinkage", CHANGED, num_sources)
    assert found == only_screened | SOURCE_FREE_METHODS

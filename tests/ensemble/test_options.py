import pytest

from ensemble.options import FitOptions, Method, unused_options

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


@pytest.mark.parametrize(
    ("method", "unused"),
    [
        ("hgprompt", ()),
        ("mean", (*LEARNING, "ablations")),
        ("vpt", ("max_sources", "shrinkage", LEARNING[0], "align", *LEARNING[1:], "ablations")),
    ],
)
def test_options_without_a_meaning_are_named(method: Method, unused: tuple[str, ...]) -> None:
    assert unused_options(method, CHANGED) == unused
    assert unused_options(method, FitOptions()) == ()


def test_without_a_prompt_nothing_is_tuned() -> None:
    found = unused_options("none", FitOptions(tuning_epochs=5, max_sources=2))
    assert found == ("tuning_epochs", "max_sources")

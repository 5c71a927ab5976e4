from dataclasses import asdict
from typing import get_args

import pytest

from benchmarks.suite.errors import SuiteError
from benchmarks.suite.variants import ABLATIONS, choose_variants, make_variants
from ensemble.options import TUNING_METHODS, FitOptions, Method


def test_every_method_is_there_with_the_protocols_split_and_one_budget() -> None:
    variants = make_variants(tuning_epochs=7)
    assert set(get_args(Method)) <= set(variants)
    for method in get_args(Method):
        options = variants[method].options
        assert options == FitOptions(tuning_epochs=7, validation_fraction=0.2)


def test_ablations_differ_from_hgprompt_in_what_their_table_says() -> None:
    variants = make_variants(tuning_epochs=7)
    base = asdict(variants["hgprompt"].options)
    shown = [name for name in ABLATIONS if name in variants]
    assert shown == [
        "hgprompt-no-penalty",
        "hgprompt-unaligned",
        "hgprompt-untuned",
        "hgprompt-exact",
    ]
    for name in shown:
        options = asdict(variants[name].options)
        changed = {key: value for key, value in options.items() if value != base[key]}
        assert changed == ABLATIONS[name]
    # One that is what hgprompt does anyway is not computed twice.
    assert "hgprompt-untuned" not in make_variants(tuning_epochs=0)


def test_without_tuning_the_methods_that_need_it_are_left_out_or_refused() -> None:
    names = {variant.name for variant in choose_variants(None, tuning_epochs=0)}
    assert names == set(get_args(Method)) - TUNING_METHODS
    with pytest.raises(SuiteError, match="tuning_epochs must be 1 or more"):
        choose_variants(["vpt"], tuning_epochs=0)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SuiteError, match="'other' is not one of hgprompt, none"):
        choose_variants(["other"], tuning_epochs=1)

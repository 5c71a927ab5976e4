from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ensemble.candidates import Candidate, ranked
from ensemble.class_head import fit_class_head
from ensemble.fit_session import FitSession
from ensemble.methods.none import fit_none
from ensemble.methods.panda import fit_panda
from ensemble.methods.single import single_candidates
from ensemble.methods.tuning import tuning_config, tuning_start, with_tuning
from ensemble.methods.vpt import fit_vpt
from ensemble.options import FitOptions
from ensemble.prompt_tuning import tune_prompt
from tests.ensemble.methods.short_tuning import CONFIG, OPTIONS

MakeSession = Callable[..., FitSession]


def singles(fit: FitSession) -> list[Candidate]:
    return single_candidates(fit, fit.features_of("features", list(fit.sources.stored)))


def test_without_epochs_candidates_are_only_ranked(make_session: MakeSession) -> None:
    fit = make_session()
    candidates = singles(fit)

    found = with_tuning(fit, candidates)

    places = [(-c.standing.accuracy, c.standing.log_loss) for c in found]
    assert places == sorted(places)
    assert {id(c) for c in found} == {id(c) for c in candidates}
    assert "tuning" not in fit.timings_s


def test_one_epoch_is_tuning_too(make_session: MakeSession) -> None:
    fit = make_session(replace(OPTIONS, tuning_epochs=1))

    found = with_tuning(fit, singles(fit))

    assert "tuning" in fit.timings_s
    assert sum(c.standing.tuned for c in found) == 1


def test_the_best_prompted_candidate_is_tuned_from_its_own_head(make_session: MakeSession) -> None:
    fit = make_session(OPTIONS)
    candidates = singles(fit)
    best = ranked(candidates)[0]

    found = with_tuning(fit, candidates)

    (tuned,) = [c for c in found if c.standing.tuned]
    assert len(found) == len(candidates) + 1
    assert (tuned.standing.method, tuned.standing.source) == ("single", best.standing.source)
    assert torch.equal(tuned.weights, best.weights)
    rows = fit.train_rows
    expected = tune_prompt(
        fit.vit,
        best.prompt,
        fit.train,
        fit.validation,
        num_classes=2,
        config=CONFIG,
        initial_head=fit_class_head(best.features[rows], fit.labels[rows], 2),
    )
    assert expected.best.epoch > 0
    assert torch.equal(tuned.prompt, expected.prompt)
    features = torch.cat([fit.vit(batch, tuned.prompt) for batch in fit.pixels.split(32)])
    assert torch.equal(tuned.features, features)
    head = fit_class_head(features, fit.labels, 2)
    assert torch.equal(tuned.head.weight, head.weight)


@pytest.mark.parametrize(
    ("num_images", "batch_size"),
    [(2, 8), (80, 8), (89, 8), (90, 9), (319, 31), (330, 32), (800, 32)],
)
def test_an_epoch_has_ten_steps_if_it_can(
    make_session: MakeSession, num_images: int, batch_size: int
) -> None:
    fit = replace(make_session(OPTIONS), train_rows=torch.arange(num_images))
    assert tuning_config(fit).batch_size == batch_size


def test_the_candidate_that_is_named_is_tuned_although_another_is_better(
    make_session: MakeSession,
) -> None:
    candidates = singles(make_session())
    best, *others = ranked(candidates)

    assert tuning_start(candidates) is best
    assert tuning_start(candidates, others[-1]) is others[-1]


def test_images_are_taken_in_an_order_that_the_seed_of_the_fit_decides(
    make_session: MakeSession,
) -> None:
    assert [tuning_config(make_session(OPTIONS, seed=seed)).seed for seed in (0, 5)] == [0, 5]


def test_all_epochs_are_run_although_nothing_gets_better(make_session: MakeSession) -> None:
    told: list[tuple[str, int]] = []

    def progress(stage: str, step: int, _total: int, **_found: object) -> None:
        told.append((stage, step))

    options = FitOptions(tuning_epochs=9, prompt_learning_rate=10.0)
    fit = make_session(options, progress=progress)
    with_tuning(fit, singles(fit))

    assert ("tuning", 9) in told


def test_a_candidate_without_a_prompt_is_passed_over(
    make_session: MakeSession, trained_source: Tensor
) -> None:
    fit = make_session(OPTIONS, sources=[-3 * trained_source])
    (plain,) = fit_none(fit).candidates
    (weak,) = singles(fit)
    assert ranked([weak, plain])[0] is plain

    found = with_tuning(fit, [plain, weak])

    assert [c.standing.method for c in found if c.standing.tuned] == ["single"]
    assert with_tuning(fit, [plain]) == [plain]


def test_tuning_that_does_not_help_adds_no_candidate(make_session: MakeSession) -> None:
    """The epoch that is kept is the start itself: nothing that is served was tuned."""
    fit = make_session(FitOptions(tuning_epochs=2, prompt_learning_rate=10.0))
    candidates = singles(fit)

    found = with_tuning(fit, candidates)

    assert {id(c) for c in found} == {id(c) for c in candidates}
    assert "tuning" in fit.timings_s
    assert not any(c.standing.tuned for c in fit_panda(fit).candidates)
    assert not any(c.standing.tuned for c in fit_vpt(fit).candidates)

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ensemble.fit_session import FitSession
from ensemble.methods import panda, tuning
from ensemble.methods.panda import (
    _teacher_logits,  # pyright: ignore[reportPrivateUsage]
    fit_panda,
)
from ensemble.methods.single import single_candidates
from ensemble.methods.target_prompt import target_prompt
from ensemble.methods.vpt import random_prompt
from ensemble.prompt_tuning import LabelledPixels, TunedPrompt, cross_entropy, tune_prompt
from tests.ensemble.methods.short_tuning import CONFIG, OPTIONS

MakeSession = Callable[..., FitSession]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, dict[str, Any], TunedPrompt]]:
    """What tuning was given and what came of it; the real tuning runs."""
    made: list[tuple[Tensor, dict[str, Any], TunedPrompt]] = []

    def spy(vit: Any, prompt: Tensor, *data: Any, **kwargs: Any) -> TunedPrompt:
        found = tune_prompt(vit, prompt, *data, **kwargs)
        made.append((prompt, kwargs, found))
        return found

    monkeypatch.setattr(tuning, "tune_prompt", spy)
    return made


def teacher_logits(fit: FitSession, teacher: TunedPrompt) -> Tensor:
    """Those of the training images under the tuned source, by the head that was tuned along."""
    features = features_under(fit, teacher.prompt)
    return features.float() @ teacher.head_weight.T + teacher.head_bias


def shift_cosines(fit: FitSession) -> Tensor:
    """Between what each source and the target's own prompt do to the training images' features."""
    plain = features_under(fit, None).mean(0)
    own, *shifts = (
        features_under(fit, prompt).mean(0) - plain
        for prompt in [target_prompt(fit), *fit.sources.stored]
    )
    return torch.stack([shift @ own / (shift.norm() * own.norm()) for shift in shifts])


def features_under(fit: FitSession, prompt: Tensor | None) -> Tensor:
    """Those (N, D) of the training images."""
    return torch.cat([fit.vit(batch, prompt) for batch in fit.train.pixels.split(32)]).double()


def test_the_nearest_source_is_tuned_and_teaches_a_fresh_prompt(
    make_session: MakeSession, calls: list[tuple[Tensor, dict[str, Any], TunedPrompt]]
) -> None:
    plain = make_session(OPTIONS)
    near = 0.4 * target_prompt(plain) + plain.sources.stored[1]
    fit = make_session(OPTIONS, sources=[*plain.sources.stored[2:], near])

    found = fit_panda(fit)

    similarities = shift_cosines(fit)
    assert found.diagnostics.similarities == pytest.approx(similarities.tolist(), abs=1e-4)
    nearest, weight = int(similarities.argmax()), float(similarities.max())
    assert (nearest, weight > 0.1) == (3, True)
    assert found.weights.tolist() == [0, 0, 0, 1]
    (source, teaching, teacher), (start, kwargs, tuned) = calls
    assert torch.equal(source, fit.sources.aligned[3])
    assert teaching["loss_function"] is cross_entropy
    assert torch.equal(start, random_prompt(fit))
    assert teaching["config"] == kwargs["config"] == CONFIG
    expected = teacher_logits(fit, teacher)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # the second time the student has been trained already: nothing changes
        rows = torch.randperm(56, generator=generator)[:7]
        logits = torch.randn(7, 2, generator=generator)
        labels = fit.train.labels[rows]
        of_labels = -logits.log_softmax(1)[torch.arange(7), labels].mean()
        squared = ((logits - expected[rows]) ** 2).sum() / (7 * 2)
        loss = kwargs["loss_function"](logits, labels, rows)
        assert float(loss) == pytest.approx(float(of_labels + weight * squared), rel=1e-4)
    by_tuned = {c.standing.tuned: c for c in found.candidates}
    assert {c.standing.source for c in found.candidates} == {3}
    assert torch.equal(by_tuned[True].prompt, tuned.prompt)
    assert torch.equal(by_tuned[False].prompt, source)
    assert tuned.best.epoch > 0


def test_a_teacher_that_learned_something_teaches_what_it_has_learned(
    make_session: MakeSession, calls: list[tuple[Tensor, dict[str, Any], TunedPrompt]]
) -> None:
    fit = make_session(OPTIONS)
    source = single_candidates(fit, fit.features_of("features", list(fit.sources.stored)))[0]

    logits = _teacher_logits(fit, source)

    ((_, _, teacher),) = calls
    assert teacher.best.epoch > 0
    torch.testing.assert_close(logits, teacher_logits(fit, teacher), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("short_embedding")
def test_a_source_of_the_opposite_effect_is_not_the_nearest(
    make_session: MakeSession, few: LabelledPixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cosines(*_: object) -> Tensor:
        return torch.tensor([-0.9, 0.1, -0.2, 0.3, -0.4])

    monkeypatch.setattr(panda, "shift_similarities", cosines)

    found = fit_panda(make_session(replace(OPTIONS, tuning_epochs=1), images=few))

    assert found.weights.tolist() == [0, 0, 0, 1, 0]


def test_a_student_with_a_teacher_learns_something_else(
    make_session: MakeSession, calls: list[tuple[Tensor, dict[str, Any], TunedPrompt]]
) -> None:
    fit = make_session(OPTIONS, sources=[target_prompt(make_session(OPTIONS))])

    fit_panda(fit)

    _, (start, kwargs, taught) = calls
    kwargs.pop("loss_function")
    alone = tune_prompt(fit.vit, start, fit.train, fit.validation, **kwargs)
    assert not torch.allclose(taught.prompt, alone.prompt, atol=1e-3)


def test_no_source_like_the_target_leaves_cross_entropy(
    make_session: MakeSession, calls: list[tuple[Tensor, dict[str, Any], TunedPrompt]]
) -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = [
        2 * torch.randn(3, 4, 32, generator=generator) for _ in range(60)
    ]  # most are like it a little
    cosines = shift_cosines(make_session(OPTIONS, sources=drawn))
    unlike = [p for p, cosine in zip(drawn, cosines, strict=True) if cosine < 0]
    assert unlike
    fit = make_session(OPTIONS, sources=unlike)

    found = fit_panda(fit)

    assert all(s < 0 for s in found.diagnostics.similarities)
    _, (start, kwargs, tuned) = calls
    kwargs.pop("loss_function")
    by_cross_entropy = tune_prompt(fit.vit, start, fit.train, fit.validation, **kwargs)
    assert torch.equal(tuned.prompt, by_cross_entropy.prompt)
    assert tuned.best.epoch > 0


def test_a_student_that_learned_nothing_leaves_the_source(
    make_session: MakeSession, calls: list[tuple[Tensor, dict[str, Any], TunedPrompt]]
) -> None:
    fit = make_session(replace(OPTIONS, tuning_epochs=1, prompt_learning_rate=10.0))

    found = fit_panda(fit)

    (_, _, student) = calls[1]
    assert student.best.epoch == 0
    (candidate,) = found.candidates
    assert not candidate.standing.tuned
    assert torch.equal(candidate.prompt, fit.sources.aligned[int(found.weights.argmax())])

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ensemble.class_head import fit_class_head
from ensemble.fit_session import FitSession
from ensemble.methods import tuning
from ensemble.methods.panda import fit_panda
from ensemble.methods.target_prompt import prompt_similarities, target_prompt
from ensemble.prompt_tuning import TunedPrompt, tune_prompt
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


def teacher_logits(fit: FitSession, source: int) -> Tensor:
    """Those of the training images under the source, by a head fitted on them."""
    prompt = fit.sources.stored[source]
    features = torch.cat([fit.vit(batch, prompt) for batch in fit.train.pixels.split(32)])
    return fit_class_head(features, fit.train.labels, 2).logits(features)


def test_the_nearest_source_teaches_a_student_that_starts_from_it(
    make_session: MakeSession, calls: list[tuple[Tensor, dict[str, Any], TunedPrompt]]
) -> None:
    plain = make_session(OPTIONS)
    near = 0.4 * target_prompt(plain) + plain.sources.stored[1]
    fit = make_session(OPTIONS, sources=[*plain.sources.stored[2:], near])

    found = fit_panda(fit)

    similarities = prompt_similarities(target_prompt(fit), fit.sources.stored)
    assert found.diagnostics.similarities == pytest.approx(similarities.tolist())
    nearest, weight = int(similarities.argmax()), float(similarities.max())
    assert (nearest, weight > 0.1) == (3, True)
    assert found.weights.tolist() == [0, 0, 0, 1]
    ((start, kwargs, tuned),) = calls
    assert torch.equal(start, fit.sources.aligned[3])
    expected = teacher_logits(fit, 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # the second time the student has been trained already: nothing changes
        rows = torch.randperm(56, generator=generator)[:7]
        logits = torch.randn(7, 2, generator=generator)
        labels = fit.train.labels[rows]
        cross_entropy = -logits.log_softmax(1)[torch.arange(7), labels].mean()
        squared = ((logits - expected[rows]) ** 2).sum() / (7 * 2)
        loss = kwargs["loss_function"](logits, labels, rows)
        assert float(loss) == pytest.approx(float(cross_entropy + weight * squared), rel=1e-4)
    by_tuned = {c.standing.tuned: c for c in found.candidates}
    assert {c.standing.source for c in found.candidates} == {3}
    assert torch.equal(by_tuned[True].prompt, tuned.prompt)
    assert torch.equal(by_tuned[False].prompt, start)
    assert tuned.best.epoch > 0


def test_a_student_with_a_teacher_learns_something_else(make_session: MakeSession) -> None:
    plain = make_session(OPTIONS)
    near = target_prompt(plain)
    fit = make_session(OPTIONS, sources=[near])

    student = next(c for c in fit_panda(fit).candidates if c.standing.tuned)

    features = torch.cat([fit.vit(batch, near) for batch in fit.train.pixels.split(32)])
    head = fit_class_head(features, fit.train.labels, 2)
    alone = tune_prompt(
        fit.vit, near, fit.train, fit.validation, num_classes=2, config=CONFIG, initial_head=head
    )
    assert not torch.allclose(student.prompt, alone.prompt, atol=1e-3)


def test_no_source_like_the_target_leaves_cross_entropy(
    make_session: MakeSession, calls: list[tuple[Tensor, dict[str, Any], TunedPrompt]]
) -> None:
    target = target_prompt(make_session(OPTIONS))
    fit = make_session(OPTIONS, sources=[-target, torch.zeros_like(target) - target.flip(1)])

    found = fit_panda(fit)

    assert all(s < 0 for s in found.diagnostics.similarities)
    ((start, kwargs, tuned),) = calls
    kwargs.pop("loss_function")
    by_cross_entropy = tune_prompt(fit.vit, start, fit.train, fit.validation, **kwargs)
    assert torch.equal(tuned.prompt, by_cross_entropy.prompt)
    assert tuned.best.epoch > 0

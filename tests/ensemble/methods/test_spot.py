from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ensemble.composition import align_tokens
from ensemble.fit_session import FitSession
from ensemble.methods.spot import fit_spot, retrieval_weights
from ensemble.methods.target_prompt import target_prompt
from ensemble.options import FitOptions

MakeSession = Callable[..., FitSession]


def similarity(target: Tensor, source: Tensor) -> float:
    """Mean over layers of the mean cosine of all pairs of tokens, one pair at a time."""
    cosines: list[float] = []
    for of_target, of_source in zip(target.double(), source.double(), strict=True):
        for a in of_target:
            cosines += [float(a @ b / (a.norm() * b.norm())) for b in of_source]
    return sum(cosines) / len(cosines)


def test_the_nearest_source_and_the_average_of_the_nearest_three_are_tried(
    make_session: MakeSession,
) -> None:
    fit = make_session()
    target = target_prompt(fit)
    # One like the target, one unlike it, three in between.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, *target.shape, generator=generator)
    kin = [k * target + own * target.std() for k, own in zip((1.0, 0.5, 0.25), noise, strict=False)]
    others = [-target, noise[3]]
    fit = make_session(sources=[kin[2], others[0], kin[0], others[1], kin[1]])

    found = fit_spot(fit)

    similarities = [similarity(target, source) for source in fit.sources.stored]
    assert found.diagnostics.similarities == pytest.approx(similarities)
    order = sorted(range(5), key=lambda i: -similarities[i])
    assert order[:3] == [2, 4, 0]
    total = sum(similarities[i] for i in order[:3])
    expected = {
        "nearest": [float(i == order[0]) for i in range(5)],
        "average": [similarities[i] / total if i in order[:3] else 0.0 for i in range(5)],
    }
    by_choice = {
        "nearest" if c.weights.max() == 1 else "average": c.weights.tolist()
        for c in found.candidates
    }
    assert len(found.candidates) == 2
    assert {c.standing.source: float(c.weights.max()) == 1 for c in found.candidates} == {
        order[0]: True,
        None: False,
    }
    assert by_choice == {name: pytest.approx(weights) for name, weights in expected.items()}
    assert torch.equal(found.weights, found.candidates[0].weights)
    for candidate in found.candidates:
        composite = torch.zeros(target.shape, dtype=torch.float64)
        for weight, prompt in zip(candidate.weights, align_tokens(fit.sources.stored), strict=True):
            composite += weight * prompt.double()
        torch.testing.assert_close(candidate.prompt, composite.float())
        features = torch.cat([fit.vit(batch, composite.float()) for batch in fit.pixels.split(32)])
        torch.testing.assert_close(candidate.features, features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("similarities", "expected"),
    [
        ([0.1, 0.4, 0.2, 0.2, -0.9], [0, 0.5, 0.25, 0.25, 0]),
        ([0.3, -0.1, -0.2, 0.1, -0.9], [0.75, 0, 0, 0.25, 0]),
        ([-0.3, -0.1, -0.2, -0.4, -0.9], [1 / 3, 1 / 3, 1 / 3, 0, 0]),
        ([0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
        ([0.2, 0.6], [0.25, 0.75]),
        ([-0.2], [1.0]),
    ],
)
def test_the_average_is_in_proportion_and_negatives_count_nothing(
    similarities: list[float], expected: list[float]
) -> None:
    given = torch.tensor(similarities, dtype=torch.float64)

    assert retrieval_weights(given, 3).tolist() == pytest.approx(expected)
    nearest = retrieval_weights(given, 1).tolist()
    assert nearest[similarities.index(max(similarities))] == sum(nearest) == 1


def test_one_choice_is_one_candidate(make_session: MakeSession, sources: list[Tensor]) -> None:
    fit = make_session(FitOptions(tuning_epochs=6, prompt_learning_rate=0.02), sources=sources[:1])

    found = fit_spot(fit)

    assert sorted(c.standing.tuned for c in found.candidates) == [False, True]
    assert found.weights.tolist() == [1]


@pytest.mark.usefixtures("short_embedding")
def test_the_weights_are_those_of_the_average_where_that_is_better(
    make_session: MakeSession, sources: list[Tensor]
) -> None:
    """Of a source that knows the task three damaged copies: together they are less damaged."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, *sources[1].shape, generator=generator)

    found = fit_spot(make_session(sources=list(sources[1] + 0.6 * noise)))

    average, nearest = found.candidates
    assert (average.standing.source, nearest.standing.source is None) == (None, False)
    assert torch.equal(found.weights, average.weights)


def test_sources_unlike_the_target_are_still_retrieved(make_session: MakeSession) -> None:
    target = target_prompt(make_session())

    found = fit_spot(make_session(sources=[-target, -2 * target, -target.flip(1)]))

    assert all(s < 0 for s in found.diagnostics.similarities)
    assert len(found.candidates) == 2
    assert any(c.weights.tolist() == pytest.approx([1 / 3] * 3) for c in found.candidates)

"""The composite prompt: align the sources' tokens, then average them by weight.

A Vision Transformer's CLS output does not change when the prompt tokens of a layer are permuted,
so sources trained apart hold their tokens in arbitrary order, and averaging them as stored
averages unrelated vectors. The paper does not align; we do (Hungarian assignment, Kuhn 1955).
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ensemble.errors import FitStoppedError, NonFiniteError, ShapeError

_RELATIVE_TIE = 1e-12
"""Of the squares that a distance is made from; what their order in float64 changes is below it."""

_RELATIVE_ROUNDING = 1e-5
"""Of float32 features; what tokens in another order change is below it."""


def align_tokens(prompts: Tensor, should_stop: Callable[[], bool] = lambda: False) -> Tensor:
    """Permute each source's tokens, layer by layer, to lie nearest to a reference source's.

    The reference is the medoid, the source that all others can be brought nearest to, so that
    the order in which sources are named does not matter.

    Args:
        prompts: (M, L, P, D).
        should_stop: Asked between two pairs of sources, each of which takes time cubic in P.

    Returns:
        The permuted prompts (M, L, P, D). Each source's own features are unchanged.

    Raises:
        FitStoppedError: `should_stop` returned true.
    """
    M, L, P, _ = prompts.shape
    tokens = prompts.double().cpu()
    norms = (tokens**2).flatten(1).sum(1)
    orders = torch.arange(P).repeat(M, M, L, 1)  # (reference, source, L, P); own tokens stay
    similarity = norms.diag()
    for i, j in itertools.combinations(range(M), 2):
        if should_stop():
            raise FitStoppedError("stopped while the sources' tokens were aligned")
        orders[i, j], similarity[i, j] = _match(tokens[i], tokens[j])
        orders[j, i], similarity[j, i] = orders[i, j].argsort(), similarity[i, j]
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab: the own norm counts M times, as in a sum of distances.
    distance = M * norms + norms.sum() - 2 * similarity.sum(1)
    # Two sources are equally near to each other, but for the last bits, which machines differ in:
    # of equals the shortest.
    near = distance <= distance.min() + _RELATIVE_TIE * M * norms.sum()
    medoid = int(norms.where(near, torch.inf).argmin())
    index = orders[medoid].to(prompts.device)[..., None].expand_as(prompts)
    return prompts.gather(2, index)


def _match(reference: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Token order (L, P) of `prompt` that fits `reference` (L, P, D) best, and their product."""
    products = reference @ prompt.transpose(1, 2)  # (L, P, P)
    order = torch.stack(
        [torch.from_numpy(linear_sum_assignment(p.numpy(), maximize=True)[1]) for p in products]
    )
    return order, products.gather(2, order[..., None]).sum()


def check_prompts(prompts: Sequence[Tensor]) -> None:
    """Check that source prompts, each (L, P, D), fit each other.

    Raises:
        ShapeError: Their shapes differ, so that no weighted sum exists, or there are none; or a
            prompt is not (L, P, D) with L and P at least 1.
        NonFiniteError: A value is NaN or infinite.
    """
    shapes = {tuple(prompt.shape) for prompt in prompts}
    if len(shapes) != 1:
        raise ShapeError(f"source prompts have shapes {sorted(shapes)}; all must be the same")
    (shape,) = shapes
    if len(shape) != 3 or 0 in shape:  # noqa: PLR2004
        raise ShapeError(f"source prompts have shape {shape}; expected (L, P, D), none of them 0")
    broken = [i for i, p in enumerate(prompts) if not bool(p.float().isfinite().all())]
    if broken:
        raise NonFiniteError(f"source prompts contain NaN or infinite values: sources {broken}")


def stack_prompts(prompts: Sequence[Tensor]) -> Tensor:
    """Stack source prompts into (M, L, P, D), float32.

    Raises:
        ShapeError, NonFiniteError: As `check_prompts`.
    """
    check_prompts(prompts)
    return torch.stack([prompt.float() for prompt in prompts])


def compose(prompts: Tensor, weights: Tensor) -> Tensor:
    """Return P = sum_j weights_j prompts_j as (L, P, D) float32, summed in float64.

    One addition after another, so that every machine gets the same bits.

    Args:
        prompts: (M, L, P, D), aligned or not.
        weights: (M,), on the simplex.

    Raises:
        ShapeError: Not one weight a prompt.
    """
    if prompts.ndim != 4 or weights.shape != prompts.shape[:1]:  # noqa: PLR2004
        raise ShapeError(
            f"prompts {tuple(prompts.shape)} and weights {tuple(weights.shape)}: "
            "expected (M, L, P, D) and (M,)"
        )
    composite = torch.zeros(prompts.shape[1:], dtype=torch.float64, device=prompts.device)
    for weight, prompt in zip(weights.double(), prompts.double(), strict=True):
        composite = composite + weight * prompt
    return composite.float()


def composite_digest(prompt: Tensor) -> str:
    """Return `sha256:<hex>` over the composite's shape and its little-endian float32 bytes."""
    header = "x".join(map(str, prompt.shape))
    data = prompt.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes()
    return f"sha256:{hashlib.sha256(header.encode() + data).hexdigest()}"


def composition_gap(composite_features: Tensor, features: Tensor, weights: Tensor) -> float:
    """Return how far the composite's features lie from the weighted sum of the sources'.

        Gamma = E||f(P) - f_bar||^2 / E[ sum_j alpha_j ||f(P_j) - f_bar||^2 ],
        f_bar = sum_j alpha_j f(P_j)

    0: composing prompts is composing features. 1: the composite is as far away as the sources
    themselves are apart. NaN where the weighted sources do not differ: one source, identical ones,
    or all weight on one.

    Args:
        composite_features: (N, D).
        features: (M, N, D).
        weights: (M,).
    """
    features, weights = features.double(), weights.double()
    mean = torch.einsum("m,mnd->nd", weights, features)  # (N, D)
    gap = ((composite_features.double() - mean) ** 2).sum(1).mean()
    spread = ((features - mean) ** 2).sum(2).mean(1) @ weights
    rounding = (features**2).sum(2).mean() * _RELATIVE_ROUNDING**2
    return float(gap / spread) if spread > rounding else math.nan

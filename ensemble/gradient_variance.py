"""Do the sources pull the target loss with equal force? A penalty on weights that do not.

Gradient-variance matching after Fishr (Rame et al. 2022, ICML, arXiv 2109.02934), as HGPrompt
uses it. Inside the feature sum f_alpha = sum_j alpha_j f(x; P_j), the gradient of image n's loss
with respect to source i's prompt is alpha_i J_in' c_n, with c_n the cotangent of the loss at
f_alpha(x_n). Its variance over images is alpha_i^2 u_i, elementwise, and

    R(alpha) = sum_i mean((v_i - v)^2) / (mean(v^2) + eps) / (M (M - 1)),
    v_i = alpha_i^2 u_i,   v = mean_i v_i

Departures from the paper. It leaves open what is differentiated: through the *composite* prompt
all gradients would be alpha_i times one vector and R would only ask for uniform weights. And the
division by M (M - 1) is ours: without it R is M (M - 1) at every vertex, so that the same lambda
would weigh quadratically more with more sources. With it R lies in [0, 1]. The errors in c_n are
those of cross-fitted predictions (`loss_cotangents`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.prompted_vit import PromptedViT

_RELATIVE_EPSILON = 1e-12


@dataclass(frozen=True)
class GradientMoments:
    """Mean and variance over images of per-image prompt gradients, each (L, P, D)."""

    mean: Tensor
    variance: Tensor


def loss_cotangents(weight: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return c_n = W'(softmax(logits_n) - onehot(y_n)), (N, D): d cross-entropy / d features.

    Args:
        weight: W, (C, D), of the class head.
        logits: (N, C), of each image by a head that has not seen it. With fewer images than
            features a head is right and sure of all those that it was fitted on: they would give
            no gradient, and R nothing to match.
        labels: (N,).
    """
    one_hot = functional.one_hot(labels.long(), logits.shape[1])
    return (logits.softmax(1) - one_hot) @ weight


def prompt_gradient_moments(
    vit: PromptedViT,
    pixels: Tensor,
    prompts: Tensor,
    cotangents: Tensor,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[GradientMoments]:
    """Return the moments over images of J_in' c_n for each source i.

    Every pair of source and image owns a copy of the prompt, so one ordinary backward pass gives
    all gradients of a batch of pairs.

    Args:
        vit: The frozen backbone.
        pixels: (N, 3, H, W), N >= 1.
        prompts: (M, L, P, D).
        cotangents: (N, D).
        batch_size: Pairs a forward and backward pass.
        on_batch: Called before each batch with the number of pairs that are done.
    """
    M, N = len(prompts), len(pixels)
    tokens = vit.embed(pixels.to(vit.device))  # (N, T, D)
    total = torch.zeros(prompts.shape, dtype=torch.float64)
    squares = torch.zeros_like(total)
    for pairs in torch.arange(M * N).split(batch_size):
        on_batch(int(pairs[0]))
        source, image = pairs // N, pairs % N
        copies = prompts[source].to(vit.device, torch.float32).requires_grad_()  # (B, L, P, D)
        features = vit.encode(tokens[image.to(vit.device)], copies)  # (B, D)
        loss = (features * cotangents[image].to(features)).sum()
        (gradients,) = torch.autograd.grad(loss, copies)
        gradients = gradients.double().cpu()
        total.index_add_(0, source, gradients)
        squares.index_add_(0, source, gradients**2)
    mean = total / N
    variance = (squares / N - mean**2).clamp_min(0)
    return [GradientMoments(mean=m, variance=v) for m, v in zip(mean, variance, strict=True)]


def gradient_cosine(moments: list[GradientMoments]) -> Tensor:
    """Return the cosines (M, M) between the sources' mean gradients: negative is conflict.

    0 with a source that has no gradient, itself included.
    """
    means = torch.stack([m.mean.flatten() for m in moments])
    # By its own norm, however small: its scale is that of the errors of the class head.
    unit = functional.normalize(means, dim=1, eps=torch.finfo(means.dtype).tiny)
    return (unit @ unit.T).clamp(-1.0, 1.0)  # rounded, the product may be a little more than 1


class GradientVariancePenalty:
    """R(alpha) for fixed u_i; by its Gram matrix an evaluation costs M^2, not M L P D.

    Args:
        variances: u, (M, L, P, D) or (M, anything), non-negative.
    """

    def __init__(self, variances: Tensor) -> None:
        u = variances.flatten(1).double()
        self.gram = u @ u.T / u.shape[1]  # U_ij = mean(u_i u_j), (M, M)
        smallest = torch.finfo(torch.float64).tiny
        self.epsilon = _RELATIVE_EPSILON * float(self.gram.trace()) / len(u) ** 5 + smallest

    def __call__(self, weights: Tensor) -> Tensor:
        """Return R at weights (M,), differentiable, float64; 0 when all v_i are equal."""
        M = len(weights)
        w = weights.double() ** 2
        mean_square = w @ self.gram @ w / M**2  # mean(v^2)
        spread = (w**2 * self.gram.diagonal()).sum() - M * mean_square
        return spread / (mean_square + self.epsilon) / max(1, M * (M - 1))

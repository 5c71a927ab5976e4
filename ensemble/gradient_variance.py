"""Do the sources pull the target loss with equal force? A penalty on weights that do not.

Gradient-variance matching after Fishr (Rame et al. 2022, ICML, arXiv 2109.02934), as HGPrompt
uses it. Inside the feature sum f_alpha = sum_j alpha_j f(x; P_j), the gradient of image n's loss
with respect to source i's prompt is alpha_i J_in' c_n, with c_n the cotangent of the loss at
f_alpha(x_n). Its variance over images is alpha_i^2 u_i, elementwise, and

    R(alpha) = sum_i mean((v_i - v)^2) / (mean(v^2) + eps),   v_i = alpha_i^2 u_i,   v = mean_i v_i

Departure from the paper, which leaves open what is differentiated: through the *composite*
prompt all gradients would be alpha_i times one vector and R would only ask for uniform weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.class_head import ClassHead
from ensemble.prompted_vit import PromptedViT

_RELATIVE_EPSILON = 1e-12


@dataclass(frozen=True)
class GradientMoments:
    """Mean and variance over images of per-image prompt gradients, each (L, P, D)."""

    mean: Tensor
    variance: Tensor


def loss_cotangents(head: ClassHead, features: Tensor, labels: Tensor) -> Tensor:
    """Return c_n = W'(softmax(logits_n) - onehot(y_n)), (N, D): d cross-entropy / d features."""
    probabilities = head.logits(features).softmax(1)  # (N, C)
    one_hot = functional.one_hot(labels.long(), probabilities.shape[1])
    return (probabilities - one_hot) @ head.weight


def prompt_gradient_moments(
    vit: PromptedViT, pixels: Tensor, prompt: Tensor, cotangents: Tensor, *, batch_size: int
) -> GradientMoments:
    """Return the moments of J_n' c_n over images.

    Every image owns a copy of the prompt, so one ordinary backward pass gives all per-image
    gradients of a batch.

    Args:
        vit: The frozen backbone.
        pixels: (N, 3, H, W), N >= 1.
        prompt: (L, P, D).
        cotangents: (N, D).
        batch_size: Images a forward and backward pass.
    """
    total = torch.zeros(prompt.shape, dtype=torch.float64)
    squares = torch.zeros_like(total)
    for rows in torch.arange(len(pixels)).split(batch_size):
        per_image = prompt.to(vit.device).expand(len(rows), *prompt.shape).clone().requires_grad_()
        features = vit(pixels[rows].to(vit.device), per_image)  # (B, D)
        loss = (features * cotangents[rows].to(features)).sum()
        (gradients,) = torch.autograd.grad(loss, per_image)  # (B, L, P, D)
        gradients = gradients.double().cpu()
        total += gradients.sum(0)
        squares += (gradients**2).sum(0)
    mean = total / len(pixels)
    return GradientMoments(mean=mean, variance=(squares / len(pixels) - mean**2).clamp_min(0))


def gradient_cosine(moments: list[GradientMoments]) -> Tensor:
    """Return the cosines (M, M) between the sources' mean gradients: negative is conflict."""
    means = torch.stack([m.mean.flatten() for m in moments])
    unit = functional.normalize(means, dim=1)
    return unit @ unit.T


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
        return spread / (mean_square + self.epsilon)

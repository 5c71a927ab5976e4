"""The H-score of features, plain and adjusted, with an exact gradient for the adjusted one.

Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task Transfer
Learning", ICIP: how much of the features' spread is spread between classes.

    F (N, D)   centred features                S = F'F / N       their covariance
    m_c (D,)   mean of class c, pi_c = n_c/N   W = sum_c pi_c m_c m_c'
    H = tr(S^-1 W)                             0 <= H <= min(C - 1, D)

H is invariant to any invertible linear map of the features. With few images it is mostly noise:
random labels score (C-1) min(D, N-1) / (N-1) on average, and for N - 1 <= D every set of features
scores C - 1. `adjusted_h_score` is the remedy and what a fit maximises.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.checks import centred, checked_features
from ensemble.errors import DegenerateFeaturesError

_FIRST_JITTER, _LAST_JITTER = 1e-12, 1e-6


@dataclass(frozen=True)
class ClassMoments:
    """First and second moments of features by class, float64.

    Attributes:
        centred: F, (N, D).
        class_means: m_c of the centred features, (C, D), for the C classes present.
        class_shares: pi_c, (C,).
        class_of_row: (N,), index into `class_means`.
    """

    centred: Tensor
    class_means: Tensor
    class_shares: Tensor
    class_of_row: Tensor

    @property
    def num_classes(self) -> int:
        """C, the number of classes present."""
        return len(self.class_shares)

    @property
    def between(self) -> Tensor:
        """G with rows sqrt(pi_c) m_c, (C, D), so that W = G'G."""
        return self.class_shares.sqrt()[:, None] * self.class_means


def class_moments(features: Tensor, labels: Tensor) -> ClassMoments:
    """Centre features and average them by class.

    Args:
        features: (N, D), finite, N >= 2.
        labels: (N,), any integers; only classes present count.

    Raises:
        ShapeError: Features and labels do not fit each other.
        NonFiniteError: A feature is NaN or infinite.
        DegenerateFeaturesError: Fewer than two images, or all features are constant.
    """
    features = checked_features(features, labels)
    if len(features) < 2:  # noqa: PLR2004
        raise DegenerateFeaturesError(f"{len(features)} image(s); a score needs at least 2")
    F = centred(features)
    if not bool(F.any()):
        raise DegenerateFeaturesError(
            f"all {features.shape[1]} features are constant over {len(features)} images"
        )
    present, class_of_row = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(class_of_row, minlength=len(present)).double()  # (C,)
    sums = torch.zeros(len(present), features.shape[1], dtype=torch.float64, device=F.device)
    class_means = sums.index_add(0, class_of_row, F) / counts[:, None]  # (C, D)
    return ClassMoments(F, class_means, counts / len(features), class_of_row)


def h_score(features: Tensor, labels: Tensor) -> Tensor:
    """Return tr(S^+ W), a float64 scalar; S^+ is the pseudo-inverse where S is singular.

    Differentiable where S is well conditioned; where it is singular (N - 1 < D, duplicate or
    constant features) the value is exact and carries no gradient.

    Args:
        features: (N, D).
        labels: (N,), integers.

    Raises:
        ShapeError, NonFiniteError, DegenerateFeaturesError: As `class_moments`.
    """
    moments = class_moments(features, labels)
    F, G = moments.centred, moments.between
    N, D = F.shape
    if N - 1 < D:
        # Of rank N - 1, F spans everything of mean 0, and so tells all classes apart: H = C - 1.
        # The mean itself, the one direction that centring takes out, is put back to test the rank.
        K = F @ F.T / N
        if _well_conditioned_factor(K + K.diagonal().mean() / N) is not None:
            return torch.tensor(moments.num_classes - 1.0, dtype=torch.float64, device=F.device)
    else:
        factor = _well_conditioned_factor(F.T @ F / N)
        if factor is not None:
            return (torch.linalg.solve_triangular(factor, G.T, upper=False) ** 2).sum()
    return _pseudo_inverse_h_score(F.detach(), G.detach())


def _well_conditioned_factor(matrix: Tensor) -> Tensor | None:
    """The Cholesky factor of a symmetric matrix (K, K), or None if it may be singular."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal() ** 2
    floor = pivots.max() * len(matrix) * torch.finfo(torch.float64).eps * 10
    return factor if int(info) == 0 and bool(pivots.min() > floor) else None


def _pseudo_inverse_h_score(F: Tensor, G: Tensor) -> Tensor:
    """tr((F'F/N)^+ G'G) through the singular values of F above rounding."""
    _, singular, Vt = torch.linalg.svd(F, full_matrices=False)
    kept = singular > singular[0] * max(F.shape) * torch.finfo(torch.float64).eps * 10
    projected = (G @ Vt[kept].T) / singular[kept]  # (C, r)
    return (projected**2).sum() * len(F)


def adjusted_h_score(features: Tensor, labels: Tensor, *, shrinkage: float) -> Tensor:
    """Return the shrunk, chance-corrected H-score, a differentiable float64 scalar.

        S_rho = (1 - rho) S + rho (tr S / D) I
        score = (1 - rho) [ tr(S_rho^-1 W) - (C-1)/(N-1) tr(S_rho^-1 S) ]

    The second term is the expectation of the first under permuted labels, so chance scores 0.
    Invariant to scaling and rotating the features. Not in the HGPrompt paper, which maximises
    the plain score.

    Args:
        features: (N, D).
        labels: (N,), integers.
        shrinkage: rho in (0, 1), to be the same wherever scores are compared.

    Raises:
        ShapeError, NonFiniteError, DegenerateFeaturesError: As `class_moments`.
    """
    moments = class_moments(features, labels)
    A, S = _inverse_shrunk_covariance(moments.centred, shrinkage)
    between = ((moments.between @ A) * moments.between).sum()  # tr(A W)
    return (1 - shrinkage) * (between - _chance(moments) * (A * S).sum())


def adjusted_h_score_and_gradient(
    features: Tensor, labels: Tensor, *, shrinkage: float
) -> tuple[float, Tensor]:
    """Return the adjusted score and its gradient (N, D), both in closed form.

    Works on whichever is smaller, the covariance (D, D) or the Gram matrix (N, N).

    Raises:
        ShapeError, NonFiniteError, DegenerateFeaturesError: As `class_moments`.
    """
    moments = class_moments(features, labels)
    N, D = moments.centred.shape
    return (_by_gram if N < D else _by_covariance)(moments, shrinkage)


def _by_covariance(moments: ClassMoments, shrinkage: float) -> tuple[float, Tensor]:
    """Score and gradient through (D, D) matrices.

    With A = S_rho^-1, kappa = (C-1)/(N-1) and K = A (W - kappa S) A, row n of the gradient is
    2 (1-rho)/N [ A m_{y_n} - (kappa A + (1-rho) K + rho/D tr(K) I) f_n ].
    """
    F, G = moments.centred, moments.between
    N, D = F.shape
    A, S = _inverse_shrunk_covariance(F, shrinkage)
    kappa = _chance(moments)
    isotropic = shrinkage * S.trace() / D  # S_rho = (1 - rho) S + isotropic I
    AG = A @ G.T  # (D, C)
    ASA = (A - isotropic * (A @ A)) / (1 - shrinkage)  # (D, D)
    trace_AS = (D - isotropic * A.trace()) / (1 - shrinkage)
    K = AG @ AG.T - kappa * ASA  # (D, D)
    score = (1 - shrinkage) * (float((AG.T * G).sum()) - kappa * float(trace_AS))
    pull = (moments.class_means @ A)[moments.class_of_row]  # (N, D)
    push = kappa * A + (1 - shrinkage) * K
    push.diagonal().add_(shrinkage / D * K.trace())
    return score, 2 * (1 - shrinkage) / N * (pull - F @ push)


def _by_gram(moments: ClassMoments, shrinkage: float) -> tuple[float, Tensor]:
    """Score and gradient through (N, N) matrices.

    With K = F F', c = rho tr(K) / (N D), B = (1-rho)/N K + c I and Q = P - kappa I, where P = U U'
    averages rows within their class, the score is tr(Q) - c tr(B^-1 Q), because
    S_rho^-1 F' = F' B^-1.
    """
    F = moments.centred
    N, D = F.shape
    C, kappa = moments.num_classes, _chance(moments)
    K = F @ F.T
    c = shrinkage * K.trace() / (N * D)
    B = (1 - shrinkage) / N * K
    B.diagonal().add_(c)
    B_inverse = _inverse(B)
    U = functional.one_hot(moments.class_of_row, C) / (N * moments.class_shares).sqrt()  # (N, C)
    BU = B_inverse @ U  # (N, C)
    trace_BQ = (BU * U).sum() - kappa * B_inverse.trace()
    trace_BQB = (BU**2).sum() - kappa * (B_inverse**2).sum()
    BQBF = BU @ (BU.T @ F) - kappa * (B_inverse @ (B_inverse @ F))  # (N, D)
    isotropic = shrinkage / (N * D) * (c * trace_BQB - trace_BQ)
    gradient = 2 * ((1 - shrinkage) / N * c * BQBF + isotropic * F)
    return float(C - kappa * N - c * trace_BQ), gradient


def _chance(moments: ClassMoments) -> float:
    """(C-1)/(N-1): the share of S that W holds on average under permuted labels."""
    return (moments.num_classes - 1) / (len(moments.centred) - 1)


def _inverse_shrunk_covariance(F: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """S_rho^-1 and S, both (D, D)."""
    N, D = F.shape
    S = F.T @ F / N
    target = torch.eye(D, dtype=S.dtype, device=S.device) * (S.trace() / D)
    return _inverse((1 - shrinkage) * S + shrinkage * target), S


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of a symmetric positive definite matrix; `cholesky_inverse` takes twice as long."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.cholesky_solve(eye, cholesky(matrix))


def cholesky(matrix: Tensor) -> Tensor:
    """Return the Cholesky factor of a symmetric positive definite matrix (D, D).

    If the plain factorisation fails, a jitter relative to the mean diagonal is added, from
    1e-12 up to 1e-6, with a warning.

    Raises:
        DegenerateFeaturesError: It still fails at the largest jitter.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    jitter = _FIRST_JITTER
    while int(info) != 0 and jitter <= _LAST_JITTER:
        warnings.warn(f"covariance is singular; adding {jitter:g} of its mean", stacklevel=2)
        ridge = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        factor, info = torch.linalg.cholesky_ex(matrix + ridge * matrix.diagonal().mean() * jitter)
        jitter *= 100
    if int(info) != 0:
        raise DegenerateFeaturesError(
            f"covariance ({len(matrix)} features) is not positive definite, "
            f"even with {_LAST_JITTER:g} of its mean added"
        )
    return factor

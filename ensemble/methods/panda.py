"""`panda`: distil the most similar source into a prompt of the target's own.

PANDA (Zhong et al. 2022, "PANDA: Prompt Transfer Meets Knowledge Distillation for Efficient Model
Adaptation", arXiv 2208.10160): a teacher made of the source prompt, tuned on the target with its
classifier, and a student that starts from a fresh prompt and whose loss is cross-entropy +
max(0, similarity) * MSE between its logits and the teacher's. The teacher does not change any more,
so its logits are computed once.

Departures. The paper compares tasks in a space to which their prompts map them; here it is that of
the backbone's features, and a task is the mean shift that its prompt causes in the features of the
target's training images. (Cosines of tokens, as SPoT's, are next to nothing between prompts of
different initialisations, and would leave the student without a teacher.) Teacher and student start
from a head in closed form, as every method here, where the paper's are random. The source prompt as
it is remains a candidate, so a student that learned nothing need not be served. The teacher's
tuning and the steps for the embedding come on top of the tuning epochs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.candidates import Candidate, ranked
from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.methods.findings import Diagnostics, Findings
from ensemble.methods.target_prompt import target_prompt
from ensemble.methods.tuning import tune, tune_candidate
from ensemble.methods.vpt import random_prompt
from ensemble.prompt_tuning import TuningLoss, cross_entropy


def fit_panda(fit: FitSession) -> Findings:
    """Tune the most similar source into a teacher, and a fresh prompt into its student."""
    compared = [None, target_prompt(fit), *fit.sources.stored]
    plain, own, *by_source = fit.features_of("source features", compared, fit.train_rows)
    similarities = shift_similarities(plain, own, torch.stack(by_source))
    nearest = int(similarities.argmax())
    weights = torch.eye(len(fit.sources), dtype=torch.float64)[nearest]
    prompts = [compose(fit.sources.aligned, weights), random_prompt(fit)]
    source, fresh = (
        fit.candidate("panda", weights, prompt, features, source=nearest)
        for prompt, features in zip(prompts, fit.features_of("features", prompts), strict=True)
    )
    logits = _teacher_logits(fit, source)
    loss_function = _distillation(logits, weight=max(0.0, float(similarities[nearest])))
    student = tune_candidate(fit, fresh, loss_function=loss_function)
    diagnostics = Diagnostics(similarities=tuple(similarities.tolist()))
    candidates = [source] if student is None else ranked([source, student])
    return Findings(weights, candidates, diagnostics)


def shift_similarities(plain: Tensor, target: Tensor, sources: Tensor) -> Tensor:
    """Return the cosine of what each source and the target's own prompt do to features, (M,).

    A prompt does the mean shift of the images' features from those without a prompt.

    Args:
        plain: Features (N, D) without a prompt.
        target: (N, D) under the target's own prompt.
        sources: (M, N, D).
    """
    none = plain.double().mean(0)
    of_target = target.double().mean(0) - none  # (D,)
    of_sources = sources.double().mean(1) - none  # (M, D)
    return functional.cosine_similarity(of_sources, of_target, dim=-1)


def _teacher_logits(fit: FitSession, source: Candidate) -> Tensor:
    """Tune the source with its head; return their logits (N, C) of the training images."""
    teacher = tune(fit, source, prefix="teacher ")
    prompt = teacher.prompt.cpu()
    (features,) = fit.features_of("teacher features", [prompt], fit.train_rows)
    return features @ teacher.head_weight.cpu().T + teacher.head_bias.cpu()


def _distillation(teacher_logits: Tensor, weight: float) -> TuningLoss:
    """Cross-entropy plus `weight` times the squared distance to the teacher's logits (N, C)."""

    def loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        distance = functional.mse_loss(logits, teacher_logits[rows].to(logits))
        return cross_entropy(logits, labels, rows) + weight * distance

    return loss

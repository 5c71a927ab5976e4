"""`panda`: tune from the most similar source, with that source as a teacher.

PANDA (Zhong et al. 2022, "PANDA: Prompt Transfer Meets Knowledge Distillation for Efficient Model
Adaptation", arXiv 2208.10160): a teacher made of the source prompt, and a student whose loss is
cross-entropy + max(0, similarity) * MSE between its logits and the teacher's. The teacher does not
change, so its logits are computed once.

Departures. In the paper the teacher is the source prompt after it was tuned on the target, with its
classifier, and the student starts from a fresh prompt. Here the teacher is the source prompt as it
is, with a head fitted on the target in closed form, and the student starts from both: at step 0
they are the same, and the distillation is only an anchor that holds the student near the source.
The similarity is SPoT's mean pairwise cosine of tokens, for deep prompts layer by layer. The steps
for the embedding come on top of the tuning epochs, as in `spot`.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.candidates import ranked
from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.methods.findings import Diagnostics, Findings
from ensemble.methods.target_prompt import prompt_similarities, target_prompt
from ensemble.methods.tuning import tune_candidate
from ensemble.prompt_tuning import TuningLoss, cross_entropy


def fit_panda(fit: FitSession) -> Findings:
    """Distil the most similar source into a prompt tuned on the target."""
    similarities = prompt_similarities(target_prompt(fit), fit.sources.stored)
    nearest = int(similarities.argmax())
    weights = torch.eye(len(fit.sources), dtype=torch.float64)[nearest]
    prompt = compose(fit.sources.aligned, weights)
    (features,) = fit.features_of("composite", [prompt])
    teacher = fit.candidate("panda", weights, prompt, features, source=nearest)
    logits = fit.train_head(features).logits(features[fit.train_rows])
    loss_function = _distillation(logits, weight=max(0.0, float(similarities[nearest])))
    student = tune_candidate(fit, teacher, loss_function=loss_function)
    diagnostics = Diagnostics(similarities=tuple(similarities.tolist()))
    candidates = [teacher] if student is None else ranked([teacher, student])
    return Findings(weights, candidates, diagnostics)


def _distillation(teacher_logits: Tensor, weight: float) -> TuningLoss:
    """Cross-entropy plus `weight` times the squared distance to the teacher's logits (N, C)."""

    def loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        distance = functional.mse_loss(logits, teacher_logits[rows].to(logits))
        return cross_entropy(logits, labels, rows) + weight * distance

    return loss

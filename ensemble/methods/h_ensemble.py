"""`h_ensemble`: weights that maximise the H-score of the feature sum, without a gradient term.

H-ensemble (Wu et al. 2024, "H-ensemble: An Information Theoretic Approach to Reliable Few-Shot
Multi-Source-Free Transfer", AAAI): source models are combined by weights on their features.

Departures: the score is the adjusted one, which has a signal also for N <= D. The weights are
carried over from the features to the prompts, with their tokens aligned first (unless `align` is
false): what is served is one prompt, not M models. The paper's classifier is a generalised form of
maximal correlation regression; here it is the discriminant that every method has.
"""

from ensemble.composition import compose
from ensemble.fit_session import FitSession
from ensemble.methods.findings import Diagnostics, Findings
from ensemble.methods.source_scores import score_sources
from ensemble.methods.tuning import with_tuning
from ensemble.methods.weights import learn_weights


def fit_h_ensemble(fit: FitSession) -> Findings:
    """Learn the weights from the features, compose the prompts with them."""
    features = fit.features_of("features", list(fit.sources.stored))
    solution = learn_weights(fit, features, penalty=None)
    prompt = compose(fit.sources.aligned, solution.weights)
    (composite,) = fit.features_of("composite", [prompt])
    candidate = fit.candidate("h_ensemble", solution.weights, prompt, composite)
    scores = score_sources(fit, features)
    diagnostics = Diagnostics(sources=scores, objective_curve=solution.curve)
    return Findings(solution.weights, with_tuning(fit, [candidate]), diagnostics)

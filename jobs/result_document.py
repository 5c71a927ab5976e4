"""The result document of a fit: what it found out, as workers write it and callers read it.

A document is stored as it was written and shown as it is stored, for ever; so readers of one of
another version may meet parts that these classes do not know, or miss some that they do.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ensemble.options import Method
from jobs.records import SourceRef, TaskRef
from prompt_store.names import Digest

Interval = tuple[float, float]
Point = tuple[float, float]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class ObjectiveValues(_Part):
    """The objective and its parts at the learned weights.

    Attributes:
        h_score: Plain H-score of the weighted feature sum on the training images.
        h_score_adjusted: Adjusted H-score of the same.
        composite_h_score_adjusted: Adjusted H-score of the composite prompt's own features.
        gradient_penalty: In [0, 1]; 0 where the sources' gradients agree.
        total: `h_score_adjusted` less `options.penalty_weight` times `gradient_penalty`.
    """

    h_score: float
    h_score_adjusted: float
    composite_h_score_adjusted: float
    gradient_penalty: float
    total: float


class SourceFindings(SourceRef):
    """What is known of one source alone; what the method did not look at is left out.

    Attributes:
        h_score: Plain H-score on the training images.
        h_score_adjusted: Adjusted H-score on the training images.
        logme: Log maximum evidence an image, in nats.
        similarity: Cosine in [-1, 1] to a prompt tuned on the target for a few steps: for `spot`
            the mean over pairs of tokens, for `panda` that of the mean shifts of the features.
        validation_accuracy: Held-out accuracy of this source alone, untuned.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    h_score: float | None = None
    h_score_adjusted: float | None = None
    logme: float | None = None
    similarity: float | None = None
    validation_accuracy: float | None = None


class DroppedSource(SourceRef):
    """A source that the screening left out, and why.

    Attributes:
        score: Its adjusted H-score in the look that dropped it.
        num_images: Images of that look.
        reason: The same in a sentence.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    score: float
    num_images: Count
    reason: str


class ScreeningLook(_Part):
    """One look of the screening: how many sources were scored on how many images."""

    num_images: Count
    num_sources: Count


class ScreeningFindings(_Part):
    """How the sources were brought down to `max_sources`.

    Attributes:
        num_images: Images of the last look.
        looks: All looks, in order.
        dropped: The sources that the fit went on without.
    """

    num_images: Count
    looks: tuple[ScreeningLook, ...]
    dropped: tuple[DroppedSource, ...]


class GapFindings(_Part):
    """Relative distance of the composite prompt's features from the weighted feature sum.

    Attributes:
        aligned: With the sources' tokens aligned; null if `options.align` is false.
        unaligned: With the tokens as they are stored.
        num_images: Training images that it was measured on.
    """

    aligned: float | None
    unaligned: float | None
    num_images: Count


class CandidateStanding(_Part):
    """A candidate's place on the leaderboard; all are scored on the same held-out images.

    Attributes:
        method: How its prompt was made.
        source: Name of the one source that it starts from; left out if there is none.
        tuned: Whether its prompt was tuned on the target; left out if not.
        accuracy: On the held-out images. Of the best of many, and of the one that is served, it is
            optimistic: these images had a say in which that is.
        ci95: Wilson's 95 % interval of the accuracy, which does not know of that.
        log_loss: Mean on the held-out images, in nats.
    """

    method: Method
    source: str | None = None
    tuned: bool = False
    accuracy: float
    ci95: Interval
    log_loss: float


class AblationFindings(_Part):
    """The learned ensemble with one part left out or changed, on the held-out images.

    Attributes:
        name: What was done to it.
        accuracy: How it does then.
        ci95: Wilson's 95 % interval of the accuracy.
        difference: Accuracy minus that of the learned ensemble.
        difference_ci95: Paired 95 % interval of the difference.
        weights: The weight of each source, by name.
    """

    name: str
    accuracy: float
    ci95: Interval
    difference: float
    difference_ci95: Interval
    weights: dict[str, float]


class ReliabilityBin(_Part):
    """Held-out images whose confidence lies between `low` and `high`; null means: no images."""

    low: float
    high: float
    count: Count
    confidence: float | None
    accuracy: float | None


class ValidationFindings(_Part):
    """Quality of what was chosen, on the held-out images.

    Attributes:
        num_images: How many they are.
        accuracy: Share that was recognised; optimistic as in `CandidateStanding`.
        ece: Expected calibration error in [0, 1], over the bins of `reliability`; with few images
            well above 0 by chance alone.
        temperature: What the class head's logits are divided by; more than 1 makes probabilities
            more modest. The weights of the artifact hold it already.
        reliability: Confidence against accuracy.
    """

    num_images: Count
    accuracy: float
    ece: float
    temperature: float
    reliability: tuple[ReliabilityBin, ...]


class FeatureMap(_Part):
    """Some of the task's images on a plane, by their features without and with a prompt.

    Attributes:
        method: How features became points.
        composite_of: The method whose untuned composite prompt the points of `composite` are of.
        labels: Index of each image's class.
        plain: A point for each image, of its features without a prompt.
        composite: A point for each image, of its features under the composite prompt.
    """

    method: str
    composite_of: Method
    labels: list[Count]
    plain: list[Point]
    composite: list[Point]


class Lineage(_Part):
    """What the artifact was made of.

    Attributes:
        sources: All that the request named, also those that were dropped.
        composite_digest: Of the composite prompt's values.
        num_images: Labelled images of the task, without copies.
        num_copies: Images that were left out, equal to another one of their class pixel by pixel.
        code_version: Version of the worker.
    """

    backbone_digest: Digest
    task: TaskRef
    sources: tuple[SourceRef, ...]
    composite_digest: Digest
    method: Method
    seed: int
    num_images: Count
    num_copies: Count
    code_version: str


class ResultDocument(_Part):
    """Everything about a fit but the artifact; null or empty is what the method did not look at.

    Attributes:
        weights: The weight of each source that was kept, by name; they are none or sum to 1.
        objective: Value of the objective at these weights.
        sources: The sources that were kept, with what is known of each alone.
        screening: How sources were dropped; null if there were no more than `max_sources`.
        gradient_cosine: Cosine between each two sources' mean gradients, in the order of `weights`.
        gradient_num_images: Training images whose gradients were taken.
        composition_gap: Gamma, with tokens aligned and as stored; null where nothing differs that
            it could be relative to, as with all weight on one source.
        leaderboard: All candidates, best first.
        chosen: The candidate that is served.
        ablations: Of the learned ensemble, if `options.ablations` asks for them.
        validation: How good the chosen candidate is.
        confusion_matrix: Held-out images by actual (row) and predicted class; null with more than
            1,000 classes.
        classes: Names of the classes, in the order of the artifact's outputs.
        embedding: The task's images on a plane.
        objective_curve: Number of the evaluation and the best objective so far.
        composite_curve: The same on the composite prompt's own features.
        advice: A sentence, if the learned ensemble is not the best candidate.
        unused_options: Options of the request that its method does not use.
        timings_s: Seconds that each stage took.
        lineage: What the artifact was made of.
    """

    weights: dict[str, float]
    objective: ObjectiveValues | None
    sources: tuple[SourceFindings, ...]
    screening: ScreeningFindings | None
    gradient_cosine: list[list[float]] | None
    gradient_num_images: Count | None
    composition_gap: GapFindings | None
    leaderboard: tuple[CandidateStanding, ...]
    chosen: CandidateStanding
    ablations: tuple[AblationFindings, ...]
    validation: ValidationFindings
    confusion_matrix: list[list[Count]] | None
    classes: tuple[str, ...]
    embedding: FeatureMap | None
    objective_curve: list[Point]
    composite_curve: list[Point]
    advice: str | None
    unused_options: tuple[str, ...]
    timings_s: dict[str, float]
    lineage: Lineage

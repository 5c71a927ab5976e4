"""Joint tuning of a candidate's prompt and its class head on the target.

Linear probe first, then tune (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution", ICLR): the head starts as fitted in closed form.
"""

from ensemble.candidates import Candidate, ranked
from ensemble.fit_session import FitSession
from ensemble.prompt_tuning import (
    TunedPrompt,
    TuningConfig,
    TuningLoss,
    cross_entropy,
    tune_prompt,
)

MIN_STEPS = 10
"""Gradient steps an epoch, at least, if that leaves `MIN_BATCH_SIZE` images a step."""

MIN_BATCH_SIZE, MAX_BATCH_SIZE = 8, 32


def with_tuning(
    fit: FitSession, candidates: list[Candidate], start: Candidate | None = None
) -> list[Candidate]:
    """Rank candidates; if tuning was asked for and helps, add one tuned: `start`, else the best.

    Without a prompt there is nothing to tune, so then it is the best that has one.
    """
    candidates = ranked(candidates)
    best = tuning_start(candidates, start)
    if fit.options.tuning_epochs == 0 or best is None:
        return candidates
    found = tune_candidate(fit, best)
    return candidates if found is None else ranked([*candidates, found])


def tuning_start(candidates: list[Candidate], start: Candidate | None = None) -> Candidate | None:
    """Return what `with_tuning` would tune, None if no candidate has a prompt."""
    wanted = ranked(candidates)
    if start is not None:
        wanted = [start, *wanted]
    return next((c for c in wanted if c.prompt.shape[1] > 0), None)


def tune_candidate(
    fit: FitSession,
    start: Candidate,
    *,
    loss_function: TuningLoss = cross_entropy,
    prefix: str = "",
) -> Candidate | None:
    """Tune as `tune`; the candidate of the best epoch, with a head fitted to it in closed form.

    The head that was tuned along is not served: on few images it soon is too confident, while the
    prompt still gets better.

    None if no epoch was better than the start: that prompt is a candidate already, untuned.
    """
    found = tune(fit, start, loss_function=loss_function, prefix=prefix)
    if found.best.epoch == 0:
        return None
    prompt = found.prompt.cpu()
    (features,) = fit.features_of(f"{prefix}tuned features", [prompt])
    place = start.standing
    return fit.candidate(
        place.method, start.weights, prompt, features, source=place.source, tuned=True
    )


def tune(
    fit: FitSession,
    start: Candidate,
    *,
    loss_function: TuningLoss = cross_entropy,
    prefix: str = "",
) -> TunedPrompt:
    """Tune on the training part; the epoch is chosen by the log-loss on the validation part.

    That of logits calibrated by a temperature, since the head is not served as it is. All epochs
    are run: with a cosine schedule the losses come down at the end. The stage's name begins with
    `prefix`, for a fit that tunes more than once.
    """
    epochs, stage = fit.options.tuning_epochs, f"{prefix}tuning"
    fit.progress(stage, 0, epochs)
    with fit.timed(stage):
        return tune_prompt(
            fit.vit,
            start.prompt,
            fit.train,
            fit.validation,
            num_classes=fit.num_classes,
            config=tuning_config(fit),
            # Not the candidate's own head: that was fitted on the held-out images too.
            initial_head=fit.train_head(start.features),
            loss_function=loss_function,
            on_epoch=lambda epoch: fit.progress(stage, epoch.epoch, epoch.epochs),
            should_stop=fit.should_stop,
        )


def tuning_config(fit: FitSession) -> TuningConfig:
    """Return how every method of this fit tunes."""
    batch_size = len(fit.train_rows) // MIN_STEPS
    return TuningConfig(
        epochs=fit.options.tuning_epochs,
        batch_size=min(MAX_BATCH_SIZE, max(MIN_BATCH_SIZE, batch_size)),
        prompt_learning_rate=fit.options.prompt_learning_rate,
        head_learning_rate=fit.options.prompt_learning_rate,
        patience=fit.options.tuning_epochs,
        seed=fit.seed,
        calibrated=True,
    )

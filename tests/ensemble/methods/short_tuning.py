"""Options that tune for three epochs, and what they amount to for the toy task's 56 images."""

from ensemble.options import FitOptions
from ensemble.prompt_tuning import TuningConfig

OPTIONS = FitOptions(tuning_epochs=6, prompt_learning_rate=0.02)
CONFIG = TuningConfig(
    epochs=6,
    batch_size=8,
    prompt_learning_rate=0.02,
    head_learning_rate=0.02,
    patience=6,
    calibrated=True,
)

"""The parts of a result document: workers write all of them, the report can do without any."""

RESULT_PARTS = (
    "weights",
    "objective",
    "sources",
    "screening",
    "gradient_cosine",
    "gradient_num_images",
    "composition_gap",
    "leaderboard",
    "chosen",
    "ablations",
    "validation",
    "confusion_matrix",
    "classes",
    "embedding",
    "timings_s",
    "advice",
    "unused_options",
    "objective_curve",
    "composite_curve",
    "lineage",
)

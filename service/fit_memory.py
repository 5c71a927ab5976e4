"""How much memory a fit takes in a worker, as far as its request tells."""

from backbones.info import BackboneInfo

BYTES_PER_FEATURE = 40
"""What a fit takes for each feature value of each image under each source, as measured
(benchmarks/fit_speed)."""

LOGITS_BESIDE_SOURCES = 9
"""Three more candidates, and the six shrinkages that a head is chosen from."""

BYTES_PER_PIXEL_VALUE = 2
"""The pixels, and a copy of those that are trained on."""

BYTES_PER_READ_PROMPT_VALUE = 8
"""Each source as it was read, and in the stack of all; both are float32."""

BYTES_PER_KEPT_PROMPT_VALUE = 60
"""What `ensemble.gradient_variance` holds for each value of the sources that are kept: seven
float64 for the moments of the gradients, and the aligned prompt in float32."""

ROWS_OF_A_PASS = 32
"""As `ensemble.fit_session.BATCH_SIZE`."""

BYTES_PER_ACTIVATION = 60
"""What a pass with gradients takes for each value (row, token, width) of each block: one alone,
`prompt_gradient_moments` of 32 rows in float32 on a CPU, took 831 MB with ViT-B at 96 px, which
is 60, and 3,318 MB at 224 px, which is 54."""

BYTES_BESIDE = 600_000_000
"""Whatever else a fit takes: with it, the terms give the 1,855 MiB that a whole fit of 11 sources
and 1,000 images took with ViT-B at 96 px (benchmarks/fit_speed/fit_speed-11-sources.json)."""


def fit_bytes(
    backbone: BackboneInfo,
    *,
    num_images: int,
    num_classes: int,
    num_sources: int,
    num_kept: int,
    num_prompt_tokens: int,
    prompt_depth: int,
) -> int:
    """Return about how many bytes a fit takes beside the backbone.

    Args:
        backbone: What it runs on.
        num_images: N.
        num_classes: C.
        num_sources: Sources that are read.
        num_kept: Sources that are left after the screening, M.
        num_prompt_tokens: P.
        prompt_depth: L.
    """
    features = (num_kept + 1) * backbone.embed_dim * BYTES_PER_FEATURE
    pixels = 3 * backbone.image_size_px**2 * BYTES_PER_PIXEL_VALUE
    logits = (num_kept + LOGITS_BESIDE_SOURCES) * num_classes * 8
    prompt_values = prompt_depth * num_prompt_tokens * backbone.embed_dim
    prompts = prompt_values * (
        num_sources * BYTES_PER_READ_PROMPT_VALUE + num_kept * BYTES_PER_KEPT_PROMPT_VALUE
    )
    num_patches = (backbone.image_size_px // backbone.patch_size_px) ** 2
    num_tokens = backbone.num_prefix_tokens + num_prompt_tokens + num_patches
    activations = (
        ROWS_OF_A_PASS * num_tokens * backbone.embed_dim * backbone.depth * BYTES_PER_ACTIVATION
    )
    return num_images * (features + pixels + logits) + prompts + activations + BYTES_BESIDE

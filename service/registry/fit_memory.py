"""How much memory a request has a fit take in a worker, beside what any fit takes there.

Every fit that takes gradients holds the activations of one pass with them, whatever the request:
0.8 GB with ViT-B at 96 px and 3.3 GB at 224 px, of 32 rows in float32 on a CPU. Whoever chooses
backbone and device provides for that; a request cannot make it more.
"""

from backbones.info import BackboneInfo

BYTES_PER_FEATURE = 40
"""What a fit takes for each feature value of each image under each source, as measured
(benchmarks/fit_speed)."""

LOGITS_BESIDE_SOURCES = 9
"""Three more candidates, and the six shrinkages that a head is chosen from."""

BYTES_PER_PIXEL_VALUE = 2
"""The pixels, and a copy of those that are trained on."""

BYTES_PER_READ_PROMPT_VALUE = 8
"""Each source as it was read, and once more where those of one screening are together; float32."""

BYTES_PER_LEARNED_PROMPT_VALUE = 60
"""What `ensemble.gradient_variance` holds for each value of the sources that are kept: seven
float64 for the moments of the gradients, and the aligned prompt in float32."""


def fit_bytes(
    backbone: BackboneInfo,
    *,
    num_images: int,
    num_classes: int,
    num_sources: int,
    num_kept: int,
    num_prompt_tokens: int,
    prompt_depth: int,
    learns_weights: bool,
) -> int:
    """Return about how many bytes a request has a fit take.

    Args:
        backbone: What it runs on.
        num_images: N.
        num_classes: C.
        num_sources: Sources that are read.
        num_kept: Sources that are left after the screening, M.
        num_prompt_tokens: P.
        prompt_depth: L.
        learns_weights: Whether each source's gradients are held, as "hgprompt" does.
    """
    features = (num_kept + 1) * backbone.embed_dim * BYTES_PER_FEATURE
    pixels = 3 * backbone.image_size_px**2 * BYTES_PER_PIXEL_VALUE
    logits = (num_kept + LOGITS_BESIDE_SOURCES) * num_classes * 8
    learned = num_kept * BYTES_PER_LEARNED_PROMPT_VALUE if learns_weights else 0
    prompt_values = prompt_depth * num_prompt_tokens * backbone.embed_dim
    prompts = prompt_values * (num_sources * BYTES_PER_READ_PROMPT_VALUE + learned)
    return num_images * (features + pixels + logits) + prompts

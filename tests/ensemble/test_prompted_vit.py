import math
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.errors import ShapeError, UnsupportedBackboneError
from ensemble.prompted_vit import PromptedViT, init_prompt

MakeViT = Callable[..., PromptedViT]
KINDS = {
    "class token": "vit_tiny_patch16_224",
    "class token and registers": "vit_small_patch14_reg4_dinov2",
    "registers, average pooling and fc_norm": "vit_little_patch16_reg4_gap_256",
    "average pooling without fc_norm": "vit_so150m_patch16_reg4_gap_256",
    "class token without position": "deit3_small_patch16_224",
    "norm before the blocks": "vit_base_patch16_clip_224",
    "class and distillation token": "deit_tiny_distilled_patch16_224",
    "RMS norms": "vit_base_patch16_xp_224",
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_features(vit: PromptedViT, normalised: Tensor) -> Tensor:
    timm_vit = vit.vit
    return timm_vit.forward_head(timm_vit.forward_features(normalised), pre_logits=True)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_tokens_equal_the_plain_backbone_bit_for_bit(
    make_vit: MakeViT, kind: str, pixels: Tensor
) -> None:
    vit = make_vit(KINDS[kind])
    normalised = (pixels.float() / 255 - vit.mean) / vit.std

    expected = plain_features(vit, normalised)

    for prompt in (None, *(torch.zeros(*lead, 0, vit.embed_dim) for lead in ((1,), (3,), (8, 1)))):
        assert torch.equal(vit(normalised, prompt), expected)
        assert torch.equal(vit(pixels, prompt), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_enters_after_the_prefix_of_every_kind_of_backbone(
    make_vit: MakeViT, kind: str, pixels: Tensor
) -> None:
    vit = make_vit(KINDS[kind])
    prompt = normal(3, 2, vit.embed_dim)
    entered: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        for block in vit.vit.blocks
    ]
    left: list[Tensor] = []

    def leave(_: nn.Module, args: tuple[Tensor]) -> None:
        left.append(args[0])

    hooks.append(vit.vit.norm.register_forward_pre_hook(leave))

    features = vit(pixels, prompt)
    for hook in hooks:
        hook.remove()

    start = vit.num_prefix_tokens
    assert features.shape == (8, vit.embed_dim)
    assert [tokens.shape[1] for tokens in entered] == [start + 2 + 16] * 3
    for layer, tokens in enumerate(entered):
        assert torch.equal(tokens[:, start : start + 2], prompt[layer].expand(8, 2, -1))
    # What it has to say it says through attention: its own tokens are not pooled.
    assert [tokens.shape[1] for tokens in left] == [start + 16]
    assert not torch.allclose(features, vit(pixels), atol=1e-3)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_prompted_features_match_a_slow_reference(
    vit: PromptedViT, pixels: Tensor, num_layers: int
) -> None:
    prompts = normal(8, num_layers, 2, vit.embed_dim)

    features = vit(pixels, prompts)

    for row in range(8):
        expected = slow_features(vit, pixels[row], prompts[row])
        torch.testing.assert_close(features[row].double(), expected, atol=1e-4, rtol=1e-4)


def slow_features(vit: PromptedViT, pixels: Tensor, prompt: Tensor) -> Tensor:
    """One image, one token at a time, in float64, from the parameters alone."""
    weights = {name: value.double() for name, value in vit.vit.state_dict().items()}
    image = (pixels.double() / 255 - vit.mean[0].double()) / vit.std[0].double()
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    patches = [
        (kernel * image[:, y : y + 4, x : x + 4]).sum((1, 2, 3)) + bias
        for y in range(0, 16, 4)
        for x in range(0, 16, 4)
    ]
    tokens = [weights["cls_token"][0, 0], *patches]
    tokens = [token + place for token, place in zip(tokens, weights["pos_embed"][0], strict=True)]
    cls, patches, slots = tokens[0], tokens[1:], list(prompt[0].double())
    for layer in range(vit.depth):
        if layer > 0 and len(prompt) > 1:
            slots = list(prompt[layer].double())
        cls, *rest = slow_block(weights, f"blocks.{layer}", [cls, *slots, *patches])
        slots, patches = rest[: len(slots)], rest[len(slots) :]
    return slow_norm(weights, "norm", cls)


def slow_block(weights: dict[str, Tensor], block: str, tokens: list[Tensor]) -> list[Tensor]:
    width, heads = len(tokens[0]), 2
    size = width // heads
    normed = [slow_norm(weights, f"{block}.norm1", token) for token in tokens]
    qkv = [linear(weights, f"{block}.attn.qkv", token) for token in normed]
    attended: list[Tensor] = []
    for token in qkv:
        parts: list[Tensor] = []
        for head in range(heads):
            q, k, v = (
                slice(i * width + head * size, i * width + head * size + size) for i in range(3)
            )
            scores = torch.stack([token[q] @ other[k] for other in qkv]) / math.sqrt(size)
            shares = scores.softmax(0)
            parts.append(
                sum((s * other[v] for s, other in zip(shares, qkv, strict=True)), 0 * shares[0])
            )
        attended.append(linear(weights, f"{block}.attn.proj", torch.cat(parts)))
    tokens = [token + change for token, change in zip(tokens, attended, strict=True)]
    hidden = [
        linear(weights, f"{block}.mlp.fc1", slow_norm(weights, f"{block}.norm2", token))
        for token in tokens
    ]
    active = [h * 0.5 * (1 + torch.erf(h / math.sqrt(2))) for h in hidden]
    changes = [linear(weights, f"{block}.mlp.fc2", h) for h in active]
    return [token + change for token, change in zip(tokens, changes, strict=True)]


def linear(weights: dict[str, Tensor], name: str, token: Tensor) -> Tensor:
    return weights[f"{name}.weight"] @ token + weights[f"{name}.bias"]


def slow_norm(weights: dict[str, Tensor], name: str, token: Tensor) -> Tensor:
    centred = token - token.mean()
    scaled = centred / torch.sqrt((centred**2).mean() + 1e-6)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_row_does_not_depend_on_its_batch_mates(
    vit: PromptedViT, pixels: Tensor, num_layers: int
) -> None:
    prompts = normal(8, num_layers, 2, vit.embed_dim)
    others = normal(8, num_layers, 2, vit.embed_dim, seed=9) * 30
    others[3] = prompts[3]
    other_pixels = pixels.flip(0)
    other_pixels[3] = pixels[3]

    assert torch.equal(vit(pixels, prompts)[3], vit(other_pixels, others)[3])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_one_prompt_for_all_equals_the_same_prompt_in_every_row(
    vit: PromptedViT, pixels: Tensor, num_layers: int
) -> None:
    shared = normal(num_layers, 2, vit.embed_dim)

    assert torch.equal(vit(pixels, shared), vit(pixels, shared.repeat(8, 1, 1, 1)))


def test_per_row_gradients_equal_those_of_single_images(vit: PromptedViT, pixels: Tensor) -> None:
    shared, cotangents = normal(3, 2, vit.embed_dim), normal(8, vit.embed_dim, seed=1)
    per_row = shared.repeat(8, 1, 1, 1).requires_grad_()

    (gradients,) = torch.autograd.grad((vit(pixels, per_row) * cotangents).sum(), per_row)

    for row in range(8):
        single = shared.clone().requires_grad_()
        loss = (vit(pixels[row : row + 1], single)[0] * cotangents[row]).sum()
        (expected,) = torch.autograd.grad(loss, single)
        torch.testing.assert_close(gradients[row], expected, atol=1e-4, rtol=1e-4)
        assert expected.abs().max() > 0.01


def test_features_do_not_change_when_tokens_of_a_layer_are_permuted(
    vit: PromptedViT, pixels: Tensor
) -> None:
    prompt = normal(3, 5, vit.embed_dim)
    orders = [torch.randperm(5, generator=torch.Generator().manual_seed(i)) for i in range(3)]

    permuted = torch.stack([layer[order] for layer, order in zip(prompt, orders, strict=True)])

    torch.testing.assert_close(vit(pixels, permuted), vit(pixels, prompt), atol=1e-4, rtol=1e-4)
    # and each layer is a layer of its own
    assert not torch.allclose(vit(pixels, prompt.roll(1, dims=0)), vit(pixels, prompt), atol=1e-2)


def test_integer_pixels_are_normalised_and_floating_ones_are_taken_as_they_are(
    vit: PromptedViT, pixels: Tensor
) -> None:
    prompt = normal(1, 2, vit.embed_dim)
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    std = torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)

    assert torch.equal(vit(pixels, prompt), vit((pixels / 255 - mean) / std, prompt))
    assert not torch.allclose(vit(pixels, prompt), vit(pixels.float(), prompt), atol=1e-2)


@pytest.mark.parametrize(
    "shape",
    [
        (32,),
        (2, 32),
        (2, 2, 32),  # two layers of three
        (4, 2, 32),
        (3, 2, 31),
        (0, 2, 32),
        (7, 3, 2, 32),  # seven prompts for eight images
        (1, 3, 2, 32),
        (8, 2, 2, 32),
        (8, 3, 2, 33),
        (1, 8, 3, 2, 32),
        (2, 0, 32),  # without tokens, yet with two layers of three
        (1, 0, 31),
        (7, 1, 0, 32),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(
    vit: PromptedViT, pixels: Tensor, shape: tuple[int, ...]
) -> None:
    with pytest.raises(
        ShapeError, match=r"does not fit (8 images|the backbone): expected \(L, P, (32|D)\)"
    ):
        vit(pixels, torch.zeros(shape))


def test_the_backbone_is_frozen_and_never_drops_anything(make_vit: MakeViT, pixels: Tensor) -> None:
    vit = make_vit(drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, pos_drop_rate=0.5)
    prompt = normal(3, 2, vit.embed_dim).requires_grad_()

    features = vit(pixels, prompt)

    assert torch.equal(features, vit(pixels, prompt))
    features.sum().backward()
    assert all(parameter.grad is None for parameter in vit.parameters())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: nn.Linear(2, 2), "Linear is not a timm VisionTransformer"),
        (lambda: timm.create_model("resnet10t"), "ResNet is not a timm VisionTransformer"),
        (lambda: timm.create_model("vit_srelpos_small_patch16_224", depth=1), "RelPos is not"),
        (lambda: timm.create_model("eva02_tiny_patch14_224", depth=1), "Eva is not a timm"),
        (
            lambda: timm.create_model("vit_base_patch16_siglip_224", depth=1, embed_dim=24),
            "0 prefix tokens; at least 1",
        ),
    ],
)
def test_a_model_that_cannot_carry_prompts_is_refused(
    model: Callable[[], nn.Module], words: str
) -> None:
    with pytest.raises(UnsupportedBackboneError, match=words):
        PromptedViT(model(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_bfloat16_gives_float32_features_near_the_exact_ones(
    vit: PromptedViT, pixels: Tensor
) -> None:
    half = vit.with_autocast(torch.bfloat16)
    prompt = normal(3, 2, vit.embed_dim)

    features = half(pixels, prompt)

    assert features.dtype == torch.float32
    exact = vit(pixels, prompt)
    assert 1e-6 < (features - exact).norm() / exact.norm() < 0.05
    assert torch.equal(half(pixels, prompt[:, :0]), half(pixels))


def test_a_random_prompt_has_the_bound_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)

    prompt = init_prompt(12, 100, 768, patch_size_px=16, generator=generator)

    bound = math.sqrt(6 / (3 * 16 * 16 + 768))
    assert prompt.shape == (12, 100, 768)
    assert 0.9999 * bound < prompt.abs().max() <= bound
    assert abs(float(prompt.mean())) < 0.001
    again = init_prompt(12, 100, 768, patch_size_px=16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prompt, again)

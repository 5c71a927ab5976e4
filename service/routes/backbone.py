"""The frozen backbone that every prompt here is for."""

from fastapi import APIRouter
from pydantic import BaseModel

from service.parts import PartsDep

router = APIRouter(tags=["backbone"])


class BackboneView(BaseModel):
    """What a prompt must be trained on, and how images are prepared for it."""

    name: str
    backbone_digest: str
    embed_dim: int
    depth: int
    num_prefix_tokens: int
    image_size_px: int
    patch_size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    crop_mode: str
    dtype: str


@router.get("/v1/backbone")
async def get_backbone(parts: PartsDep) -> BackboneView:
    """The backbone this service runs."""
    info = parts.backbone
    return BackboneView(
        name=info.name,
        backbone_digest=info.digest,
        embed_dim=info.embed_dim,
        depth=info.depth,
        num_prefix_tokens=info.num_prefix_tokens,
        image_size_px=info.image_size_px,
        patch_size_px=info.patch_size_px,
        mean=info.preprocessing.mean,
        std=info.preprocessing.std,
        interpolation=info.preprocessing.interpolation,
        crop_pct=info.preprocessing.crop_pct,
        crop_mode=info.preprocessing.crop_mode,
        dtype=info.dtype,
    )

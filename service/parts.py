"""What the routes work with: made once by the composition root, reached through `request.app`."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from backbones.info import BackboneInfo
from jobs.ensembles import EnsembleStore
from prompt_store.blobs import BlobStore
from prompt_store.codec import BackboneShape
from prompt_store.objects import ObjectStore
from prompt_store.registry import PromptRegistry, TaskRegistry
from service.http_server.drain import Drain
from service.settings import ServiceSettings


@dataclass(frozen=True)
class Parts:
    """What every role shares."""

    settings: ServiceSettings
    backbone: BackboneInfo
    objects: ObjectStore
    blobs: BlobStore
    prompts: PromptRegistry
    tasks: TaskRegistry
    ensembles: EnsembleStore
    drain: Drain

    @property
    def backbone_shape(self) -> BackboneShape:
        """What an uploaded prompt must fit."""
        info = self.backbone
        return BackboneShape(digest=info.digest, embed_dim=info.embed_dim, depth=info.depth)


def parts_of(request: Request) -> Parts:
    """Return the application's parts."""
    return cast("Parts", request.app.state.parts)


PartsDep = Annotated[Parts, Depends(parts_of)]

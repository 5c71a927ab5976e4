"""Puts together what a request passes before the engine; free of torch."""

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backbones.info import BackboneInfo
from images.decoding import ImageLimits
from jobs.ensembles import EnsembleStore
from service.inference.admission import Admission
from service.inference.classifier import Assigned, Classifier
from service.inference.decoding import DecodePool
from service.inference.engine_client import EngineClient
from service.inference.observer import InferenceObserver
from service.inference.resolver import Resolver
from service.settings import ServiceSettings


def admission_of(settings: ServiceSettings) -> Admission:
    """Return the bounds on what this process has in the house."""
    return Admission(max_images=settings.max_queue, max_bytes=settings.max_inflight_bytes)


@dataclass(frozen=True)
class RunningClassifier:
    """A classifier, and the threads that decode for it."""

    classifier: Classifier
    decoder: DecodePool


@asynccontextmanager
async def running_classifier(
    engine: EngineClient,
    info: BackboneInfo,
    ensembles: EnsembleStore,
    settings: ServiceSettings,
    *,
    admission: Admission,
    observer: InferenceObserver,
    assigned: Assigned,
) -> AsyncGenerator[RunningClassifier]:
    """Resolve, admit and decode for an engine, for as long as the context lasts.

    Args:
        engine: Computes.
        info: The backbone that images are prepared for.
        ensembles: What names mean.
        settings: Sizes and limits.
        admission: Bounds what is in the house.
        observer: Told of what happens.
        assigned: Called on the event loop with an alias and the version of one request.
    """
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    decoder = DecodePool(
        settings.decode_threads, limits, info.preprocessing, report=observer.image_decoded
    )
    classifier = Classifier(
        resolver=Resolver(
            ensembles,
            ttl_s=settings.resolve_ttl_s,
            rng=random.SystemRandom(),
        ),
        admission=admission,
        decoder=decoder,
        engine=engine,
        deadline_s=settings.request_deadline_s,
        observer=observer,
        assigned=assigned,
    )
    try:
        yield RunningClassifier(classifier, decoder)
    finally:
        decoder.close()

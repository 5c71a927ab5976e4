"""A front's part of what the host may take on."""

from service.inference.admission import ENSEMBLE_SHARE
from service.settings import ServiceSettings


def share_of_front(settings: ServiceSettings) -> ServiceSettings:
    """Return the settings of one front: its part of each bound, enough for one request at least."""
    fronts = settings.num_fronts
    return settings.model_copy(
        update={
            "max_queue": max(
                settings.max_queue // fronts, _room_for(settings.max_images_per_request)
            ),
            "max_inflight_bytes": max(
                settings.max_inflight_bytes // fronts, _room_for(settings.max_classify_body_bytes)
            ),
            "decode_threads": max(settings.decode_threads // fronts, 1),
        }
    )


def _room_for(count: int) -> int:
    """Return the room of which `count` is the share of one ensemble."""
    return -(-count * (ENSEMBLE_SHARE + 1) // ENSEMBLE_SHARE)

"""The composition root: reads the settings once, makes the parts, runs the server."""

import sys

from fastapi import FastAPI

from backbones.errors import BackboneError
from backbones.info import LoadedBackbone
from configuration.environment import SettingsError, warn_of_unknown_variables
from jobs.logs import configure_logging
from jobs.settings import DeploymentSettings
from prompt_store.errors import PromptStoreError
from prompt_store.scratch import remove_leftovers
from service.composition import compose
from service.http_server.drain import Drain
from service.http_server.last_resort import LAST_TRACES_S, PATIENCE_S, leave
from service.http_server.serving import serve
from service.processes.service_supervisor import bound, supervise
from service.settings import ServiceSettings
from service.tracing import trace_requests


def build_app(
    settings: ServiceSettings, deployment: DeploymentSettings, loaded: LoadedBackbone
) -> FastAPI:
    """Make the application of a role whose engine, if it has one, is in this process.

    Args:
        settings: Role, limits.
        deployment: Where store and Redis are.
        loaded: The backbone; the "api" role keeps only what describes it.

    Raises:
        StoreUnavailableError: The store cannot be opened or does not keep its promises.
    """
    # Only processes with an engine import torch: it takes most of their memory.
    from service.local_source import LocalEngineSource  # noqa: PLC0415

    engine = LocalEngineSource(loaded) if settings.classifies else None
    return compose(settings, deployment, loaded.info, engine)


def main() -> None:
    """Run the service until SIGTERM; exits with status 1 when it is not configured right."""
    remove_leftovers()
    try:
        settings = ServiceSettings.read()
        deployment = DeploymentSettings.read()
    except SettingsError as error:
        sys.exit(f"service: {error}")
    configure_logging(settings.log_level)
    warn_of_unknown_variables()
    remove_leftovers(settings.upload_dir)
    if settings.has_fronts:
        leave(supervise(settings))
    _check_address(settings)
    try:
        app = build_app(settings, deployment, _load_backbone(settings))
    except (BackboneError, PromptStoreError, SettingsError) as error:
        sys.exit(f"service: {error}")
    drain: Drain = app.state.parts.drain
    send_last_traces = trace_requests(app)
    if send_last_traces is None:
        serve(app, settings, drain)
    else:
        serve(app, settings, drain, patience_s=PATIENCE_S + LAST_TRACES_S)
        send_last_traces()
    leave()


def _check_address(settings: ServiceSettings) -> None:
    """Exit at once, and not once the backbone is loaded, if the address cannot be listened on."""
    try:
        for listener in bound(settings.host, settings.port):
            listener.close()
    except OSError as error:
        sys.exit(f"service: cannot listen on {settings.host}:{settings.port}: {error}")


def _load_backbone(settings: ServiceSettings) -> LoadedBackbone:
    from backbones.settings import BackboneSettings  # noqa: PLC0415  as above
    from service.inference.compute_threads import computing_alone, keep_to_processors  # noqa: PLC0415
    from service.inference.precision import load_serving_backbone  # noqa: PLC0415

    backbone = BackboneSettings.read()
    if settings.classifies:
        keep_to_processors()
        with computing_alone():
            return load_serving_backbone(backbone, settings.serving_precision)
    # Only what describes the backbone is needed.
    return load_serving_backbone(backbone.model_copy(update={"device": "cpu"}), "fp32")

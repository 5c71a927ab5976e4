"""A front: HTTP, admission and decoding. Started by the supervisor; does without torch."""

import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from backbones.info import BackboneInfo
from jobs.logs import configure_logging
from jobs.settings import DeploymentSettings
from prompt_store.errors import PromptStoreError
from prompt_store.scratch import remove_leftovers
from service.composition import compose
from service.http_server.last_resort import LAST_TRACES_S, PATIENCE_S, leave, leave_soon
from service.http_server.serving import server_of
from service.metrics.host import HostMetrics, scraped, serving_metrics
from service.oip.host_statistics import HostStatistics, serving_statistics
from service.processes.announced_backbone import announced_backbone
from service.processes.assignment import Assignment, assignment, process_names
from service.processes.parent import die_with_parent
from service.processes.pulse import beating
from service.processes.remote_source import RemoteEngineSource
from service.processes.shares import share_of_front
from service.settings import ServiceSettings
from service.tracing import trace_requests


def main() -> None:
    """Serve until SIGTERM."""
    assigned = assignment()
    die_with_parent(assigned.parent_pid)
    settings = ServiceSettings()
    configure_logging(settings.log_level, process=assigned.name)
    remove_leftovers(settings.upload_dir)  # of the front before this one, if that was killed
    try:
        uvloop.run(_serve(assigned, settings, DeploymentSettings()))
    except PromptStoreError as error:
        sys.exit(f"service: {error}")
    leave()


async def _serve(
    assigned: Assignment, settings: ServiceSettings, deployment: DeploymentSettings
) -> None:
    folder = Path(assigned.folder)
    info = await announced_backbone(folder)

    def take_over(found: BackboneInfo) -> None:
        app.state.parts = replace(app.state.parts, backbone=found)

    engine = RemoteEngineSource(assigned, take_over)
    app = compose(share_of_front(settings), deployment, info, engine)
    send_last_traces = trace_requests(app)
    patience_s = PATIENCE_S if send_last_traces is None else PATIENCE_S + LAST_TRACES_S
    server = server_of(
        app,
        settings,
        app.state.parts.drain,
        is_supervised=True,
        stopped=partial(leave_soon, patience_s),
    )
    names = process_names(settings.num_fronts)
    app.state.scrape = HostMetrics(folder, names).scrape
    app.state.collect_statistics = HostStatistics(folder, names[1:]).collect
    listeners = [socket.socket(fileno=descriptor) for descriptor in assigned.listener_fds]
    async with (
        serving_metrics(
            lambda: scraped(app.state.metrics, app.state.refresh), folder, assigned.name
        ),
        serving_statistics(app.state.model_statistics, folder, assigned.name),
        beating(assigned.pulse_fd, assigned.beat_s, lambda: server.started or None),
    ):
        await server.serve(sockets=listeners)
    if send_last_traces is not None:
        send_last_traces()


if __name__ == "__main__":
    main()

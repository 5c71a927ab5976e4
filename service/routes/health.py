"""Liveness, readiness and metrics."""

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from service.health import Health
from service.parts import PartsDep
from service.problems import problem_error

router = APIRouter(tags=["operations"])


class HealthView(BaseModel):
    """A process that is well, with each of its checks."""

    status: str
    checks: dict[str, str]


def _health(request: Request) -> Health:
    return cast("Health", request.app.state.health)


HealthDep = Annotated[Health, Depends(_health)]


@router.get("/livez")
@router.head("/livez")
async def livez(health: HealthDep) -> HealthView:
    """Whether the process works at all; if not, it should be restarted."""
    return _view("alive", await health.liveness())


@router.get("/readyz")
@router.head("/readyz")
async def readyz(health: HealthDep, parts: PartsDep) -> HealthView:
    """Whether the process can serve now, with the parts it depends on."""
    checks = await health.readiness()
    checks["draining"] = "the process is stopping" if parts.drain.begun.is_set() else "ok"
    return _view("ready", checks)


@router.get("/metrics", response_class=Response)
@router.head("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus metrics of this process or, where it is a front, of all processes of its host."""
    return Response(await request.app.state.scrape(), media_type=CONTENT_TYPE_LATEST)


def _view(status: str, checks: dict[str, str]) -> HealthView:
    failing = [f"{name}: {outcome}" for name, outcome in checks.items() if outcome != "ok"]
    if failing:
        raise problem_error(
            503, f"not-{status}", f"The process is not {status}", "; ".join(failing), checks=checks
        )
    return HealthView(status=status, checks=checks)

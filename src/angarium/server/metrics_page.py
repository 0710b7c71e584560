"""`/metrics` in Prometheus text."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from angarium.telemetry.metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_router(metrics: Metrics) -> APIRouter:
    """Figures of this node; they name no person."""
    router = APIRouter(tags=["health"])

    async def page() -> PlainTextResponse:
        return PlainTextResponse(metrics.render(), media_type=CONTENT_TYPE)

    router.add_api_route("/metrics", page, summary="Figures for Prometheus.")
    return router

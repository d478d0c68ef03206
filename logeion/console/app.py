"""The node's HTTP: an ASGI application over a read-only view. JSON and metrics, and nothing that changes anything."""

from __future__ import annotations

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .metrics import CONTENT_TYPE, render
from .view import Metric, View


def console(view: View) -> Starlette:
    """``/livez``: the loop turns. ``/readyz``: clients can be served, else 503 and why not. ``/api/actors``: all of
    this host. ``/api/cluster``: nodes, and what is wrong. ``/metrics``: this node's, by the names of Kafka's JMX
    exporter; ``/metrics/cluster``: everybody's, by those of kafka_exporter, to be scraped from one node."""

    async def livez(request: Request) -> Response:
        return _json({"alive": True, "node": view.node})

    async def readyz(request: Request) -> Response:
        reasons = view.unready()
        return _json({"ready": not reasons, "node": view.node, "reasons": reasons}, 503 if reasons else 200)

    async def actors(request: Request) -> Response:
        return _json(view.actors())

    async def cluster(request: Request) -> Response:
        return _json(view.cluster())

    async def metrics(request: Request) -> Response:
        return _text(view.metrics())

    async def cluster_metrics(request: Request) -> Response:
        return _text(view.cluster_metrics())

    async def not_found(request: Request, error: Exception) -> Response:
        return _json({"error": f"there is nothing at {request.url.path}", "try": list(pages)}, 404)

    async def not_allowed(request: Request, error: Exception) -> Response:
        return _json({"error": f"{request.method} is not possible here, only GET"}, 405)

    pages = {
        "/livez": livez,
        "/readyz": readyz,
        "/api/actors": actors,
        "/api/cluster": cluster,
        "/metrics": metrics,
        "/metrics/cluster": cluster_metrics,
    }
    return Starlette(
        routes=[Route(path, page) for path, page in pages.items()],
        exception_handlers={404: not_found, 405: not_allowed},
    )


_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, headers=_HEADERS, media_type="application/json")


def _text(metrics: list[Metric]) -> Response:
    return Response(render(metrics), headers={**_HEADERS, "content-type": CONTENT_TYPE})

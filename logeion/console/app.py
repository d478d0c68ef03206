"""The node's HTTP: an ASGI application over a read-only view. JSON, and nothing that changes anything."""

from __future__ import annotations

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .view import View


def console(view: View) -> Starlette:
    """``/livez``: the loop turns. ``/readyz``: clients can be served, else 503 and why not. ``/api/actors``: all."""

    async def livez(request: Request) -> Response:
        return _json({"alive": True, "node": view.node})

    async def readyz(request: Request) -> Response:
        reasons = view.unready()
        return _json({"ready": not reasons, "node": view.node, "reasons": reasons}, 503 if reasons else 200)

    async def actors(request: Request) -> Response:
        return _json(view.actors())

    async def not_found(request: Request, error: Exception) -> Response:
        return _json({"error": f"there is nothing at {request.url.path}", "try": PATHS}, 404)

    async def not_allowed(request: Request, error: Exception) -> Response:
        return _json({"error": f"{request.method} is not possible here, only GET"}, 405)

    return Starlette(
        routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/api/actors", actors)],
        exception_handlers={404: not_found, 405: not_allowed},
    )


PATHS = ["/livez", "/readyz", "/api/actors"]


def _json(body: object, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(body),
        status,
        headers={"cache-control": "no-store", "x-content-type-options": "nosniff"},
        media_type="application/json",
    )

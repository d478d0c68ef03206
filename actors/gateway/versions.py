"""ApiVersions (key 18): what this gateway speaks, read from the table that dispatches.

Clients decide by this answer which request versions they send, and some decide by it what the broker can do
(kafka-python infers a broker version, librdkafka up to 2.11.0 tests for exact versions), so nothing is listed that is
not served. Features are empty: none is finalized, which is how clients are told to use the classic protocols.
"""

from __future__ import annotations

import re
from collections.abc import Container
from functools import lru_cache
from typing import TYPE_CHECKING

from logeion.wire.apis import APIS, ApiVersion, ApiVersionsRequest, ApiVersionsResponse
from logeion.wire.errors import InvalidRequestError

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

# KIP-511: what a client may call itself.
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")


@lru_cache(maxsize=4)
def advertised(served: frozenset[int]) -> tuple[ApiVersion, ...]:
    """The rows of the answer, by key: the advertised APIs of the table among ``served``, the keys with a handler."""
    return tuple(
        ApiVersion(api_key=api.key, min_version=api.advertised_min, max_version=api.max_version)
        for api in sorted(APIS.values(), key=lambda api: api.key)
        if api.advertised and api.key in served
    )


def answer(request: ApiVersionsRequest, version: int, served: Container[int]) -> ApiVersionsResponse:
    """The answer to a request of a known version; from version 3 the client must name itself properly (KIP-511)."""
    if version >= 3 and not (
        _SOFTWARE.fullmatch(request.client_software_name) and _SOFTWARE.fullmatch(request.client_software_version)
    ):
        return ApiVersionsResponse(error_code=InvalidRequestError.code)
    keys = frozenset(key for key in APIS if key in served)
    return ApiVersionsResponse(api_keys=list(advertised(keys)))


async def api_versions(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ApiVersionsRequest
) -> ApiVersionsResponse:
    """Handler of ApiVersions."""
    from .dispatch import HANDLERS  # the table names this handler, so it cannot be imported before it

    return answer(request, header.api_version, HANDLERS)

"""ApiVersions (key 18): what this gateway speaks, read from the table that dispatches.

Clients decide by this answer which request versions they send, and some decide by it what the broker can do
(kafka-python infers a broker version, librdkafka up to 2.11.0 tests for exact versions), so nothing is listed that is
not served. Features (KIP-584) are those of this node's release and what the cluster has finalised of them.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from logeion.wire.apis import (
    APIS,
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)
from logeion.wire.errors import InvalidRequestError

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection
    from .state import Gateway

# KIP-511: the first version in which a client names itself, and what it may call itself.
NAMED_SINCE = 3
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")

# KIP-1022: before this version clients take a feature whose lowest level is 0 for an error.
ZERO_SINCE = 4


@lru_cache(maxsize=4)
def advertised(served: frozenset[int]) -> tuple[ApiVersion, ...]:
    """The rows of the answer, by key: the advertised APIs of the table among ``served``, the keys with a handler."""
    return tuple(
        ApiVersion(api_key=api.key, min_version=api.advertised_min, max_version=api.max_version)
        for api in sorted(APIS.values(), key=lambda api: api.key)
        if api.advertised and api.key in served
    )


class Features(NamedTuple):
    """What this node's release can do ([min, max] by name), and the finalised levels as of a metadata offset."""

    supported: Mapping[str, list[int]] = {}
    finalised: Mapping[str, int] = {}
    epoch: int = -1


NO_FEATURES = Features()


def answer(
    request: ApiVersionsRequest, version: int, served: Container[int], features: Features = NO_FEATURES
) -> ApiVersionsResponse:
    """The answer to a request of a known version; from version 3 the client must name itself properly (KIP-511)."""
    if version >= NAMED_SINCE and not (
        _SOFTWARE.fullmatch(request.client_software_name) and _SOFTWARE.fullmatch(request.client_software_version)
    ):
        return ApiVersionsResponse(error_code=InvalidRequestError.code)
    keys = frozenset(key for key in APIS if key in served)
    response = ApiVersionsResponse(api_keys=list(advertised(keys)))
    if features.finalised:
        response.finalized_features_epoch = features.epoch
        response.finalized_features = [
            FinalizedFeatureKey(name=name, min_version_level=level, max_version_level=level)
            for name, level in sorted(features.finalised.items())
        ]
    response.supported_features = [
        SupportedFeatureKey(name=name, min_version=lowest, max_version=highest)
        for name, (lowest, highest) in sorted(features.supported.items())
        if lowest or version >= ZERO_SINCE
    ]
    return response


async def api_versions(
    gateway: Gateway, connection: Connection, header: RequestHeader, request: ApiVersionsRequest
) -> ApiVersionsResponse:
    """Handler of ApiVersions."""
    from .dispatch import HANDLERS  # the table names this handler, so it cannot be imported before it

    own = gateway.image.brokers.get(gateway.node)
    features = Features(own.features if own is not None else {}, gateway.image.features, gateway.applied)
    return answer(request, header.api_version, HANDLERS, features)

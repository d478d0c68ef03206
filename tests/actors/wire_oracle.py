"""Requests and answers through our codec, and answers once more through kio, as a second opinion on their form."""

from __future__ import annotations

import importlib
import re
from typing import Any

from kio.serial import entity_reader

from logeion.wire.apis import APIS, Struct
from logeion.wire.codec import (
    RequestHeader,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    parse_header,
)

# kio 0.6 ends at these versions.
KIO_ENDS = {35: 4}


def received(key: int, version: int, request: Struct) -> tuple[RequestHeader, Any]:
    """What a gateway decodes when a client sends this request."""
    frame = b"".join(bytes(piece) for piece in encode_request(key, version, 7, "a client", request))[4:]
    header = parse_header(frame)
    return header, decode_request(header, frame)


def answered(header: RequestHeader, body: Struct | list[Any]) -> tuple[Any, Any]:
    """What a client decodes from the answer: our codec's form and kio's (None where kio does not know the version)."""
    pieces = body if isinstance(body, list) else encode_response(header, body)
    frame = b"".join(bytes(piece) for piece in pieces)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    correlation_id, ours = decode_response(header.api_key, header.api_version, frame[4:])
    assert correlation_id == header.correlation_id == 7
    api = APIS[header.api_key]
    if header.api_version > KIO_ENDS.get(api.key, api.max_version):
        return ours, None
    package = re.sub(r"(?<!^)(?=[A-Z])", "_", api.name).lower()
    module = importlib.import_module(f"kio.schema.{package}.v{header.api_version}.response")
    at = 5 if api.flexible(header.api_version) and api.key != 18 else 4
    theirs, size = entity_reader(getattr(module, f"{api.name}Response"))(memoryview(frame)[4 + at :], 0)
    assert size == len(frame) - 4 - at, "kio reads as far as we wrote"
    return ours, theirs

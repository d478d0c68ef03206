"""Frames to messages and back.

    frame     = length i32 | header | body                   (functions here take and give frames as stated)
    request   = api key i16 | version i16 | correlation id i32 | client id nullable string | [tags] | body
    response  = correlation id i32 | [tags] | body

Tags are there in flexible versions, except that the response of ApiVersions never has any in its header (a client
must be able to read it before it knows our versions). Codecs are compiled when a (message, version) is first used.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from .apis import APIS, ApiVersion, ApiVersionsResponse
from .buffers import Buffer
from .decoding import Decoder, compile_decoder
from .encoding import Encoder, compile_encoder
from .errors import (
    EncodeError,
    MalformedError,
    TruncatedError,
    UnknownApiError,
    UnknownVersionError,
    UnsupportedVersionError,
)
from .fields import Struct
from .varints import skip_tags

API_VERSIONS = 18

# How many array elements one message may have in all. A request is a stranger's, and the largest honest one names
# every partition once; a response is that of a broker we chose, and Metadata of a large cluster must fit.
ELEMENTS_MAX = {"request": 250_000, "response": 4_000_000}


class RequestHeader(msgspec.Struct, gc=False):
    """Who asks what: the header of a request, and where its body begins in the frame."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body_at: int


def parse_header(frame: bytes | bytearray | memoryview) -> RequestHeader:
    """The header of a request frame (without its length).

    Raises UnknownApiError, UnknownVersionError, TruncatedError or MalformedError: close the connection. An unknown
    version of ApiVersions is returned all the same, because it must be answered (see ``unsupported_api_versions``).
    """
    try:
        key, version, correlation_id, size = _REQUEST_HEADER.unpack_from(frame)
        header_tags = _HEADER_TAGS.get((key, version))
        if header_tags is None:
            return _unknown(key, version, correlation_id, len(frame))
        at = 10
        client_id = None
        if size >= 0:
            at += size
            if at > len(frame):
                raise TruncatedError(f"client id of {size} bytes in a frame of {len(frame)}")
            client_id = str(memoryview(frame)[10:at], "utf-8")
        if header_tags:
            count = frame[at]
            at += 1
            if count:
                at = skip_tags(memoryview(frame), count, at, len(frame))
        return RequestHeader(key, version, correlation_id, client_id, at)
    except (struct.error, IndexError) as cause:
        raise TruncatedError(f"request header cut short in a frame of {len(frame)} bytes") from cause
    except UnicodeDecodeError as cause:
        raise MalformedError("client id is not UTF-8") from cause


def decode_request(header: RequestHeader, frame: bytes | bytearray | memoryview) -> Struct:
    """The request of a frame whose header was parsed; records in it are views of the frame.

    Bytes after the request are ignored, as Kafka does: librdkafka (seen up to 2.16) leaves three of them behind a
    Metadata request for all topics. Raises WireError and nothing else.
    """
    decoder = _REQUEST_DECODERS.get((header.api_key, header.api_version))
    if decoder is None:
        decoder = _REQUEST_DECODERS[header.api_key, header.api_version] = _decoder(
            header.api_key, header.api_version, "request"
        )
    return _decode(decoder, frame, header.body_at)[0]


def encode_response(header: RequestHeader, body: Struct) -> list[Buffer]:
    """The whole frame that answers this request, length included, as an iovec; records stay elements of their own.

    Fields that the version does not have are left out. Raises EncodeError.
    """
    slot = (header.api_key, header.api_version)
    entry = _RESPONSE_ENCODERS.get(slot)
    if entry is None:
        entry = _RESPONSE_ENCODERS[slot] = (
            _encoder(*slot, "response"),
            _flexible(*slot) and header.api_key != API_VERSIONS,
        )
    encoder, tags = entry
    buffer = bytearray((_RESPONSE_HEADER_TAGS if tags else _RESPONSE_HEADER).pack(0, header.correlation_id))
    return _encode(encoder, body, buffer)


def encode_request(
    api_key: int, version: int, correlation_id: int, client_id: str | None, body: Struct
) -> list[Buffer]:
    """The whole frame of a request, length included, as an iovec. Raises EncodeError, UnknownVersionError."""
    encoder = _REQUEST_ENCODERS.get((api_key, version))
    if encoder is None:
        encoder = _REQUEST_ENCODERS[api_key, version] = _encoder(api_key, version, "request")
    name = b"" if client_id is None else client_id.encode()
    try:
        size = -1 if client_id is None else len(name)
        buffer = bytearray(_LENGTH_AND_REQUEST_HEADER.pack(0, api_key, version, correlation_id, size))
    except struct.error as cause:
        raise EncodeError(f"request header: {cause}") from cause
    buffer += name
    if _flexible(api_key, version):
        buffer.append(0)
    return _encode(encoder, body, buffer)


def decode_response(api_key: int, version: int, frame: bytes | bytearray | memoryview) -> tuple[int, Struct]:
    """(correlation id, response) of a frame without its length; records are views of the frame. Raises WireError."""
    slot = (api_key, version)
    decoder = _RESPONSE_DECODERS.get(slot)
    if decoder is None:
        decoder = _RESPONSE_DECODERS[slot] = _decoder(api_key, version, "response")
    try:
        (correlation_id,) = _CORRELATION_ID.unpack_from(frame)
        at = 4
        if api_key != API_VERSIONS and _flexible(api_key, version):
            at = 5
            if frame[4]:
                at = skip_tags(memoryview(frame), frame[4], 5, len(frame))
    except (struct.error, IndexError) as cause:
        raise TruncatedError(f"response header cut short in a frame of {len(frame)} bytes") from cause
    body, end = _decode(decoder, frame, at)
    if end != len(frame):
        raise MalformedError(f"{len(frame) - end} bytes left over after the message in a frame of {len(frame)}")
    return correlation_id, body


def unsupported_api_versions(correlation_id: int) -> list[Buffer]:
    """The frame that answers ApiVersions of a version we do not speak: version 0, error 35, our own range (KIP-511)."""
    api = APIS[API_VERSIONS]
    body = ApiVersionsResponse(
        error_code=UnsupportedVersionError.code,
        api_keys=[ApiVersion(api_key=api.key, min_version=api.min_version, max_version=api.max_version)],
    )
    return encode_response(RequestHeader(API_VERSIONS, 0, correlation_id, None, 0), body)


def _decode(decoder: Decoder, frame: bytes | bytearray | memoryview, at: int) -> tuple[Struct, int]:
    """The message, and where it ends in the frame."""
    end = len(frame)
    try:
        body, at = decoder(memoryview(frame), at, end)
    except (struct.error, IndexError) as cause:
        raise TruncatedError(f"message cut short in a frame of {end} bytes") from cause
    except UnicodeDecodeError as cause:
        raise MalformedError(f"a string is not UTF-8: {cause.reason}") from cause
    assert isinstance(body, Struct)
    return body, at


def _encode(encoder: Encoder, body: Struct, buffer: bytearray) -> list[Buffer]:
    out: list[Buffer] = []
    try:
        buffer = encoder(body, buffer, out)
    except (struct.error, UnicodeEncodeError, AttributeError, TypeError, ValueError) as cause:
        raise EncodeError(f"{type(body).__name__}: {cause}") from cause
    if not out:
        _LENGTH.pack_into(buffer, 0, len(buffer) - 4)
        return [buffer]
    if buffer:
        out.append(buffer)
    size = 0
    for piece in out:
        size += len(piece)
    try:
        _LENGTH.pack_into(out[0], 0, size - 4)  # type: ignore[arg-type]  # the first is always our bytearray
    except struct.error as cause:
        raise EncodeError(f"{type(body).__name__}: a frame of {size} bytes is too long") from cause
    return out


def _flexible(key: int, version: int) -> bool:
    return APIS[key].flexible(version)


def _decoder(key: int, version: int, kind: str) -> Decoder:
    return compile_decoder(_message(key, version, kind), version, _flexible(key, version), ELEMENTS_MAX[kind])


def _encoder(key: int, version: int, kind: str) -> Encoder:
    return compile_encoder(_message(key, version, kind), version, _flexible(key, version))


def _message(key: int, version: int, kind: str) -> type[Struct]:
    api = APIS.get(key)
    if api is None:
        raise UnknownApiError(f"no API has the key {key}")
    if not api.min_version <= version <= api.max_version:
        raise UnknownVersionError(f"{api.name} version {version}: we speak {api.min_version} to {api.max_version}")
    return api.request if kind == "request" else api.response


def _unknown(key: int, version: int, correlation_id: int, size: int) -> RequestHeader:
    if key == API_VERSIONS:
        return RequestHeader(key, version, correlation_id, None, size)
    _message(key, version, "request")
    raise AssertionError("the header table lacks a version that the API table has")


_LENGTH = struct.Struct(">i")
_CORRELATION_ID = struct.Struct(">i")
_REQUEST_HEADER = struct.Struct(">hhih")
_LENGTH_AND_REQUEST_HEADER = struct.Struct(">ihhih")
_RESPONSE_HEADER = struct.Struct(">ii")
_RESPONSE_HEADER_TAGS = struct.Struct(">iix")

# (key, version) -> whether the request's header ends with tags; what is missing here is not spoken.
_HEADER_TAGS: dict[tuple[Any, ...], bool] = {
    (api.key, version): api.flexible(version)
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
}
_REQUEST_DECODERS: dict[tuple[int, int], Decoder] = {}
_RESPONSE_DECODERS: dict[tuple[int, int], Decoder] = {}
_REQUEST_ENCODERS: dict[tuple[int, int], Encoder] = {}
_RESPONSE_ENCODERS: dict[tuple[int, int], tuple[Encoder, bool]] = {}

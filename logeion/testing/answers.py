"""The answer that refuses a request, for any API: what it asked about, with an error code beside. Pure."""

from __future__ import annotations

import typing
from functools import cache
from typing import Any

import msgspec

from logeion.wire.apis import APIS
from logeion.wire.codec import RequestHeader, decode_request, decode_response, encode_response
from logeion.wire.fields import Struct

PRODUCE, FETCH, METADATA, OFFSET_FETCH, FIND_COORDINATOR, DESCRIBE_LOG_DIRS = 0, 1, 3, 9, 10, 35
LIST_REASSIGNMENTS = 46
# An answer repeats what the request asked about, list by list, under other names in places.
ASKED = (
    "topic_data",
    "topics",
    "topic_names",
    "resources",
    "groups",
    "groups_names",
    "group_ids",
    "coordinator_keys",
    "topic_partitions",
)
ANSWERED = ("responses", "topics", "results", "groups", "coordinators", "replica_election_results")
ASKED_PARTS = ("partition_data", "partitions", "partition_indexes")
ANSWERED_PARTS = ("partition_responses", "partitions", "partition_result")
# What names an entry, in both; a partition's number has four names.
NAMES = ("name", "topic", "topic_id", "resource_type", "resource_name", "group_id", "key", "member_id")
NUMBERS = ("index", "partition", "partition_index", "partition_id")
# Here the error of the whole answer counts, even if something is named in it.
WHOLE = (OFFSET_FETCH, FIND_COORDINATOR, LIST_REASSIGNMENTS)
# Errors about a fetch session as a whole: FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH, …TOPIC_ID_ERROR.
SESSION_ERRORS = (70, 71, 106)


def refusal(header: RequestHeader, frame: bytes, code: int) -> bytes | None:
    """The frame that answers this request with the error, length included.

    None where the request asks about nothing that an error could stand beside (a fetch of no partition). Metadata is
    refused by ``refused_metadata``. Raises WireError.
    """
    request = decode_request(header, frame)
    answer = _answer(header, request, code)
    return None if answer is None else b"".join(map(bytes, encode_response(header, answer)))  # type: ignore[arg-type]


def takes_no_answer(header: RequestHeader, frame: bytes) -> bool:
    """Whether the sender waits for none: only Produce with acks=0. Raises WireError."""
    return header.api_key == PRODUCE and getattr(decode_request(header, frame), "acks", -1) == 0


def refused_metadata(header: RequestHeader, frame: bytes, code: int) -> bytes:
    """A broker's answer to Metadata (without its length) with the error beside every topic, length included.

    The brokers in it are real: without them a client would have nobody to ask again. Raises WireError.
    """
    _, answer = decode_response(METADATA, header.api_version, frame)
    for topic in getattr(answer, "topics"):  # noqa: B009  # the codec knows it as a Struct only
        topic.error_code, topic.partitions = code, []
    return b"".join(map(bytes, encode_response(header, answer)))  # type: ignore[arg-type]


def _answer(header: RequestHeader, request: Struct, code: int) -> Struct | None:
    api = APIS[header.api_key]
    values: dict[str, Any] = _identity(request, api.response)
    named = False
    if api.key != DESCRIBE_LOG_DIRS and not (api.key == FETCH and code in SESSION_ERRORS):
        lists = [name for name in ASKED if name in request.__struct_fields__]
        asked = next((found for name in lists if (found := getattr(request, name))), None)
        if asked is None and lists and "error_code" not in api.response.__struct_fields__:
            return None
        if asked is None and api.key == FETCH:
            return None
        # Where requests of all versions name groups, the lists have the same name on both sides.
        targets = [name for name in ANSWERED if name in api.response.__struct_fields__]
        if asked is not None and targets:
            same = [name for name in lists if getattr(request, name) is asked and name in targets]
            target = (same or targets)[0]
            values[target] = [_entry(one, _element(api.response, target), code) for one in asked]
            named = True
    if "error_code" in api.response.__struct_fields__ and (not named or api.key in WHOLE):
        values["error_code"] = code
    if api.key == FIND_COORDINATOR:
        values |= _NOBODY
    if api.key == DESCRIBE_LOG_DIRS:
        # Its early versions have no code but a directory's.
        values["results"] = [_element(api.response, "results")(error_code=code)]
    return api.response(**values)


_NOBODY = {"node_id": -1, "host": "", "port": -1}


def _entry(asked: object, kind: type[Struct], code: int) -> Struct:
    """One entry of the answer, its partitions below it: the code stands at the lowest level there is."""
    fields = kind.__struct_fields__
    values: dict[str, Any] = {}
    if isinstance(asked, str):
        values[next(name for name in ("key", "group_id", "name") if name in fields)] = asked
    elif isinstance(asked, int):
        values[next(name for name in NUMBERS if name in fields)] = asked
    else:
        assert isinstance(asked, Struct)
        values = _identity(asked, kind)
        parts = next((found for name in ASKED_PARTS if (found := getattr(asked, name, None))), None)
        below = next((name for name in ANSWERED_PARTS if name in fields), None)
        if parts and below and not isinstance(parts, int):
            values[below] = [_entry(part, _element(kind, below), code) for part in parts]
    if "error_code" in fields:
        parted = any(values.get(name) for name in ANSWERED_PARTS)
        values["error_code"] = 0 if parted else code
    if "records" in fields:
        values["records"] = b""
    for unknown in ("base_offset", "high_watermark", "last_stable_offset", "log_start_offset", "log_append_time_ms"):
        if unknown in fields:
            values[unknown] = -1
    if "coordinator" not in values and {"node_id", "host", "port", "key"} <= set(fields):
        values |= _NOBODY
    return kind(**values)


def _identity(asked: Struct, kind: type[Struct]) -> dict[str, Any]:
    fields = kind.__struct_fields__
    found = {name: getattr(asked, name) for name in NAMES if name in fields and name in asked.__struct_fields__}
    number = next((getattr(asked, name) for name in NUMBERS if name in asked.__struct_fields__), None)
    if number is not None:
        found |= {name: number for name in NUMBERS if name in fields}
    return found


@cache
def _element(kind: type[Struct], field: str) -> type[Struct]:
    """The class of a list field's elements."""
    found = _struct_in(typing.get_type_hints(kind)[field])
    assert found is not None, f"{kind.__name__}.{field} is no list of messages"
    return found


def _struct_in(hint: Any) -> type[Struct] | None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return typing.cast("type[Struct]", hint)
    for part in typing.get_args(hint):
        found = _struct_in(part)
        if found is not None:
            return found
    return None

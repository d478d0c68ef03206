"""Messages made from the schema itself: random ones, full ones and bare ones, for every (key, version)."""

from __future__ import annotations

from random import Random
from typing import Any

from logeion.wire.apis import APIS, ZERO_UUID, Struct
from logeion.wire.codec import RequestHeader, encode_request, encode_response
from logeion.wire.plan import Field, fields_of

KINDS = ("request", "response")

# Every (key, version, kind) of the table.
SLOTS = [
    (api.key, version, kind)
    for api in APIS.values()
    for version in range(api.min_version, api.max_version + 1)
    for kind in KINDS
]

_BOUNDS = {"int8": 1 << 7, "int16": 1 << 15, "int32": 1 << 31, "int64": 1 << 63}
_TEXTS = ("", "a", "orders", "λογεῖον", "x" * 126, "y" * 127, "z" * 128, "w" * 300)


def slot_id(slot: tuple[int, int, str]) -> str:
    key, version, kind = slot
    return f"{APIS[key].name}-v{version}-{kind}"


def message_class(slot: tuple[int, int, str]) -> type[Struct]:
    api = APIS[slot[0]]
    return api.request if slot[2] == "request" else api.response


def random_message(struct: type[Struct], version: int, rng: Random, depth: int = 0) -> Struct:
    """Any message that this version can carry: fields it lacks keep their default."""
    return struct(**{f.name: _random(f, version, rng, depth) for f in fields_of(struct, version) if f.present})


def full_message(struct: type[Struct], version: int) -> Struct:
    """Two elements in each array, nothing null, every tagged field away from its default."""
    return struct(**{f.name: _full(f, version) for f in fields_of(struct, version) if f.present})


def bare_message(struct: type[Struct], version: int) -> Struct:
    """Null wherever that is allowed, empty elsewhere, no tagged field."""
    return struct(**{f.name: _bare(f, version) for f in fields_of(struct, version) if f.present and f.tag is None})


def frame(slot: tuple[int, int, str], message: Struct, correlation_id: int = 7) -> bytes:
    """The message's frame without its length."""
    key, version, kind = slot
    if kind == "request":
        pieces = encode_request(key, version, correlation_id, "tester", message)
    else:
        pieces = encode_response(RequestHeader(key, version, correlation_id, None, 0), message)
    return b"".join(bytes(piece) for piece in pieces if not hasattr(piece, "fd"))[4:]


def _random(field: Field, version: int, rng: Random, depth: int) -> Any:
    if field.tag is not None and rng.random() < 0.4:
        return _copy(field.default)
    if field.nullable and rng.random() < 0.25:
        return None
    if field.array:
        count = rng.choice((0, 0, 1, 2, 3)) if depth < 3 else rng.choice((0, 1))
        return [_random_value(field, version, rng, depth) for _ in range(count)]
    return _random_value(field, version, rng, depth)


def _random_value(field: Field, version: int, rng: Random, depth: int) -> Any:
    if field.struct is not None:
        made = random_message(field.struct, version, rng, depth + 1)
        # kio does not send a tagged struct that is all defaults
        return None if field.tag is not None and not field.array and made == field.struct() else made
    if field.name.endswith("error_code"):
        return rng.randint(-1, 133)
    if field.kind == "int64" and field.name.endswith("_ms"):
        return rng.choice((-1, 0, 1, 1_700_000_000_123))  # kio makes dates and durations of them
    if field.kind == "uint16":
        return rng.choice((0, 1, 9092, (1 << 16) - 1))
    if field.kind in _BOUNDS:
        bound = _BOUNDS[field.kind]
        return rng.choice((0, 1, -1, bound - 1, -bound, rng.randrange(-bound, bound)))
    match field.kind:
        case "bool":
            return rng.random() < 0.5
        case "string":
            return rng.choice(_TEXTS)
        case "uuid":
            return rng.choice((ZERO_UUID, rng.randbytes(16).hex()))
    return rng.randbytes(rng.choice((0, 1, 100, 127, 128, 20_000 if field.kind == "records" else 200)))


def _full(field: Field, version: int) -> Any:
    return [_full_value(field, version) for _ in range(2)] if field.array else _full_value(field, version)


def _full_value(field: Field, version: int) -> Any:
    if field.struct is not None:
        return full_message(field.struct, version)
    if field.kind in _BOUNDS or field.kind == "uint16":
        return 3
    return {"bool": True, "string": "name", "uuid": "0123456789abcdef" * 2}.get(field.kind, b"some bytes")


def _bare(field: Field, version: int) -> Any:
    if field.nullable:
        return None
    if field.array:
        return []
    if field.struct is not None:
        return bare_message(field.struct, version)
    return _copy(field.default)


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value

"""The settings of clients, producers and consumers: kafka-python's names, declared so that editors complete them. Pure.

Sizes are in bytes, times in milliseconds. The same settings are taken with Kafka's dotted names and values of text, as
in a properties file: ``config={"bootstrap.servers": "localhost:9092", "linger.ms": "5"}``.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ForwardRef, Literal, TypedDict, Union, get_args, get_origin, get_type_hints

from logeion.wire.errors import ConfigError

from .partitioner import Partitioner


class ClientSettings(TypedDict, total=False):
    """``default_api_timeout_ms`` is what a whole call with its retries may take."""

    bootstrap_servers: str | Sequence[str]
    client_id: str
    request_timeout_ms: int
    socket_connection_setup_timeout_ms: int
    default_api_timeout_ms: int


class ProducerSettings(TypedDict, total=False):
    """See ``logeion.aio.Producer`` for defaults. The serializers apply to topics named by a str only."""

    acks: Literal["all", 0, 1, -1]
    enable_idempotence: bool
    linger_ms: float
    batch_size: int
    max_request_size: int
    buffer_memory: int
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] | None
    delivery_timeout_ms: int
    request_timeout_ms: int
    max_block_ms: int
    partitioner: Literal["murmur2", "crc32"] | Partitioner
    key_serializer: Callable[[Any], bytes | None]
    value_serializer: Callable[[Any], bytes | None]


class FetchSettings(TypedDict, total=False):
    """What a consumer fetches at once, and where it goes on when its position is gone."""

    fetch_min_bytes: int
    fetch_max_wait_ms: int
    fetch_max_bytes: int
    max_partition_fetch_bytes: int
    buffer_bytes: int
    auto_offset_reset: Literal["earliest", "latest", "none"]
    isolation_level: Literal["read_uncommitted", "read_committed"]


class ConsumerSettings(FetchSettings, total=False):
    """Without ``group_id`` every partition is read, and nothing is committed.

    ``group_protocol="consumer"`` is KIP-848: the coordinator assigns, by ``group_remote_assignor`` if one is named, and
    sets the session and the heartbeats; ``partition_assignment_strategy`` and those two settings are the classic ones.
    ``max_poll_records`` is how many records a batch holds unless ``batches`` says otherwise.
    """

    group_id: str | None
    group_instance_id: str | None
    group_protocol: Literal["classic", "consumer"]
    group_remote_assignor: str | None
    enable_auto_commit: bool
    auto_commit_interval_ms: int
    session_timeout_ms: int
    heartbeat_interval_ms: int
    max_poll_interval_ms: int
    max_poll_records: int
    partition_assignment_strategy: Sequence[str]


class StandaloneProducerSettings(ProducerSettings, total=False):
    """A producer that makes its own connection."""

    bootstrap_servers: str | Sequence[str]
    client_id: str
    socket_connection_setup_timeout_ms: int
    default_api_timeout_ms: int


class StandaloneConsumerSettings(ConsumerSettings, total=False):
    """A consumer that makes its own connection."""

    bootstrap_servers: str | Sequence[str]
    client_id: str
    request_timeout_ms: int
    socket_connection_setup_timeout_ms: int
    default_api_timeout_ms: int


# Names other Kafka clients know, and what to do about each here.
ABSENT = {
    "transactional_id": "transactions are not part of this client",
    "security_protocol": "this client speaks PLAINTEXT only",
    "sasl_mechanism": "this client does not authenticate",
    "sasl_plain_username": "this client does not authenticate",
    "sasl_plain_password": "this client does not authenticate",
    "retries": "delivery_timeout_ms is what bounds retries",
    "max_in_flight_requests_per_connection": "it is 5, and order holds with it: the producer is idempotent",
    "key_deserializer": "decoding is the topic's: Topic(name, key=…, value=…)",
    "value_deserializer": "decoding is the topic's: Topic(name, key=…, value=…)",
}


def checked(kind: type, given: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of this kind (one of the classes above), those of ``config`` under their Python names.

    Raises ConfigError for an unknown name or value of a list, naming the nearest, and for what is given in both ways.
    """
    known: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        known |= getattr(base, "__annotations__", {})
    found: dict[str, Any] = {}
    hints = _hints(kind)
    for name, value in given.items():
        _known(name, name, known)
        _one_of(name, value, hints[name])
        found[name] = value
    for dotted, value in (config or {}).items():
        name = dotted.replace(".", "_")
        _known(name, dotted, known)
        if name in found:
            raise ConfigError(f"{name} is given twice: by itself and as {dotted!r} in config")
        found[name] = _read(dotted, value, _declared(known[name])) if isinstance(value, str) else value
        _one_of(dotted, found[name], hints[name])
    return found


def _known(name: str, written: str, known: Mapping[str, Any]) -> None:
    if name in known:
        return
    if name in ABSENT:
        raise ConfigError(f"setting {written!r}: {ABSENT[name]}")
    if name.startswith(("ssl_", "sasl_")):
        raise ConfigError(f"setting {written!r}: this client speaks PLAINTEXT only and does not authenticate")
    close = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"unknown setting {written!r}" + (f"; did you mean {close[0]}?" if close else f"; known are {_list(known)}")
    )


def _one_of(written: str, value: Any, hint: Any) -> None:
    """Raises ConfigError if the annotation lists its values, and this is none of them."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    allowed = [one for part in parts if get_origin(part) is Literal for one in get_args(part)]
    if not allowed or value in allowed or (value is None and NoneType in parts):
        return
    if callable(value) and any(get_origin(part) is not Literal and part is not NoneType for part in parts):
        return
    texts = [str(one) for one in allowed]
    close = difflib.get_close_matches(str(value), texts, n=1)
    raise ConfigError(
        f"{written}={value!r}: it is one of {', '.join(texts)}" + (f"; did you mean {close[0]}?" if close else "")
    )


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _list(known: Mapping[str, Any]) -> str:
    return ", ".join(sorted(known))


def _declared(annotation: object) -> str:
    return annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else str(annotation)


def _read(name: str, text: str, declared: str) -> Any:
    """The value that a properties file writes as ``text``; ``declared`` is the annotation as it is written above."""
    try:
        if declared == "int":
            return int(text)
        if declared == "float":
            return float(text)
    except ValueError:
        raise ConfigError(f"setting {name!r}: {text!r} is not a number") from None
    if declared == "bool":
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"setting {name!r}: {text!r} is neither true nor false")
        return text.lower() == "true"
    if name == "acks" and text != "all":
        return int(text) if text in ("0", "1", "-1") else text
    if declared == "Sequence[str]":
        return [part.strip() for part in text.split(",") if part.strip()]
    if declared.startswith("Callable"):
        raise ConfigError(f"setting {name!r} is a function, not text")
    return text


def cluster_settings(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(the bootstrap addresses, what ``Cluster`` takes besides) of settings that were checked."""
    bootstrap = settings.get("bootstrap_servers", "localhost:9092")
    if not isinstance(bootstrap, str):
        bootstrap = ",".join(bootstrap)
    renamed = {
        "request_timeout_ms": "request_timeout_s",
        "socket_connection_setup_timeout_ms": "connect_timeout_s",
        "default_api_timeout_ms": "deadline_s",
    }
    taken: dict[str, Any] = {new: settings[old] / 1000 for old, new in renamed.items() if old in settings}
    if "client_id" in settings:
        taken["client_id"] = settings["client_id"]
    return bootstrap, taken

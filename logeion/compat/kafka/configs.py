"""kafka-python's settings: which are taken, which change nothing here, and which cannot be had."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from .errors import KafkaConfigurationError

CLIENT = {"bootstrap_servers", "client_id", "request_timeout_ms"}

# Without effect on what a program sees: how sockets, metadata and metrics are dealt with is this client's own business.
IGNORED = frozenset(
    (
        "connections_max_idle_ms",
        "metadata_max_age_ms",
        "client_dns_lookup",
        "retry_backoff_ms",
        "receive_message_max_bytes",
        "receive_buffer_bytes",
        "send_buffer_bytes",
        "socket_options",
        "reconnect_backoff_ms",
        "reconnect_backoff_max_ms",
        "max_in_flight_requests_per_connection",
        "api_version",
        "bootstrap_timeout_ms",
        "metric_reporters",
        "metrics_enabled",
        "metrics_num_samples",
        "metrics_sample_window_ms",
        "metric_group_prefix",
        "selector",
        "kafka_client",
        "retries",
        "allow_auto_create_topics",
        "enable_incremental_fetch_sessions",
        "check_crcs",
        "client_rack",
        "exclude_internal_topics",
        "default_offset_commit_callback",
        "transaction_timeout_ms",
    )
)

# Setting -> the values that can be had.
ONLY: dict[str, tuple[Any, ...]] = {
    "security_protocol": ("PLAINTEXT",),
    "transactional_id": (None,),
    "sasl_mechanism": (None,),
    "proxy_url": (None,),
    "socks5_proxy": (None,),
}


def taken(kind: str, known: set[str], configs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that mean something to this kind. Raises ValueError as kafka-python does for unknown ones,
    KafkaConfigurationError for one that cannot be had."""
    found: dict[str, Any] = {}
    unknown = {}
    for name, value in configs.items():
        if name in known or name in CLIENT:
            if value is not None:
                found[name] = value
        elif name in ONLY:
            if value not in ONLY[name]:
                raise KafkaConfigurationError(f"{kind}({name}={value!r}): only {ONLY[name][0]!r} can be had here")
        elif name not in IGNORED and not name.startswith(("ssl_", "sasl_")):
            unknown[name] = value
    if unknown:
        close = difflib.get_close_matches(next(iter(unknown)), known | CLIENT, 1)
        raise ValueError(f"Unrecognized configs: {unknown}" + (f"; did you mean {close[0]}?" if close else ""))
    return found


Coder = Callable[[str, list[tuple[str, bytes | None]], Any], Any]


def serializer(given: Any) -> Coder | None:
    """A function of the value, or an object with ``serialize(topic, headers, value)``."""
    if given is None:
        return None
    if hasattr(given, "serialize"):
        return lambda topic, headers, value: given.serialize(topic, headers, value)
    return lambda topic, headers, value: given(value)


def deserializer(given: Any) -> Coder | None:
    """A function of the bytes, or an object with ``deserialize(topic, headers, bytes)``."""
    if given is None:
        return None
    if hasattr(given, "deserialize"):
        return lambda topic, headers, value: given.deserialize(topic, headers, value)
    return lambda topic, headers, value: None if value is None else given(value)

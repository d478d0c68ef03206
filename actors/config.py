"""The settings of a node: one Struct a section, and how a value is found.

A flag wins over the environment (``LOGEION_SECTION__KEY``), that over the file (TOML), that over the default written
here. Unknown sections and keys are refused with a guess at what was meant. The value's origin is kept for
``logeion config show --origin``.
"""

from __future__ import annotations

import difflib
import ipaddress
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from logeion.log.config import validate
from logeion.wire.errors import ConfigError

INT_MAX = 2**31 - 1
VOTERS_MAX = 9

NodeId = Annotated[int, Meta(ge=0, le=INT_MAX)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Count = Annotated[int, Meta(ge=1, le=INT_MAX)]
Milliseconds = Annotated[int, Meta(ge=0, le=INT_MAX)]
Bytes = Annotated[int, Meta(ge=1, le=2**40)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of the sections."""


class NodeSection(Section, frozen=True, kw_only=True):
    """Who this node is and where its files are."""

    id: NodeId = 1
    data_dir: str = "./logeion-data"
    rack: str | None = None
    # Temporary actors that start at once; 0 is two a core.
    starts: Annotated[int, Meta(ge=0, le=1000)] = 0
    # Gateways on the Kafka port (SO_REUSEPORT above one).
    gateways: Annotated[int, Meta(ge=1, le=64)] = 1
    # Processes forked ahead for the next actor that has to start, about 6 MB each; -1 is one in a cluster, none alone.
    spares: Annotated[int, Meta(ge=-1, le=64)] = -1
    # A Node or Supervisor without a sign of life for so long is killed (see vigil.py); 0: never.
    hung_ms: Milliseconds = 2_000


class ListenersSection(Section, frozen=True, kw_only=True):
    """The Kafka port. ``port`` 0 takes any free one; ``advertise`` is HOST[:PORT], empty for the address that each
    client connected to."""

    bind: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1", "::1"])
    port: Port = 9092
    advertise: str = ""


class StorageSection(Section, frozen=True, kw_only=True):
    """How durable an append is before it is acknowledged, where a topic does not say (``logeion.flush``)."""

    flush: Literal["ack", "interval", "os"] = "ack"
    # Bytes of metadata log after which a snapshot replaces it.
    metadata_snapshot_bytes: Bytes = 4_194_304


class ClusterSection(Section, frozen=True, kw_only=True):
    """``id`` names the cluster of a new data directory (empty: a random one); ``secret_file`` (mode 0600) holds what
    the hosts of a cluster know of each other. ``voters`` are the nodes of the metadata quorum as ID@HOST:PORT, the
    address being that node's cluster port; none: this node alone. Other hosts' lanes are accepted at ``bind`` and
    ``port`` (only if there are voters), and sent to ``advertise`` (HOST[:PORT], empty: the bound address)."""

    id: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    secret_file: str = ""
    voters: list[str] = []
    bind: str = "127.0.0.1"
    port: Port = 9645
    advertise: str = ""


class ControllerSection(Section, frozen=True, kw_only=True):
    """``heartbeat_ms`` is broker.heartbeat.interval.ms, ``session_ms`` broker.session.timeout.ms, ``election_ms``
    controller.quorum.election.timeout.ms (the shortest; each voter adds a random part of it), ``rebalance_ms`` how
    often leaders are moved back to preferred replicas (0: never)."""

    heartbeat_ms: Annotated[int, Meta(ge=10, le=60_000)] = 100
    session_ms: Annotated[int, Meta(ge=100, le=600_000)] = 1_000
    election_ms: Annotated[int, Meta(ge=50, le=60_000)] = 500
    rebalance_ms: Milliseconds = 30_000


class ReplicaSection(Section, frozen=True, kw_only=True):
    """Followers. ``lag_time_max_ms`` is replica.lag.time.max.ms, ``fetch_wait_ms`` how long a fetch is parked at a
    leader without news, ``fetch_max_bytes`` the most that one answer carries."""

    lag_time_max_ms: Annotated[int, Meta(ge=100, le=INT_MAX)] = 1_500
    fetch_wait_ms: Annotated[int, Meta(ge=10, le=600_000)] = 30_000
    fetch_max_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 4_194_304


class TopicsSection(Section, frozen=True, kw_only=True):
    """What a topic gets that does not say: Kafka's num.partitions, default.replication.factor and
    auto.create.topics.enable; ``configs`` are defaults of topic configs by Kafka's names."""

    partitions: Annotated[int, Meta(ge=1, le=100_000)] = 1
    # 0: three, or as many as there are nodes.
    replication_factor: Annotated[int, Meta(ge=0, le=32_767)] = 0
    auto_create: bool = True
    configs: dict[str, str] = {}


class GatewaySection(Section, frozen=True, kw_only=True):
    """``failover_wait_ms``: how long a request is held for a partition's next leader."""

    failover_wait_ms: Milliseconds = 3_000


class LimitsSection(Section, frozen=True, kw_only=True):
    """What a client may take. ``frame_bytes`` is socket.request.max.bytes; no more than ``first_frame_bytes`` are
    held for a connection that has not yet sent a whole frame; ``in_flight_bytes`` and ``in_flight_requests`` are per
    connection; ``idle_ms`` is connections.max.idle.ms."""

    frame_bytes: Bytes = 104_857_600
    first_frame_bytes: Bytes = 16_384
    in_flight_bytes: Bytes = 134_217_728
    in_flight_requests: Count = 1_000
    connections: Count = 10_000
    connections_per_address: Count = 2_000
    idle_ms: Milliseconds = 600_000
    # Partitions of the whole cluster: each led one is a process.
    partitions: Count = 2_000


class GroupsSection(Section, frozen=True, kw_only=True):
    """Kafka's group settings. ``offsets_partitions`` counts when ``__consumer_offsets`` is created, not later."""

    offsets_partitions: Annotated[int, Meta(ge=1, le=1000)] = 1
    # 0: three, or as many as there are nodes when the topic is created.
    offsets_replication_factor: Annotated[int, Meta(ge=0, le=32_767)] = 0
    min_session_timeout_ms: Milliseconds = 6_000
    max_session_timeout_ms: Milliseconds = 1_800_000
    initial_rebalance_delay_ms: Milliseconds = 0
    max_size: Count = INT_MAX
    offset_metadata_max_bytes: Annotated[int, Meta(ge=0, le=INT_MAX)] = 4_096
    offsets_retention_ms: Annotated[int, Meta(ge=1)] = 7 * 24 * 3600 * 1000
    consumer_session_timeout_ms: Milliseconds = 45_000
    consumer_heartbeat_interval_ms: Milliseconds = 5_000
    consumer_max_size: Count = INT_MAX
    # Coordinators that run at once on this node, about 7 MB each; groups without one cost only their positions.
    coordinators_max: Count = 1_000
    idle_exit_ms: Milliseconds = 60_000


class HttpSection(Section, frozen=True, kw_only=True):
    """The admin HTTP: addresses, and a port (0: any free one)."""

    bind: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1"])
    port: Port = 9644


class LogSection(Section, frozen=True, kw_only=True):
    """The node's own log lines, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All sections; ``encode`` and ``decode`` carry it to the actors."""

    node: NodeSection = NodeSection()
    listeners: ListenersSection = ListenersSection()
    storage: StorageSection = StorageSection()
    cluster: ClusterSection = ClusterSection()
    controller: ControllerSection = ControllerSection()
    replica: ReplicaSection = ReplicaSection()
    topics: TopicsSection = TopicsSection()
    gateway: GatewaySection = GatewaySection()
    limits: LimitsSection = LimitsSection()
    groups: GroupsSection = GroupsSection()
    http: HttpSection = HttpSection()
    log: LogSection = LogSection()

    def encode(self) -> bytes:
        """As msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Config:
        """What ``encode`` made; raises ``msgspec.DecodeError`` on anything else."""
        return msgspec.msgpack.decode(data, type=cls)

    def topic_defaults(self) -> dict[str, str]:
        """This node's defaults of topic configs, where they differ from Kafka's."""
        defaults = dict(self.topics.configs)
        if self.storage.flush != "ack":
            defaults.setdefault("logeion.flush", self.storage.flush)
        return defaults

    def spares(self) -> int:
        """How many processes wait for the next actor."""
        return self.node.spares if self.node.spares >= 0 else int(bool(self.cluster.voters))

    def rhythm(self) -> tuple[float, float]:
        """Seconds between a node's heartbeats, and without one until it is fenced; both ten times as long for a node
        that is alone, where nobody could take over and an idle processor is worth more."""
        scale = 1000 if self.cluster.voters else 100
        return self.controller.heartbeat_ms / scale, self.controller.session_ms / scale

    def voters(self) -> dict[int, tuple[str, int]]:
        """The metadata quorum: node id to host and cluster port; none for a node that is alone."""
        return dict(map(parse_voter, self.cluster.voters))

    def cluster_address(self) -> tuple[str, int]:
        """Where other hosts find this node's cluster port; ("", 0) for a node that is alone.

        That is what it advertises, else its own entry among the voters, else what it binds.
        """
        cluster = self.cluster
        if not cluster.voters:
            return "", 0
        if cluster.advertise:
            return parse_address(cluster.advertise, cluster.port)
        return self.voters().get(self.node.id, (cluster.bind, cluster.port))


class Loaded(msgspec.Struct, frozen=True):
    """A configuration, and for each ``section.key`` the origin of its value."""

    config: Config
    origins: dict[str, str]


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Loaded:
    """The settings in force. ``flags`` are ``section.key`` to value, None for those not given; ``defaults`` are a
    command's own, over those of all.

    Raises ``ConfigError`` that names the origin, the setting and what would do.
    """
    config = Config()
    origins = {f"{section}.{key}": "default" for section, key in keys()}
    for name, given in (defaults or {}).items():
        section, _, key = name.partition(".")
        config = _overlaid(config, origins, {section: {key: given}}, "default")
    if file is not None:
        config = _overlaid(config, origins, _read(file), f"file {file}")
    for name, text in sorted((environment or {}).items()):
        section, _, key = name.removeprefix("LOGEION_").lower().partition("__")
        if name.startswith("LOGEION_") and key:
            where = f"environment {name}"
            _check_known({section: {key: text}}, where)
            value = _from_text(_field_types(section)[key], text, where)
            config = _overlaid(config, origins, {section: {key: value}}, where, strict=False)
    for flag, given in (flags or {}).items():
        if given is not None:
            section, _, key = flag.partition(".")
            config = _overlaid(config, origins, {section: {key: given}}, "flag")
    _check_meaning(config, origins)
    own = config.voters().get(config.node.id)
    if own is not None and origins["cluster.port"] == "default":
        config = _overlaid(config, origins, {"cluster": {"port": own[1]}}, origins["cluster.voters"])
    return Loaded(config, origins)


def keys() -> list[tuple[str, str]]:
    """All settings as (section, key), in the order of the sections."""
    return [(section, key) for section in Config.__struct_fields__ for key in _field_types(section)]


def _read(file: Path) -> dict[str, Any]:
    try:
        parsed = msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    assert isinstance(parsed, dict)
    return parsed


def _overlaid(
    config: Config, origins: dict[str, str], layer: Mapping[str, Any], where: str, *, strict: bool = True
) -> Config:
    """``config`` with the values of one layer put over it."""
    _check_known(layer, where)
    whole = msgspec.to_builtins(config)
    for section, values in layer.items():
        whole[section].update(values)
        origins.update((f"{section}.{key}", where) for key in values)
    try:
        return msgspec.convert(whole, Config, strict=strict)
    except msgspec.ValidationError as error:
        message = str(error).replace("`$.", "`").replace("Object contains", "contains")
        raise ConfigError(f"{where}: {message}") from error


def _check_known(layer: Mapping[str, Any], where: str) -> None:
    for section, values in layer.items():
        if section not in Config.__struct_fields__:
            raise ConfigError(f"{where}: unknown section [{section}]{_guess(section, Config.__struct_fields__)}")
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: [{section}] must be a table of settings")
        known = _field_types(section)
        for key in values:
            if key not in known:
                raise ConfigError(f"{where}: unknown setting {section}.{key}{_guess(key, known)}")


def _guess(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"


_sections: dict[str, dict[str, Any]] = {}


def _field_types(section: str) -> dict[str, Any]:
    if not _sections:
        for name, kind in typing.get_type_hints(Config).items():
            _sections[name] = typing.get_type_hints(kind)
    return _sections[section]


def _from_text(kind: Any, text: str, where: str) -> object:
    """An environment variable's value: lists by commas, tables as ``key=value`` by commas, the rest as it is."""
    origin = typing.get_origin(kind)
    if origin is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    if origin is dict:
        pairs = [item.partition("=") for item in text.split(",") if item.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise ConfigError(f"{where}: must be key=value, several separated by commas")
        return {key.strip(): value.strip() for key, _, value in pairs}
    if origin is types.UnionType and not text:
        return None
    if kind is bool:
        lowered = text.strip().lower()
        if lowered not in ("true", "false", "1", "0"):
            raise ConfigError(f"{where}: {text!r} is neither true nor false")
        return lowered in ("true", "1")
    return text


def _check_meaning(config: Config, origins: Mapping[str, str]) -> None:
    """What types alone cannot say."""
    for key, value in config.topics.configs.items():
        try:
            validate(key, value)
        except ConfigError as error:
            raise ConfigError(f"{origins['topics.configs']}: topics.configs: {error}") from error
    for setting, addresses in (("listeners.bind", config.listeners.bind), ("http.bind", config.http.bind)):
        if not addresses:
            raise ConfigError(f"{origins[setting]}: {setting} names no address; for this host only, 127.0.0.1")
    if config.limits.first_frame_bytes > config.limits.frame_bytes:
        raise ConfigError(
            f"{origins['limits.first_frame_bytes']}: limits.first_frame_bytes is above limits.frame_bytes"
        )
    if config.groups.min_session_timeout_ms > config.groups.max_session_timeout_ms:
        raise ConfigError(
            f"{origins['groups.min_session_timeout_ms']}: groups.min_session_timeout_ms is above "
            "groups.max_session_timeout_ms"
        )
    if config.listeners.advertise:
        try:
            parse_address(config.listeners.advertise, 0)
        except ConfigError as error:
            raise ConfigError(f"{origins['listeners.advertise']}: listeners.advertise: {error}") from error

    _check_cluster(config, origins)


def _check_cluster(config: Config, origins: Mapping[str, str]) -> None:
    cluster = config.cluster

    def fault(setting: str, cause: object) -> ConfigError:
        return ConfigError(f"{origins[f'cluster.{setting}']}: cluster.{setting}: {cause}")

    seen: dict[int, str] = {}
    places: dict[tuple[str, int], str] = {}
    for entry in cluster.voters:
        try:
            node, place = parse_voter(entry)
        except ConfigError as error:
            raise fault("voters", error) from error
        twin = seen.get(node) or places.get(place)
        if twin is not None:
            raise fault("voters", f"{twin!r} and {entry!r} have the same {'id' if node in seen else 'address'}")
        seen[node] = places[place] = entry
    if len(seen) > VOTERS_MAX:
        raise fault("voters", f"{len(seen)} of them; 1, 3 or 5 are useful, more only slow each other down")
    if cluster.advertise:
        try:
            parse_address(cluster.advertise, 0)
        except ConfigError as error:
            raise fault("advertise", error) from error


def parse_voter(text: str) -> tuple[int, tuple[str, int]]:
    """``ID@HOST:PORT``; raises ``ConfigError``."""
    number, at, address = text.partition("@")
    if not at or not (number.isascii() and number.isdigit() and int(number) <= INT_MAX):
        raise ConfigError(f"{text!r} is not ID@HOST:PORT, for example 1@10.0.0.1:9645")
    host, port = parse_address(address, 0)
    if not port:
        raise ConfigError(f"{text!r} has no port; the default cluster port is 9645")
    return int(number), (host, port)


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """``HOST[:PORT]``, an IPv6 address in brackets if a port follows; raises ``ConfigError``."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(f"{text!r} is not [HOST]:PORT")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host:
        raise ConfigError(f"{text!r} has no host")
    if not port:
        return host, default_port
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ConfigError(f"{port!r} is not a port (0 to 65535)")
    return host, int(port)


def show_address(host: str, port: int) -> str:
    """``host:port``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_any(host: str) -> bool:
    """Whether this stands for every address of a host: something to listen on, never to connect to."""
    return host in ("", "*", "0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Whether only this host can connect there, as far as the name says; a name that must be looked up is not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""What a command that runs nodes is told: its flags, and what must be true of the settings before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from logeion.wire.errors import ConfigError

from .claim import StartError
from .config import Config, is_any, is_loopback
from .hosts import load_secret


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The flags; None where none was given. ``tied_to_fd`` is an inherited pipe whose end of file means: stop.
    ``guarded``: other hosts may reach this node only if it has a secret (``check_guarded``)."""

    port: int | None = None
    admin_port: int | None = None
    bind: list[str] | None = None
    advertise: str | None = None
    data: Path | None = None
    fresh: bool = False
    ready_file: Path | None = None
    tied_to_fd: int | None = None
    config_file: Path | None = None
    guarded: bool = False


def flags(options: Options) -> dict[str, object]:
    """The settings that flags are given for."""
    return {
        "listeners.port": options.port,
        "listeners.bind": options.bind,
        "listeners.advertise": options.advertise,
        "http.port": options.admin_port,
        "node.data_dir": None if options.data is None else str(options.data),
    }


def check_tie(descriptor: int | None) -> None:
    """Raises ``StartError`` if this is not an open descriptor."""
    try:
        if descriptor is not None:
            os.fstat(descriptor)
    except OSError as error:
        raise StartError(
            f"no descriptor {descriptor} was inherited", "leave --tied-to-fd to logeion.testing"
        ) from error


def located(config: Config) -> tuple[Config, Path]:
    """The configuration with absolute paths, and the data directory: the actors may be elsewhere."""
    directory = Path(config.node.data_dir).absolute()
    cluster = config.cluster
    if cluster.secret_file:
        cluster = msgspec.structs.replace(cluster, secret_file=str(Path(cluster.secret_file).absolute()))
    node = msgspec.structs.replace(config.node, data_dir=str(directory))
    return msgspec.structs.replace(config, node=node, cluster=cluster), directory


def check_guarded(config: Config) -> None:
    """Raises ``StartError`` where other hosts reach a listener and there is no secret: a node of one machine, which
    ``up`` runs, may be opened on purpose, but a node among hosts that forgot its secret must not come up."""
    if config.cluster.secret_file:
        return
    settings = (
        ("listeners.bind", config.listeners.bind),
        ("http.bind", config.http.bind),
        ("cluster.bind", [config.cluster.bind]),
    )
    for setting, addresses in settings:
        if reached := [address for address in addresses if not is_loopback(address)]:
            raise StartError(
                f"{setting} has {', '.join(reached)}, which other hosts reach, and there is no cluster.secret_file",
                "set cluster.voters and cluster.secret_file, of mode 0600 (docs/operating.md), bind loopback only, or "
                "run a node of this machine alone: logeion up --bind ADDR",
            )


def check_cluster(config: Config) -> None:
    """What a node of a cluster needs before it starts; raises ``ConfigError``."""
    cluster = config.cluster
    if not cluster.voters:
        if cluster.advertise or cluster.secret_file:
            raise ConfigError(
                "cluster.advertise and cluster.secret_file are for a cluster of several hosts, and cluster.voters "
                'names none: list them all, for example voters = ["1@10.0.0.1:9645", "2@10.0.0.2:9645", …]'
            )
        return
    load_secret(config)
    host, port = config.cluster_address()
    if is_any(host):
        raise ConfigError(
            f"cluster.bind is {cluster.bind}, every address of this host; say in cluster.advertise which of them other "
            "hosts find it at"
        )
    if is_loopback(cluster.bind) and not is_loopback(host):
        raise ConfigError(f"other hosts look for this node at {host}, but cluster.bind is {cluster.bind}")
    if port != cluster.port and not cluster.advertise:
        raise ConfigError(
            f"cluster.voters says that this node's cluster port is {port}, but cluster.port is {cluster.port}"
        )
    if any(map(is_any, config.listeners.bind)) and not config.listeners.advertise:
        raise ConfigError(
            f"listeners.bind is {', '.join(config.listeners.bind)}, every address of this host; say in "
            "listeners.advertise (--advertise) where clients of other nodes find it"
        )

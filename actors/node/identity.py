"""``meta.properties`` at the root of the data directory: whose data this is (Kafka's file, KIP-631 and KIP-858).

version=1
cluster.id=…        empty until the controller has named the cluster
node.id=1
directory.id=…      a replica in another directory is another replica
logeion.format=1
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from logeion.log.files import Files
from logeion.wire.errors import ConfigError, StorageError

NAME = "meta.properties"
FORMAT = 1
_LIMIT = 65_536


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says."""

    node: int
    directory_id: str
    cluster_id: str = ""


def load(data_dir: Path, node: int, fresh_directory_id: str, files: Files | None = None) -> Identity:
    """The identity of this data directory, made if it has none.

    Raises ``ConfigError`` for the data of another node or a newer format, ``StorageError`` for an unreadable file.
    """
    files, path = files or Files(), data_dir / NAME
    try:
        text = files.read_file(str(path), _LIMIT).decode("utf-8")
    except FileNotFoundError:
        identity = Identity(node=node, directory_id=fresh_directory_id)
        save(data_dir, identity, files)
        return identity
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: cannot be read: {error}", path) from error
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    fields = {key.strip(): value.strip() for key, equals, value in lines if equals}
    if fields.get("version") != "1" or not fields.get("directory.id"):
        raise StorageError(f"{path}: not a meta.properties of version 1 with a directory.id", path)
    if fields.get("logeion.format") != str(FORMAT):
        raise ConfigError(
            f"{path}: the data has format {fields.get('logeion.format', 'of another broker')}, this release reads "
            f"{FORMAT}: use the release that wrote it, or another data directory"
        )
    if fields.get("node.id") != str(node):
        raise ConfigError(
            f"{path}: this is the data of node {fields.get('node.id')}, not of node {node}: set node.id to it, "
            "or use another data directory"
        )
    return Identity(node=node, directory_id=fields["directory.id"], cluster_id=fields.get("cluster.id", ""))


def joined(data_dir: Path, identity: Identity, cluster_id: str, files: Files | None = None) -> Identity:
    """The identity as a member of this cluster; raises ``ConfigError`` if it is another's."""
    if identity.cluster_id == cluster_id:
        return identity
    if identity.cluster_id:
        raise ConfigError(
            f"{data_dir / NAME}: the data belongs to cluster {identity.cluster_id}, the metadata log to {cluster_id}: "
            "this directory was put together from two"
        )
    identity = msgspec.structs.replace(identity, cluster_id=cluster_id)
    save(data_dir, identity, files or Files())
    return identity


def save(data_dir: Path, identity: Identity, files: Files) -> None:
    """Write the file, durably; raises ``StorageError``."""
    path = data_dir / NAME
    text = (
        f"version=1\ncluster.id={identity.cluster_id}\nnode.id={identity.node}\n"
        f"directory.id={identity.directory_id}\nlogeion.format={FORMAT}\n"
    )
    try:
        files.replace_file(str(path), text.encode(), durable=True)
        files.sync_dir(str(data_dir))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}", path) from error

"""``logeion serve``: one node of a cluster of several hosts, as its file says, in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .common import CliError

# What a cluster needs otherwise than a node on a laptop.
DEFAULTS = {"groups.offsets_partitions": 8}


@click.command()
@click.option(
    "--config", "config_file", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="TOML settings: node.id, node.data_dir, listeners, cluster.voters, cluster.bind, cluster.secret_file, …",
)  # fmt: skip
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Directory, instead of node.data_dir.")
@click.option(
    "--ready-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Written once clients can be served: host:port a line; FILE.json has the details.",
)  # fmt: skip
@click.option("--tied-to-fd", type=click.IntRange(0), hidden=True, help="Stop at the end of file of this pipe.")
def serve(config_file: Path, data: Path | None, ready_file: Path | None, tied_to_fd: int | None) -> None:
    """Run one node of a cluster until SIGTERM, which moves its leaders away first.

    All nodes have the same cluster.voters (ID@HOST:PORT of the metadata quorum: one, three or five nodes, the
    addresses being their cluster ports) and the same secret in cluster.secret_file; node.id and the addresses are
    each node's own. The nodes may start in any order.
    """
    if not sys.platform.startswith("linux"):
        raise CliError(
            f"the broker runs on Linux only, this is {sys.platform}",
            "run it in a Linux virtual machine and connect from here with -b HOST:PORT",
        )
    from logeion.actors.foreground import run
    from logeion.actors.options import Options

    options = Options(data=data, ready_file=ready_file, tied_to_fd=tied_to_fd, config_file=config_file, guarded=True)
    sys.exit(run(options, DEFAULTS))

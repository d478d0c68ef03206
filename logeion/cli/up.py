"""``logeion up``: a node in the foreground.

This process owns Thespian's admin and everything below it: it is their subreaper, it notices by pidfd when the admin
or the supervisor ends, and it restarts the whole tree or gives up with the cause. All other processes are forked from
it, so it stays small and single-threaded, and loads what its children need before the first fork.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .common import CliError


@click.command()
@click.option("-n", "--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes to run here.")
@click.option("--port", type=click.IntRange(0, 65535), help="Kafka port; 0 takes any free one.  [default: 9092]")
@click.option("--admin-port", type=click.IntRange(0, 65535), help="Admin HTTP port; 0: any free one.  [default: 9644]")
@click.option("--bind", "bind", multiple=True, metavar="ADDR", help="Address to listen on.  [default: 127.0.0.1, ::1]")
@click.option("--advertise", metavar="HOST[:PORT]", help="What clients are told.  [default: what they connected to]")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Directory.  [default: ./logeion-data]")
@click.option("--fresh", is_flag=True, help="Erase the data directory first.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Written once clients can be served: host:port a line; FILE.json has the details.",
)
@click.option("--tied-to-fd", type=click.IntRange(0), hidden=True, help="Stop at the end of file of this pipe.")
@click.option("--config", "config_file", type=click.Path(dir_okay=False, path_type=Path), help="TOML settings.")
def up(
    nodes: int,
    port: int | None,
    admin_port: int | None,
    bind: tuple[str, ...],
    advertise: str | None,
    data: Path | None,
    fresh: bool,
    ready_file: Path | None,
    tied_to_fd: int | None,
    config_file: Path | None,
) -> None:
    """Run a node in the foreground until Ctrl-C or SIGTERM."""
    if not sys.platform.startswith("linux"):
        raise CliError(
            f"the broker runs on Linux only, this is {sys.platform}",
            "run it in a Linux virtual machine and connect from here with -b HOST:PORT",
        )
    if nodes > 1:
        raise click.UsageError("-n above 1 needs replication, which this version does not have yet")
    from logeion.actors.foreground import Options, run

    sys.exit(
        run(
            Options(
                port=port,
                admin_port=admin_port,
                bind=list(bind) or None,
                advertise=advertise,
                data=data,
                fresh=fresh,
                ready_file=ready_file,
                tied_to_fd=tied_to_fd,
                config_file=config_file,
            )
        )
    )

"""``logeion up``: a node, or several, in the foreground.

This process owns Thespian's admin and everything below it: it is their subreaper, it notices by pidfd when the admin
or the supervisor ends, and it restarts the whole tree or gives up with the cause. All other processes are forked from
it, so it stays small and single-threaded, and loads what its children need before the first fork.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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
@click.option("--no-restart", is_flag=True, hidden=True, help="Leave a node that ends as it is (with -n above 1).")
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
    no_restart: bool,
    config_file: Path | None,
) -> None:
    """Run a node, or several as a cluster on this machine, in the foreground until Ctrl-C or SIGTERM."""
    if not sys.platform.startswith("linux"):
        raise CliError(
            f"the broker runs on Linux only, this is {sys.platform}",
            "run it in a Linux virtual machine and connect from here with -b HOST:PORT",
        )
    from logeion.actors.foreground import run
    from logeion.actors.options import Options

    options = Options(
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
    if nodes == 1:
        sys.exit(run(options))
    from logeion.actors import nodes as several

    sys.exit(several.run(options, nodes, announce, restart=not no_restart))


def announce(nodes: list[dict[str, Any]], took: float, directory: Path) -> None:
    """The cluster, on one screen."""
    from importlib.metadata import version

    from logeion.actors.processes import descendants, memory

    kafka = [node["listeners"][0] for node in nodes]
    _, _, port = kafka[0].rpartition(":")
    more = [":" + address.rpartition(":")[2] for address in kafka[1:]]
    to = "" if port == "9092" else f" -b {kafka[0]}"
    click.echo(
        f"logeion {version('logeion')}   {len(nodes)} nodes ready in {took:.1f} s   (Ctrl-C stops, data is kept)"
    )
    click.echo()
    lines = (
        ("Kafka", ", ".join([kafka[0], *more]), "any Kafka client, unmodified"),
        ("Console", f"http://{nodes[0]['admin'][0]}", ""),
        ("Data", str(directory), f"logeion up -n {len(nodes)} --fresh to start over"),
    )
    width = max(len(value) for _, value, _ in lines)
    for name, value, note in lines:
        click.echo(f"  {name:<9}  {value:<{width}}   {note}".rstrip())
    click.echo()
    rows: list[tuple[str, ...]] = [("NODE", "ROLE", "LEADS", "ACTORS", "MEMORY", "ADVERTISES")]
    for node in nodes:
        held = f"{memory(descendants([node['pid']])) / 2**20:.0f} MiB"
        figures = (node["node"], node["role"], node["leads"], len(node["actors"]), held, node["advertises"])
        rows.append(tuple(map(str, figures)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, role, *numbers, advertises in rows:
        right = "  ".join(text.rjust(width) for text, width in zip(numbers, widths[2:5], strict=True))
        click.echo(f"  {number.ljust(widths[0])}  {role.ljust(widths[1])}  {right}  {advertises}")
    click.echo()
    click.echo("  Try, in another terminal:")
    click.echo(f"    echo hello | logeion produce{to} greetings")
    click.echo(f"    logeion consume{to} greetings --from start --follow")
    click.echo(f"    logeion topic describe{to} greetings")
    sys.stdout.flush()

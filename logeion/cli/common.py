"""What every command shares: its options, how it fails, and how it prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from logeion.client.cluster import Cluster

OK, FAILED, USAGE, NOT_FOUND, TIMEOUT, NO_CONNECTION, NOT_AUTHORISED = 0, 1, 2, 3, 4, 5, 6
UNHEALTHY = 10
INTERRUPTED = 130

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class CliError(click.ClickException):
    """Ends a command with one cause line, one "try:" line (if there is any advice) and an exit code."""

    def __init__(self, message: str, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        """Writes both lines to stderr."""
        click.echo(f"error: {' '.join(self.message.split())}", err=True)
        if self.hint:
            click.echo(f"try: {' '.join(self.hint.split())}", err=True)


def connection_options(command: F) -> F:
    """-b/--bootstrap and --timeout, for commands that talk to brokers."""
    command = click.option(
        "--timeout", "timeout_s", type=click.FloatRange(min=0.01), default=30.0, show_default=True, metavar="SECONDS",
        help="Give up on the whole command's waiting after this time.",
    )(command)  # fmt: skip
    return click.option(
        "-b", "--bootstrap", default="localhost:9092", show_default=True, metavar="HOST:PORT,…",
        envvar="LOGEION_BOOTSTRAP", help="Brokers to ask first.",
    )(command)  # fmt: skip


def output_option(command: F) -> F:
    """-o/--output table|json."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="What to print.",
    )(command)


def run_client(bootstrap: str, timeout_s: float, work: Callable[[Cluster], Coroutine[Any, Any, T]]) -> T:
    """Runs ``work`` with a started cluster and closes it; a client's errors become a CliError."""
    import asyncio

    from logeion.client.cluster import Cluster
    from logeion.errors import LogeionError

    async def main() -> T:
        cluster = Cluster(
            bootstrap,
            client_id="logeion-cli",
            request_timeout_s=timeout_s,
            connect_timeout_s=min(5.0, timeout_s),
            deadline_s=timeout_s,
        )
        try:
            await cluster.start()
            return await work(cluster)
        finally:
            await cluster.close()

    try:
        return asyncio.run(main())
    except LogeionError as error:
        raise as_cli_error(error) from error


def as_cli_error(error: Exception) -> CliError:
    """A typed error as the two lines and the exit code a person gets."""
    from logeion.client.errors import ClientError, ConnectError, ConnectionLostError, DeadlineError, said
    from logeion.errors import KafkaError

    code = FAILED
    hint = ""
    if isinstance(error, ClientError):
        hint = error.hint
        if isinstance(error, ConnectError | ConnectionLostError):
            code = NO_CONNECTION
        elif isinstance(error, DeadlineError):
            code = TIMEOUT
    elif isinstance(error, KafkaError):
        hint = error.hint
        if error.name in _NOT_FOUND:
            code = NOT_FOUND
        elif error.name == "REQUEST_TIMED_OUT":
            code = TIMEOUT
        elif error.name.endswith("AUTHORIZATION_FAILED") or error.name == "SASL_AUTHENTICATION_FAILED":
            code = NOT_AUTHORISED
    return CliError(said(error), hint, code)


_NOT_FOUND = {"UNKNOWN_TOPIC_OR_PARTITION", "UNKNOWN_TOPIC_ID", "GROUP_ID_NOT_FOUND", "RESOURCE_NOT_FOUND"}


def on_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def print_json(value: object) -> None:
    """One JSON document, indented, and a newline."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table: rich on a terminal, else one row a line with a header, in aligned columns for people who grep."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if on_terminal():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            numeric = bool(texts) and all(row[number].lstrip("-").isdigit() or row[number] == "-" for row in texts)
            table.add_column(column.upper(), justify="right" if numeric else "left", overflow="fold")
        for row in texts:
            table.add_row(*row)
        Console(no_color="NO_COLOR" in os.environ or None, highlight=False, markup=False).print(table)
        return
    lines = [[column.upper() for column in columns], *texts]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def key_values(pairs: Iterable[str], option: str) -> dict[str, str]:
    """``key=value`` arguments as a dictionary. Raises a usage error that names the option."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{option} {pair!r}: write KEY=VALUE")
        found[key] = value
    return found


def end_quietly() -> None:
    """Leaves with 0 and keeps Python from complaining about what it cannot flush any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    raise SystemExit(OK)

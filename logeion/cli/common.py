"""What all commands share: options, exit codes, and errors as one cause line and one "try:" line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_TIMEOUT = 1, 2, 3, 4
EXIT_NO_CONNECTION, EXIT_NOT_AUTHORISED, EXIT_UNHEALTHY, EXIT_INTERRUPTED = 5, 6, 10, 130

F = TypeVar("F", bound=Callable[..., Any])


class CliError(Exception):
    """A command failed: one line that says why, one that says what to try."""

    def __init__(self, cause: str, hint: str, code: int = EXIT_FAILED) -> None:
        super().__init__(cause)
        self.cause, self.hint, self.code = cause, hint, code


def fail(error: CliError) -> NoReturn:
    """Print the two lines and exit with the error's code."""
    print(f"logeion: {error.cause}", file=sys.stderr)
    print(f"try: {error.hint}", file=sys.stderr)
    sys.exit(error.code)


def bootstrap_option(command: F) -> F:
    """-b/--bootstrap."""
    return click.option(
        "-b",
        "--bootstrap",
        default="localhost:9092",
        show_default=True,
        envvar="LOGEION_BOOTSTRAP",
        metavar="HOST:PORT[,…]",
        help="Any node of the cluster.",
    )(command)


def output_option(command: F) -> F:
    """-o/--output."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Form of the output.",
    )(command)

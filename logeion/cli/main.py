"""``logeion``: one command, its parts loaded when they are called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from .common import EXIT_INTERRUPTED, CliError, fail

COMMANDS = {
    "up": "Run a node in the foreground.",
    "topic": "Create, list, describe, configure, grow and delete topics.",
    "produce": "Publish lines or JSON to a topic.",
    "consume": "Print a topic's records.",
    "actors": "Show the actors of the node that answers.",
    "log": "Look at a partition's log on disk.",
    "config": "Show the settings and where they come from.",
    "demo": "Publish real lines, kill a partition half way, count what is lost (nothing).",
}


class _Lazy(click.Group):
    """Knows its commands by name; a module is loaded only when its command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"logeion.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="logeion", message="logeion %(version)s")
def logeion() -> None:
    """A replicated, partitioned commit log that every Kafka client can use."""


def main(arguments: list[str] | None = None) -> Any:
    """The console script; ends the process with the command's exit code."""
    try:
        logeion.main(args=arguments, prog_name="logeion", standalone_mode=False)
    except CliError as error:
        fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough; a flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.stdout.flush()
    sys.exit(0)

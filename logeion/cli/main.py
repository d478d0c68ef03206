"""``logeion``: the command line. Each command's module is loaded when it is used, so that ``--help`` is instant."""

from __future__ import annotations

import importlib
import sys

import click

from .common import INTERRUPTED, OK, CliError, end_quietly

# Command -> (module, what --help says). The command in the module has the command's name.
COMMANDS = {
    "up": ("logeion.cli.up", "Run a node, or a cluster on this machine, until Ctrl-C or SIGTERM."),
    "serve": ("logeion.cli.serve", "Run one node of a cluster of several hosts until SIGTERM."),
    "topic": ("logeion.cli.topic", "Create, list, describe, configure, grow and delete topics."),
    "produce": ("logeion.cli.produce", "Publish lines or JSON records to a topic."),
    "consume": ("logeion.cli.consume", "Read a topic's records."),
    "cluster": ("logeion.cli.cluster", "Show health and nodes; move replicas, leaders and voters."),
    "group": ("logeion.cli.group", "List, describe, watch, reset and delete consumer groups."),
    "actors": ("logeion.cli.actors", "Show a node's actors."),
    "config": ("logeion.cli.config", "Show the settings of a node and where each comes from."),
    "log": ("logeion.cli.log", "Look into a partition's files: dump and verify, without a broker."),
    "demo": ("logeion.cli.demo", "Publish the standard library to three nodes, kill a leader, lose nothing."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry[0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, 1) if args else []
            if close:
                raise click.UsageError(f"no command {args[0]!r}; did you mean {close[0]!r}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="logeion", message="logeion %(version)s")
def cli() -> None:
    """A replicated, partitioned commit log that speaks Kafka's protocol."""


def main(arguments: list[str] | None = None) -> None:
    """The entry point: exits 0 ok, 1 failed, 2 usage, 3 not found, 4 timeout, 5 cannot connect, 6 not authorised,
    10 unhealthy, 130 Ctrl-C; a closed stdout ends quietly with 0."""
    try:
        code = cli.main(arguments, prog_name="logeion", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        click.echo(f"error: {error.format_message()}", err=True)
        path = error.ctx.command_path if error.ctx is not None else "logeion"
        click.echo(f"try: {path} --help", err=True)
        sys.exit(2)
    except CliError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        end_quietly()
    else:
        sys.exit(code if isinstance(code, int) else OK)

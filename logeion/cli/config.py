"""``logeion config``: what settings a node started here and now would have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from .common import CliError, output_option, print_json, print_table


@click.group()
def config() -> None:
    """Show the settings of a node: from its TOML file, LOGEION_SECTION__KEY in the environment, and defaults."""


@config.command()
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@click.option(
    "--config", "file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="TOML settings."
)
@output_option
def show(origin: bool, file: Path | None, output: str) -> None:
    """Show all settings in force."""
    from logeion.actors.config import load
    from logeion.errors import ConfigError

    try:
        loaded = load(file, os.environ)
    except ConfigError as error:
        raise CliError(str(error), "logeion config show, without that setting, lists all there are") from error
    rows = [
        (f"{section}.{key}", value, loaded.origins[f"{section}.{key}"])
        for section, settings in msgspec.to_builtins(loaded.config).items()
        for key, value in settings.items()
    ]
    if output == "json":
        print_json([_object(name, value, came_from if origin else None) for name, value, came_from in rows])
    elif origin:
        print_table(["setting", "value", "origin"], [(name, _text(value), where) for name, value, where in rows])
    else:
        print_table(["setting", "value"], [(name, _text(value)) for name, value, _ in rows])


def _object(name: str, value: Any, came_from: str | None) -> dict[str, Any]:
    shown = {"setting": name, "value": value}
    if came_from is not None:
        shown["origin"] = came_from
    return shown


def _text(value: Any) -> str | None:
    """As it would be written in the environment; None is shown as nothing set."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return None if value is None or value == "" else str(value)

"""``logeion actors``: what runs on a node, asked of its admin HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .common import (
    FAILED,
    NO_CONNECTION,
    CliError,
    connection_options,
    output_option,
    print_json,
    print_table,
    run_client,
)

if TYPE_CHECKING:
    from logeion.client.cluster import Cluster

ADMIN_LISTENER = "logeion.admin.listener"
ANSWER_MAX = 64 * 1024 * 1024


@click.command()
@output_option
@connection_options
def actors(output: str, bootstrap: str, timeout_s: float) -> None:
    """Show the actors of every node: kind, id, pid, topic, partition, epoch, state and restarts."""
    found = fetch_actors(bootstrap, timeout_s)
    if output == "json":
        print_json(found)
        return
    columns = ["id", "kind", "node", "pid", "epoch", "state", "restarts"]
    print_table(columns, [[actor.get(column) for column in columns] for actor in found])


def fetch_actors(bootstrap: str, timeout_s: float) -> list[dict[str, Any]]:
    """The actors of all brokers, as ``GET /api/actors`` of each tells. Raises CliError."""

    async def work(cluster: Cluster) -> list[str]:
        from logeion.client.admin import Admin

        admin = Admin(cluster)
        addresses: list[str] = []
        for node in sorted((await admin.cluster()).brokers):
            for value in await admin.broker_configs(node, [ADMIN_LISTENER]):
                if value.name == ADMIN_LISTENER and value.value:
                    addresses.append(value.value)
        return addresses

    addresses = list(dict.fromkeys(run_client(bootstrap, timeout_s, work)))
    if not addresses:
        raise CliError(
            f"the brokers at {bootstrap} name no {ADMIN_LISTENER}",
            "this needs a Logeion broker with its admin HTTP on; see `logeion up --admin-port`",
        )
    return [actor for address in addresses for actor in _get(address, timeout_s)]


def _get(address: str, timeout_s: float) -> list[dict[str, Any]]:
    import http.client
    import json
    from urllib.parse import urlsplit

    where = urlsplit(address if "://" in address else f"http://{address}")
    connection = http.client.HTTPConnection(where.hostname or "localhost", where.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", "/api/actors")
        answer = connection.getresponse()
        body = answer.read(ANSWER_MAX)
    except (OSError, http.client.HTTPException) as cause:
        raise CliError(
            f"no answer from the admin HTTP at {where.netloc}: {cause}",
            "it listens on loopback unless told otherwise: run this on the broker's host",
            NO_CONNECTION,
        ) from cause
    finally:
        connection.close()
    if answer.status != 200:
        raise CliError(f"{where.netloc}/api/actors answered {answer.status} {answer.reason}", "", FAILED)
    try:
        found = json.loads(body)
    except ValueError as cause:
        raise CliError(f"{where.netloc}/api/actors answered no JSON: {cause}") from cause
    return found if isinstance(found, list) else list(found.get("actors", []))

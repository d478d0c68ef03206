"""Queries that crash their server, found in the log.

A server publishes "submitted" before it runs a query, and waits until that is acknowledged: whatever happens next, the
log knows that the query was begun. It publishes "finished" afterwards. A query that was submitted and never finished,
although its server has said something since (or is gone), took its server down.

    python docs/examples/query_crashes.py [--bootstrap HOST:PORT]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from typing import Literal

import msgspec

import logeion
import logeion.testing

QUERIES = ["select 1", "select name from users", "select crash()", "select 2", "select crash()", "select 3"]


class QueryEvent(msgspec.Struct):
    """What a server says of one query; ``run`` tells its starts apart."""

    kind: Literal["started", "submitted", "finished"]
    server: str
    run: int
    query: str = ""
    sql: str = ""


# One server's events are in one partition, so in order.
EVENTS = logeion.Topic("query-events", key=str, value=QueryEvent)


def serve(bootstrap: str, server: str, queries: list[str]) -> None:
    """One start of the server: it runs queries until one takes it down."""
    run = time.time_ns()
    with logeion.connect(bootstrap) as client, client.producer(linger_ms=0) as producer:
        producer.send(EVENTS, QueryEvent("started", server, run), server).result(10)
        for sql in queries:
            query = f"{server}-{time.time_ns()}"
            # Not before this is acknowledged: a crash must not be faster than its trace.
            producer.send(EVENTS, QueryEvent("submitted", server, run, query, sql), server).result(10)
            if "crash" in sql:
                os.kill(os.getpid(), 9)
            producer.send(EVENTS, QueryEvent("finished", server, run, query, sql), server)


class Detector:
    """Submitted and not finished, by server: what a server's later start proves to have crashed it."""

    def __init__(self) -> None:
        self.running: dict[str, dict[str, QueryEvent]] = {}
        self.crashed: list[QueryEvent] = []

    def take(self, event: QueryEvent) -> None:
        running = self.running.setdefault(event.server, {})
        if event.kind == "started":
            self.crashed += running.values()
            running.clear()
        elif event.kind == "submitted":
            running[event.query] = event
        else:
            running.pop(event.query, None)


def main() -> None:
    options = argparse.ArgumentParser(description="Find the queries that crashed their server.")
    options.add_argument("--bootstrap", help="a Kafka; by default one is started for this run")
    options.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        serve(chosen.bootstrap, chosen.serve[0], chosen.serve[1:])
        return
    with contextlib.ExitStack() as stack:
        bootstrap = chosen.bootstrap or stack.enter_context(logeion.testing.broker()).bootstrap
        client = stack.enter_context(logeion.connect(bootstrap))
        with contextlib.suppress(logeion.errors.TopicAlreadyExistsError):
            client.admin.create_topic("query-events", partitions=2)

        # A server that is started again after each crash, with the queries that are left.
        server, left = f"db-{os.getpid()}", list(QUERIES)
        while left:
            command = [sys.executable, __file__, "--bootstrap", bootstrap, "--serve", server, *left]
            if subprocess.run(command).returncode == 0:
                break
            left = left[next(at for at, sql in enumerate(left) if "crash" in sql) + 1 :]
            print(f"{server} died; started again with {len(left)} queries to go")

        detector = Detector()
        with client.consume(EVENTS, auto_offset_reset="earliest") as events:
            while (event := events.poll(1.0)) is not None:
                detector.take(event.value)
        for query in detector.crashed:
            print(f"crashed {query.server}: {query.sql!r} ({query.query})")
        assert not detector.running[server], "every other query has finished"


if __name__ == "__main__":
    main()

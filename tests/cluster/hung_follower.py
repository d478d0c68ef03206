"""A follower that hangs: how long acks=all waits for it, and that acks=1 and fetches do not.

    python -m tests.cluster.hung_follower --count 20

A Replica is stopped for longer than replica.lag.time.max.ms while one record after the other is sent with acks=all and
with acks=1, and what is committed is fetched. The figures are the longest waits of each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.load import quantile
from bench.rawclient import RawClient, batch
from tests.cluster.broker import until
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.histories import create_topic

# Half a second above the default of replica.lag.time.max.ms.
HELD_MAX_S = 2.0
STOPPED_S = 3.0
TOPIC = "hung"


class Waits(NamedTuple):
    """The longest waits in milliseconds while the follower hung, and the 99th percentile of two that must not wait."""

    acks_all_ms: float
    acks_1_ms: float
    acks_1_p99_ms: float
    fetch_ms: float
    fetch_p99_ms: float


class Asking(threading.Thread):
    """Asks the leader's gateway again and again, and keeps how long each answer took."""

    def __init__(self, address: str, ask: Callable[[RawClient], None]) -> None:
        super().__init__(daemon=True)
        self.waits: list[float] = []
        self.error: BaseException | None = None
        self._over = threading.Event()
        self._address, self._ask = address, ask
        self.start()

    def run(self) -> None:
        try:
            with RawClient(self._address) as client:
                while not self._over.wait(0.01):
                    began = time.monotonic()
                    self._ask(client)
                    self.waits.append(time.monotonic() - began)
        except (OSError, RuntimeError) as error:
            self.error = error

    def end(self) -> list[float]:
        """The waits in milliseconds; raises what the leader answered instead of yes."""
        self._over.set()
        self.join(30)
        if self.error is not None:
            raise self.error
        return [wait * 1000 for wait in self.waits]


def hang(cluster: Cluster, key: str) -> Waits:
    """Stop one follower of ``key`` for a while."""
    topic, _, number = key.rpartition("-")
    leader = cluster.leader(key)
    address = cluster.listener(leader.node)
    record = batch(1, b"x" * 100)

    def produce(acks: int) -> Callable[[RawClient], None]:
        def ask(client: RawClient) -> None:
            client.produce(topic, int(number), record, acks=acks)
            client.must_be_acked(topic)

        return ask

    def fetch(client: RawClient) -> None:
        assert client.fetch(topic, int(number), 0, 1000)

    follower = cluster.actors("replica", name=key)[0]
    with RawClient(address) as client:
        produce(-1)(client)
    asking = [Asking(address, ask) for ask in (produce(-1), produce(1), fetch)]
    until(lambda: all(len(one.waits) > 50 or one.error for one in asking), 20, "answers")
    for one in asking:
        one.waits.clear()
    cluster.pause(follower)
    time.sleep(STOPPED_S)
    cluster.resume_all()
    acks_all, acks_1, fetches = (one.end() for one in asking)
    return Waits(max(acks_all), max(acks_1), quantile(acks_1, 0.99), max(fetches), quantile(fetches, 0.99))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    wanted = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="logeion-hung-") as folder, running_cluster(Path(folder)) as cluster:
        create_topic(cluster.bootstrap, TOPIC, 1, 3, {"min.insync.replicas": "2"})
        for _ in range(wanted.count):
            cluster.wait_healthy()
            found.append(hang(cluster, f"{TOPIC}-0"))
            print(found[-1], flush=True)
    worst = Waits(*(max(column) for column in zip(*found, strict=True)))
    print(f"the worst of {len(found)}: {worst}")
    return 0 if worst.acks_all_ms < HELD_MAX_S * 1000 else 1


if __name__ == "__main__":
    sys.exit(main())

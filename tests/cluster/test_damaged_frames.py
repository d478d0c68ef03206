"""20,000 damaged requests into a running node: connections may close, nobody else notices."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from random import Random

import psutil
import pytest

from logeion.wire.apis import APIS
from tests.cluster.broker import Broker, running_broker
from tests.wire.fuzz import frames
from tests.wire.samples import SLOTS, frame, message_class, random_message

FRAMES, STRANGE = 20_000, 2_000
# How long a damaged request is waited for: those that rightly have no answer (acks=0, a long poll) cost this much.
PATIENCE_S = 0.02
GROWTH_MAX = 100 << 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder: Path = tmp_path_factory.mktemp("damaged")
    # Damaged names make topics, too; each is a process, and a few are enough.
    settings = folder / "settings.toml"
    settings.write_text("[limits]\npartitions = 20\n")
    with running_broker(folder, "--config", str(settings)) as broker:
        yield broker


def connect(broker: Broker) -> socket.socket:
    host, _, port = broker.bootstrap.rpartition(":")
    return socket.create_connection((host, int(port)), 5.0)


class Bystander:
    """Another client, whose one connection must go on."""

    def __init__(self, broker: Broker) -> None:
        self.sock = connect(broker)
        self.sock.settimeout(5.0)
        self.asked = 0

    def is_served(self) -> None:
        self.asked += 1
        self.sock.sendall(struct.pack(">ihhih", 10, 18, 0, self.asked, -1))
        head = self.sock.recv(8, socket.MSG_WAITALL)
        size, correlation_id = struct.unpack(">ii", head)
        assert correlation_id == self.asked
        assert len(self.sock.recv(size - 4, socket.MSG_WAITALL)) == size - 4


def send_all(broker: Broker, requests: Iterator[bytes]) -> None:
    bystander = Bystander(broker)
    sock: socket.socket | None = None
    for at, request in enumerate(requests):
        if at % 500 == 0:
            bystander.is_served()
        if sock is None:
            sock = connect(broker)
            sock.settimeout(PATIENCE_S)
        try:
            sock.sendall(struct.pack(">i", len(request)) + request)
            lives = bool(sock.recv(65_536))
        except OSError:
            lives = False
        if not lives:
            sock.close()
            sock = None
    if sock is not None:
        sock.close()
    bystander.is_served()
    bystander.sock.close()


def fixed_actors(broker: Broker) -> dict[str, int]:
    return {name: broker.pid_of(name) for name in ("supervisor", "controller", "] node", "gateway")}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_damaged_requests_restart_nobody_and_leave_nothing_behind(broker: Broker) -> None:
    before = fixed_actors(broker)
    gateway = psutil.Process(before["gateway"])
    size = gateway.memory_info().rss
    blocks = (request for block in count() for _, request in frames(9, block, ("request",)))
    send_all(broker, islice(blocks, FRAMES))
    assert fixed_actors(broker) == before, broker.tail()
    assert gateway.memory_info().rss < size + GROWTH_MAX


def test_well_formed_requests_that_make_no_sense_restart_nobody(broker: Broker) -> None:
    before = fixed_actors(broker)
    rng = Random(5)
    slots = [slot for slot in SLOTS if slot[2] == "request" and APIS[slot[0]].advertised]

    def requests() -> Iterator[bytes]:
        for _ in range(STRANGE):
            slot = rng.choice(slots)
            yield frame(slot, random_message(message_class(slot), slot[1], rng))

    send_all(broker, requests())
    assert fixed_actors(broker) == before, broker.tail()

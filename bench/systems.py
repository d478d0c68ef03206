"""The systems that are measured beside each other, each started fresh in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from bench.processes import wait_gone
from tests.interop.peers import Peer, Ready, free_ports, kafka_broker, running, tansu_broker, wait_ready


class Start(Protocol):
    """Start in a folder, on the data left there; handed over when `ready` returns."""

    def __call__(self, folder: Path, *, ready: Ready = wait_ready) -> AbstractContextManager[Peer]: ...


@dataclass(frozen=True)
class System:
    """A broker with one durability setting, and which of ours it is compared with."""

    key: str
    title: str
    start: Start
    rival_of: str | None = None


@contextlib.contextmanager
def logeion(folder: Path, *, flush: str, ready: Ready = wait_ready) -> Iterator[Peer]:
    """`logeion up` on loopback with its data in the folder."""
    port, admin_port = free_ports(2)
    folder.mkdir(parents=True, exist_ok=True)
    command = ["env", f"LOGEION_STORAGE__FLUSH={flush}", sys.executable, "-m", "logeion", "up"]
    command += ["--port", str(port), "--admin-port", str(admin_port), "--data", str(folder / "data")]
    with running("Logeion", version("logeion"), command, port, folder / "logeion.log", ready) as peer:
        yield peer


SYNC_EACH = {"log.flush.interval.messages": "1"}

SYSTEMS = {
    system.key: system
    for system in (
        System("logeion-os", "Logeion, flush=os", partial(logeion, flush="os")),
        System("kafka", "Apache Kafka, default", kafka_broker, rival_of="logeion-os"),
        System("tansu", "Tansu, memory", tansu_broker, rival_of="logeion-os"),
        System("logeion-ack", "Logeion, flush=ack", partial(logeion, flush="ack")),
        System(
            "kafka-sync",
            "Apache Kafka, log.flush.interval.messages=1",
            partial(kafka_broker, overrides=SYNC_EACH),
            rival_of="logeion-ack",
        ),
    )
}


def kill_tree(pids: set[int]) -> float:
    """kill -9 of processes that this benchmark started; seconds until all are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    return wait_gone(pids, 10.0)


def warm_volume(folder: Path, size: int) -> None:
    """Write and delete a file: the first write to a page that the host took back costs ten times more."""
    path = folder / "warm"
    block = bytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for _ in range(max(1, size >> 20)):
            file.write(block)
    path.unlink()

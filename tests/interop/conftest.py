"""One broker for the session: `logeion up`, or whatever KAFKA_BOOTSTRAP names (`make kafka-peer`: Apache Kafka)."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.clients import Client
from tests.interop.clients.aiokafka_ import Aiokafka
from tests.interop.clients.bridge import Java, Kafkajs
from tests.interop.clients.confluent import Confluent
from tests.interop.clients.kafka_python import KafkaPython
from tests.interop.clients.kcat import Kcat
from tests.interop.peers import KAFKA_LIBS, NODE_MODULES
from tests.tools import require_file, require_tool


def need_kcat() -> None:
    require_tool("kcat", "apt-get install kcat")


def need_node() -> None:
    require_tool("node", "apt-get install nodejs")
    require_file(NODE_MODULES, "make tools")


def need_java() -> None:
    require_tool("javac", "apt-get install openjdk-17-jdk-headless")
    require_file(KAFKA_LIBS, "make tools")


CLIENTS: dict[str, tuple[type[Client] | Callable[[str], Client], Callable[[], None]]] = {
    "kafka-python": (KafkaPython, lambda: None),
    "aiokafka": (Aiokafka, lambda: None),
    "confluent-kafka": (Confluent, lambda: None),
    "kcat": (Kcat, need_kcat),
    "kafkajs": (Kafkajs, need_node),
    "java": (Java, need_java),
}


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    from tests.cluster.broker import running_broker

    folder: Path = tmp_path_factory.mktemp("interop")
    settings = folder / "settings.toml"
    # Members of the new protocol beat as often as the broker says: for tests, as often as the others do.
    settings.write_text("[groups]\nconsumer_heartbeat_interval_ms = 300\n")
    with running_broker(folder, "--config", str(settings)) as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def started(bootstrap: str) -> Iterator[dict[str, Client]]:
    clients: dict[str, Client] = {}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="session")
def client_named(bootstrap: str, started: dict[str, Client]) -> Callable[[str], Client]:
    """Start a client once and keep it: a JVM a test would cost the suite its budget."""

    def named(name: str) -> Client:
        if name not in started:
            make, need = CLIENTS[name]
            need()
            started[name] = make(bootstrap)
        return started[name]

    return named


@pytest.fixture
def client(request: pytest.FixtureRequest, client_named: Callable[[str], Client]) -> Client:
    """The client that `clients(...)` parametrised this test with."""
    return client_named(request.param)


NUMBERS = itertools.count(1)


@pytest.fixture
def topic_name() -> str:
    return f"interop-{next(NUMBERS)}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_topic(client_named: Callable[[str], Client], topic_name: str) -> Iterator[Callable[..., str]]:
    """A topic made by confluent-kafka for tests that are about something else; deleted at the end."""
    maker = client_named("confluent-kafka")
    made: list[str] = []

    def make(partitions: int = 1, **configs: str) -> str:
        named = {name.replace("_", "."): value for name, value in configs.items()}
        # Records carry the timestamps of another year, which the default retention would delete under the test.
        maker.create_topic(topic_name, partitions, {"retention.ms": "-1"} | named)
        made.append(topic_name)
        return topic_name

    yield make
    for topic in made:
        maker.delete_topic(topic)

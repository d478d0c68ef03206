"""The pytest fixtures. pytest loads this in every session, so nothing else is imported until a fixture is asked for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logeion import Client
    from logeion.aio import Client as AsyncClient

    from .faults import Faults
    from .kafka import Kafka
    from .running import Broker

BOOTSTRAP = "KAFKA_BOOTSTRAP"
OURS = {"logeion_broker", "kafka_bootstrap", "logeion_topic", "faults", "logeion_client", "logeion_aclient"}
RUNNING: pytest.StashKey[Broker] = pytest.StashKey()
LOG_AT: pytest.StashKey[int] = pytest.StashKey()


class TopicFactory(Protocol):
    """``logeion_topic``: each call makes a topic and returns its unique name."""

    def __call__(
        self,
        partitions: int = 1,
        *,
        configs: Mapping[str, str] | None = None,
        name: str = "",
        replication_factor: int = -1,
    ) -> str:
        """``configs`` by Kafka's names; -1 is the broker's default."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "logeion_settings",
        "settings of the broker of logeion_broker, one section.key = value a line",
        type="linelist",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """An async fixture needs the plugin that runs it; pytest-asyncio wants to be told, and is loaded by now."""
    if config.pluginmanager.hasplugin("asyncio"):
        config.pluginmanager.register(_aclient_by(_of_pytest_asyncio()), "logeion-aclient")
    else:
        config.pluginmanager.register(_aclient_by(pytest.fixture), "logeion-aclient")


@pytest.fixture(scope="session")
def logeion_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker, one a session (and one a worker of pytest-xdist)."""
    from .running import Broker

    settings = {}
    for line in request.config.getini("logeion_settings"):
        name, equals, value = line.partition("=")
        if not equals:
            raise pytest.UsageError(f"logeion_settings: {line!r} is no section.key = value")
        settings[name.strip()] = value.strip()
    broker = Broker(tmp_path_factory.mktemp("logeion"), settings)
    broker.start()
    request.config.stash[RUNNING] = broker
    try:
        yield broker
    finally:
        del request.config.stash[RUNNING]
        broker.stop()


@pytest.fixture(scope="session")
def _logeion_kafka(request: pytest.FixtureRequest) -> Iterator[Kafka]:
    """The Kafka that KAFKA_BOOTSTRAP names, or the broker."""
    bootstrap = os.environ.get(BOOTSTRAP)
    if not bootstrap:
        yield request.getfixturevalue("logeion_broker")
        return
    from .kafka import Kafka

    kafka = Kafka(bootstrap)
    try:
        yield kafka
    finally:
        kafka.close()


@pytest.fixture(scope="session")
def kafka_bootstrap(_logeion_kafka: Kafka) -> str:
    """Where clients connect, ``host:port``: what KAFKA_BOOTSTRAP says, or our broker."""
    return _logeion_kafka.bootstrap


@pytest.fixture
def logeion_topic(_logeion_kafka: Kafka) -> Iterator[TopicFactory]:
    """Makes topics of unique names, which are deleted after the test."""
    made = []

    def make(
        partitions: int = 1,
        *,
        configs: Mapping[str, str] | None = None,
        name: str = "",
        replication_factor: int = -1,
    ) -> str:
        topic = _logeion_kafka.topic(partitions, configs=configs, name=name, replication_factor=replication_factor)
        made.append(topic)
        return topic

    yield make
    if made:
        _logeion_kafka.delete_topics(made)


@pytest.fixture
def faults(logeion_broker: Broker) -> Iterator[Faults]:
    """Faults to set for clients of the broker, removed after the test."""
    found = logeion_broker.faults
    try:
        yield found
    finally:
        found.clear()


@pytest.fixture
def logeion_client(kafka_bootstrap: str) -> Iterator[Client]:
    """A connected client of ``logeion``."""
    import logeion

    with logeion.connect(kafka_bootstrap) as client:
        yield client


def _of_pytest_asyncio() -> Callable[..., Any]:
    import pytest_asyncio

    fixture: Callable[..., Any] = pytest_asyncio.fixture
    return fixture


def _aclient_by(fixture: Callable[..., Any]) -> object:
    """What holds ``logeion_aclient``, made by this decorator."""

    class Holder:
        @fixture
        async def logeion_aclient(self, kafka_bootstrap: str) -> AsyncIterator[AsyncClient]:
            """A connected client of ``logeion.aio``, in the event loop of the test."""
            from logeion import aio

            async with aio.connect(kafka_bootstrap) as client:
                yield client

    return Holder()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember how long the broker's log is: a report shows what this test added."""
    broker = item.config.stash.get(RUNNING, None)
    if broker is not None and broker.log.exists():
        item.stash[LOG_AT] = broker.log.stat().st_size


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach to a failure what the broker knows about it."""
    report = yield
    broker = item.config.stash.get(RUNNING, None)
    if (
        report.failed
        and call.when != "teardown"
        and broker is not None
        and OURS & set(getattr(item, "fixturenames", ()))
    ):
        from .reports import sections

        report.sections += sections(broker, item.stash.get(LOG_AT, 0))
    return report

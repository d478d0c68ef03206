"""The pytest fixtures. pytest loads this in every session, so nothing else is imported until a fixture is asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logeion import Client
    from logeion.aio import Client as AsyncClient

    from .clusters import Cluster
    from .faults import Faults
    from .kafka import Kafka
    from .running import Broker, Running

BOOTSTRAP = "KAFKA_BOOTSTRAP"
BROKER, CLUSTER = "logeion_broker", "logeion_cluster"
# Fixtures of the broker, or of the cluster where a test uses that.
EITHER = {"logeion_topic", "logeion_client", "logeion_aclient"}
OF_BROKER = {BROKER, "kafka_bootstrap", "faults"}
RUNNING: pytest.StashKey[dict[str, Running]] = pytest.StashKey()
LOG_AT: pytest.StashKey[dict[str, int]] = pytest.StashKey()


R = TypeVar("R", bound="Running")


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
        "settings of logeion_broker and logeion_cluster, one section.key = value a line",
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

    with _running(request, BROKER, Broker(tmp_path_factory.mktemp("logeion"), _settings(request.config))) as broker:
        yield broker


@pytest.fixture(scope="session")
def logeion_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three running nodes, one such cluster a session (and a worker); healed after each test that did it harm."""
    from .clusters import Cluster

    cluster = Cluster(tmp_path_factory.mktemp("logeion-cluster"), _settings(request.config))
    with _running(request, CLUSTER, cluster):
        yield cluster


@contextlib.contextmanager
def _running(request: pytest.FixtureRequest, name: str, running: R) -> Iterator[R]:
    running.start()
    known = request.config.stash.setdefault(RUNNING, {})
    known[name] = running
    try:
        yield running
    finally:
        del known[name]
        running.stop()


def _settings(config: pytest.Config) -> dict[str, str]:
    settings = {}
    for line in config.getini("logeion_settings"):
        name, equals, value = line.partition("=")
        if not equals:
            raise pytest.UsageError(f"logeion_settings: {line!r} is no section.key = value")
        settings[name.strip()] = value.strip()
    return settings


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
def _logeion_of_test(request: pytest.FixtureRequest) -> Kafka:
    """The cluster if the test uses it, else ``_logeion_kafka``."""
    found: Kafka = request.getfixturevalue(CLUSTER if CLUSTER in request.fixturenames else "_logeion_kafka")
    return found


@pytest.fixture
def logeion_topic(_logeion_of_test: Kafka) -> Iterator[TopicFactory]:
    """Makes topics of unique names, which are deleted after the test: in the cluster if the test uses it."""
    kafka = _logeion_of_test
    made = []

    def make(
        partitions: int = 1,
        *,
        configs: Mapping[str, str] | None = None,
        name: str = "",
        replication_factor: int = -1,
    ) -> str:
        topic = kafka.topic(partitions, configs=configs, name=name, replication_factor=replication_factor)
        made.append(topic)
        return topic

    yield make
    if made:
        kafka.delete_topics(made)


@pytest.fixture
def faults(logeion_broker: Broker) -> Iterator[Faults]:
    """Faults to set for clients of the broker, removed after the test."""
    found = logeion_broker.faults
    try:
        yield found
    finally:
        found.clear()


@pytest.fixture
def logeion_client(_logeion_of_test: Kafka) -> Iterator[Client]:
    """A connected client of ``logeion``: of the cluster if the test uses it."""
    import logeion

    with logeion.connect(_logeion_of_test.bootstrap) as client:
        yield client


def _of_pytest_asyncio() -> Callable[..., Any]:
    import pytest_asyncio

    fixture: Callable[..., Any] = pytest_asyncio.fixture
    return fixture


def _aclient_by(fixture: Callable[..., Any]) -> object:
    """What holds ``logeion_aclient``, made by this decorator."""

    class Holder:
        @fixture
        async def logeion_aclient(self, _logeion_of_test: Kafka) -> AsyncIterator[AsyncClient]:
            """A connected client of ``logeion.aio``, in the event loop of the test."""
            from logeion import aio

            async with aio.connect(_logeion_of_test.bootstrap) as client:
                yield client

    return Holder()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember how long the logs are: a report shows what this test added."""
    running = item.config.stash.get(RUNNING, {})
    item.stash[LOG_AT] = {name: one.log.stat().st_size for name, one in running.items() if one.log.exists()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """The cluster is whole again before topics are deleted and the next test begins."""
    try:
        cluster = item.config.stash.get(RUNNING, {}).get(CLUSTER)
        if cluster is not None:
            cluster.heal()
    finally:
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach to a failure what the broker or the cluster knows about it."""
    report = yield
    running = item.config.stash.get(RUNNING, {})
    if not report.failed or call.when == "teardown" or not running:
        return report
    used = set(getattr(item, "fixturenames", ()))
    for name, one in running.items():
        of_broker = used & OF_BROKER or (used & EITHER and CLUSTER not in used)
        if name in used or (name == BROKER and of_broker):
            from .reports import sections

            report.sections += sections(one, item.stash.get(LOG_AT, {}).get(name, 0))
    return report

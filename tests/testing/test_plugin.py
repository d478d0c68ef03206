"""The pytest fixtures as a user's suite sees them: in a pytest of its own, with nothing but the package installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HEAVY = (
    "logeion.actors",
    "asyncio",
    "msgspec",
    "logeion.client",
    "logeion.wire",
    "logeion.aio",
    "thespian",
    "starlette",
)


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *arguments, timeout=50)


def test_the_plugin_loads_nothing_heavy_until_a_fixture_is_asked_for(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other plugins may load what they like.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        f"""
        import sys

        def test_nothing_is_loaded():
            assert "logeion.testing.plugin" in sys.modules
            assert [name for name in {HEAVY} if name in sys.modules] == []
        """
    )
    run(pytester, "-p", "logeion.testing.plugin").assert_outcomes(passed=1)


def test_the_module_alone_loads_nothing_but_pytest() -> None:
    program = (
        "import pytest, sys\nhad = set(sys.modules)\nimport logeion.testing.plugin\n"
        f"print(sorted(set({HEAVY}) & (set(sys.modules) - had)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_fixtures_are_there_without_being_asked_for(pytester: pytest.Pytester) -> None:
    listed = run(pytester, "--fixtures").stdout.str()
    for name in (
        "logeion_broker",
        "logeion_cluster",
        "kafka_bootstrap",
        "logeion_topic",
        "faults",
        "logeion_client",
        "logeion_aclient",
    ):
        assert f"\n{name}" in listed, listed


SUITE = """
    import os
    import pytest

    topics = []

    def test_a_topic_of_its_own(logeion_broker, logeion_topic):
        topics.append(logeion_topic(partitions=2))
        logeion_broker.produce(topics[0], "x", partition=1)
        assert [r.partition for r in logeion_broker.records(topics[0])] == [1]

    def test_the_topic_before_is_deleted(logeion_broker):
        from logeion.errors import UnknownTopicOrPartitionError
        with pytest.raises(UnknownTopicOrPartitionError):
            logeion_broker.records(topics[0])

    def test_a_fault(faults):
        faults.disconnect("Metadata")
        faults.error("ApiVersions", "UNSUPPORTED_VERSION")

    def test_the_fault_before_is_gone(logeion_client, logeion_topic):
        with logeion_client.producer() as producer:
            assert producer.send(logeion_topic(), b"x").result(10).offset == 0

    def test_one_address(kafka_bootstrap, logeion_broker):
        assert kafka_bootstrap == logeion_broker.bootstrap

    @pytest.mark.{mark}
    async def test_async(logeion_aclient, logeion_topic):
        async with logeion_aclient.producer() as producer:
            assert (await producer.send(logeion_topic(), b"x")).offset == 0
"""


def test_the_fixtures_under_pytest_asyncio(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE.replace("{mark}", "asyncio"))
    run(pytester, "-p", "no:anyio").assert_outcomes(passed=6)


def test_the_async_client_under_anyio_and_with_asyncio_in_auto_mode(pytester: pytest.Pytester) -> None:
    suite = SUITE[SUITE.index("    @pytest.mark") :]
    pytester.makeconftest("import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n")
    pytester.makepyfile("    import pytest\n\n" + suite.replace("{mark}", "anyio"))
    run(pytester, "-p", "no:asyncio").assert_outcomes(passed=1)
    pytester.makepyfile("    import pytest\n\n" + suite.replace("    @pytest.mark.{mark}\n", ""))
    run(pytester, "-o", "asyncio_mode=auto", "-p", "no:anyio").assert_outcomes(passed=1)


def test_each_worker_of_xdist_has_a_broker_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pathlib, pytest

        @pytest.mark.parametrize("n", range(6))
        def test_there(n, logeion_broker, logeion_topic):
            logeion_broker.produce(logeion_topic(name=f"same-name-{os.environ['PYTEST_XDIST_WORKER']}-{n}"), "x")
            pathlib.Path(f"seen-{os.environ['PYTEST_XDIST_WORKER']}").write_text(logeion_broker.bootstrap)
        """
    )
    run(pytester, "-n", "2").assert_outcomes(passed=6)
    assert len({path.read_text() for path in Path(pytester.path).glob("seen-*")}) == 2


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_a_failure_brings_log_topics_and_actors(pytester: pytest.Pytester, workers: list[str]) -> None:
    pytester.makepyfile(
        """
        def test_fails(logeion_broker, logeion_topic):
            logeion_broker.produce(logeion_topic(name="orders"), "a value to be seen", "a key")
            assert False

        def test_passes(logeion_broker):
            pass

        def test_fails_without_a_broker():
            assert False
        """
    )
    result = run(pytester, *workers)
    result.assert_outcomes(passed=1, failed=2)
    shown = result.stdout.str()
    for title in ("logeion broker log", "logeion topics", "logeion actors"):
        assert shown.count(f"- {title} -") == 1, shown
    result.stdout.fnmatch_lines(
        [
            "*starting partition/orders-0*",
            "orders:",
            "*0* @ 0 b'a key': b'a value to be seen'",
            "1 *supervisor/1 *running*",
            "1 *─ partition/orders-0 *running*",
        ]
    )


def test_kafka_bootstrap_takes_the_kafka_that_the_environment_names(
    pytester: pytest.Pytester, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", kafka_bootstrap)
    pytester.makepyfile(
        f"""
        def test_there(kafka_bootstrap, logeion_topic, logeion_client):
            assert kafka_bootstrap == {kafka_bootstrap!r}
            assert logeion_topic() in [topic.name for topic in logeion_client.admin.topics()]
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_settings_of_the_broker_stand_in_the_suites_configuration(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nlogeion_settings =\n    topics.partitions = 5\n    limits.connections = 100\n")
    pytester.makepyfile(
        """
        def test_there(logeion_client, logeion_topic):
            topic = logeion_client.admin.topic(logeion_topic(-1))
            assert len(topic.partitions) == 5
        """
    )
    run(pytester).assert_outcomes(passed=1)

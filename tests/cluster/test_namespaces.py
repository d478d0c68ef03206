"""Three hosts, each with its own network: deploy, produce, cut one off, heal, kill one, rejoin; nothing is lost."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.broker import until
from tests.cluster.deployment import NODES, PARTITIONS, TOPIC, Client, Deployment
from tests.cluster.hosts import Hosts
from tests.tools import missing, require_root

pytest.importorskip("confluent_kafka")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    require_root()
    made = Hosts(len(NODES))
    try:
        try:
            made.make()
        except PermissionError as error:
            missing(f"the kernel lets us make no network namespaces: {error}")
        yield made
    finally:
        for number in NODES:
            with contextlib.suppress(PermissionError):
                for pid in made.pids(number):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        made.remove()


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_three_hosts_lose_nothing_while_one_is_cut_off_and_one_dies(hosts: Hosts, tmp_path: Path) -> None:
    deployment = Deployment(hosts, tmp_path)
    for number in NODES:
        deployment.serve(number)
    client = None
    try:
        deployment.await_ready(*NODES)
        deployment.healthy()
        made = deployment.ask("topic", "create", TOPIC, "--partitions", str(PARTITIONS), "--replication-factor", "3")
        assert made.returncode == 0, made.stderr
        client = Client(deployment)
        client.goes_on()

        hosts.cut(2)
        print(f"one host cut off: all partitions acknowledge again within {client.goes_on():.2f} s")
        health = deployment.ask("cluster", "health", seconds=10.0)
        assert health.returncode == 10 and "2" in health.stdout, health
        hosts.heal(2)
        deployment.healthy()
        client.goes_on()

        deployment.kill(3)
        print(f"one host killed: all partitions acknowledge again within {client.goes_on():.2f} s")
        deployment.serve(3)
        deployment.await_ready(3)
        deployment.healthy()
        client.goes_on()

        report = client.finish()
        print(report)
        for fault in ("lost", "doubled", "disordered", "misplaced", "unanswered"):
            assert report[fault] == 0, report
        assert report["failed"] == {}, report
        assert isinstance(report["acked"], int) and report["acked"] > 500
        for number in NODES:
            before = hosts.pids(number)
            deployment.nodes[number].send_signal(signal.SIGTERM)
            assert before and deployment.nodes[number].wait(30) == 0, deployment.said(number)
            deployment.must_be_empty(number)
    finally:
        if client is not None and client.process.poll() is None:
            client.process.kill()
            client.process.wait()
        for number in NODES:
            with contextlib.suppress(PermissionError):
                deployment.kill(number)


def test_a_host_without_the_secret_is_kept_out(hosts: Hosts, tmp_path: Path) -> None:
    """It finds the cluster's port, and never becomes a part of the cluster."""
    deployment = Deployment(hosts, tmp_path)
    other = tmp_path / "other-secret"
    other.touch(0o600)
    other.write_text(secrets.token_hex(32))
    config = tmp_path / "node-3.toml"
    config.write_text(config.read_text().replace(str(tmp_path / "secret"), str(other)))
    for number in NODES:
        deployment.serve(number)
    try:
        deployment.await_ready(1, 2)
        until(lambda: "does not know our cluster secret" in deployment.said(1) + deployment.said(2), 10.0, "refused")
        nodes = deployment.ask("cluster", "nodes", seconds=10.0)
        assert hosts.address(1) in nodes.stdout and hosts.address(3) not in nodes.stdout, nodes
        assert not deployment.ready(3).exists()
    finally:
        for number in NODES:
            deployment.kill(number)

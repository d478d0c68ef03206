"""kill -9 of anything, and what must be true a second later."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.broker import Broker, gone, running_broker, until

SECOND = 1.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path) as one:
        yield one


def kill(broker: Broker, *names: str) -> dict[int, str]:
    """kill -9 all of these at once; returns what they were."""
    processes = broker.processes()
    victims = {pid: title for pid, title in processes.items() for name in names if name in title and pid != broker.pid}
    assert len(victims) >= len(names), processes
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    return victims


def whole(broker: Broker) -> bool:
    """Whether every fixed process is there, once."""
    return all(len(broker.pids(f"logeion[1] {name}")) == 1 for name in FIXED)


FIXED = ("admin", "logger", "supervisor", "controller", "node", "gateway")


@pytest.mark.parametrize("name", FIXED)
def test_serves_within_a_second_of_the_death_of_any_process(broker: Broker, name: str) -> None:
    victims = kill(broker, f"logeion[1] {name}")
    gone(victims)
    until(lambda: broker.serves() and whole(broker), SECOND, f"serving after the end of {name}\n{broker.tail()}")
    assert broker.process is not None and broker.process.poll() is None


def test_serves_within_a_second_of_the_death_of_all_processes_at_once(broker: Broker) -> None:
    victims = kill(broker, *(f"logeion[1] {name}" for name in FIXED))
    gone(victims)
    until(lambda: broker.serves() and whole(broker), SECOND, f"serving\n{broker.tail()}")


def test_the_death_of_the_command_takes_all_along_and_a_second_one_starts_at_once(broker: Broker) -> None:
    before = broker.processes()
    os.kill(broker.pid, signal.SIGKILL)
    assert broker.process is not None
    broker.process.wait()
    began = time.monotonic()
    broker.start()
    took = time.monotonic() - began
    gone(before, 0.1)
    assert broker.serves()
    assert took < SECOND, took


def test_no_process_outlives_the_command_by_a_second(broker: Broker) -> None:
    before = broker.processes()
    os.kill(broker.pid, signal.SIGKILL)
    gone(before, SECOND)


@pytest.mark.parametrize("name", ["controller", "node", "gateway", "supervisor", "admin"])
def test_a_real_fault_ends_a_process_instead_of_repeating_for_ever(broker: Broker, name: str) -> None:
    pid = broker.pid_of(f"logeion[1] {name}")
    title = broker.processes()[pid]
    os.kill(pid, signal.SIGSEGV)
    gone({pid: title})
    until(lambda: broker.serves() and whole(broker), SECOND, f"serving after the fault of {name}\n{broker.tail()}")


@pytest.mark.parametrize("name", ["controller", "node", "logger"])
def test_a_stopped_process_does_not_freeze_the_others(broker: Broker, name: str) -> None:
    pid = broker.pid_of(f"logeion[1] {name}")
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(20):
            assert broker.serves()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_stop_is_clean_and_quick_even_with_a_stopped_process(broker: Broker) -> None:
    os.kill(broker.pid_of("logeion[1] node"), signal.SIGSTOP)
    began = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly_and_leaves_no_process_and_no_socket(broker: Broker, number: signal.Signals) -> None:
    before = broker.processes()
    assert broker.stop(number) == 0
    gone(before, 0.0)
    assert not (broker.data / "run").exists() or not list((broker.data / "run").glob("*.sock"))


def test_a_second_signal_ends_it_now(broker: Broker) -> None:
    os.kill(broker.pid_of("logeion[1] controller"), signal.SIGSTOP)
    before = broker.processes()
    os.kill(broker.pid, signal.SIGTERM)
    until(lambda: not broker.pids("gateway"), 3.0)
    began = time.monotonic()
    os.kill(broker.pid, signal.SIGTERM)
    assert broker.process is not None
    assert broker.process.wait(5) == 0
    assert time.monotonic() - began < SECOND
    gone(before, 0.0)


def test_all_listeners_are_on_loopback(broker: Broker) -> None:
    listening = 0
    for pid in broker.processes():
        for connection in psutil.Process(pid).net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                listening += 1
                assert connection.laddr.ip in ("127.0.0.1", "::1"), (pid, connection)
    assert listening >= len(FIXED)


def test_children_hold_nothing_of_their_parents(broker: Broker) -> None:
    """A listener or a lane that a child inherited would keep accepting when its owner is dead."""
    owners: dict[str, list[str]] = {}
    for pid, title in broker.processes().items():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except FileNotFoundError:
                continue
            if target.startswith("socket:"):
                owners.setdefault(target, []).append(title)
    assert {socket_: titles for socket_, titles in owners.items() if len(titles) > 1} == {}


def test_a_second_up_on_the_same_data_is_refused_with_the_reason(broker: Broker) -> None:
    command = [sys.executable, "-m", "logeion", "up", "--port", "0", "--admin-port", "0", "--data", str(broker.data)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    assert second.returncode == 1
    assert f"pid {broker.pid}" in second.stderr and "try:" in second.stderr
    assert broker.serves()


def test_fresh_erases_only_a_directory_of_ours(tmp_path: Path) -> None:
    precious = tmp_path / "data" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years")
    command = [sys.executable, "-m", "logeion", "up", "--fresh", "--port", "0", "--admin-port", "0", "--data"]
    done = subprocess.run([*command, str(precious.parent)], capture_output=True, text=True, timeout=10)
    assert done.returncode == 1 and "try:" in done.stderr
    assert precious.read_text() == "years"


def test_a_taken_port_is_named_and_ends_the_command(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "logeion", "up", "--port", str(port), "--admin-port", "0", "--data"]
        done = subprocess.run([*command, str(tmp_path / "data")], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert str(port) in done.stderr and "try:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    """``logeion up | head -1``."""
    command = [sys.executable, "-m", "logeion", "up", "--port", "0", "--admin-port", "0", "--data"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "data")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(10) == 0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_pipe_behind_the_command_ends_with_it(tmp_path: Path) -> None:
    """``logeion up | cat``: nobody who outlives the command holds its standard output."""
    command = [sys.executable, "-m", "logeion", "up", "--port", "0", "--admin-port", "0", "--data"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "data")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.stdout.read()
    process.wait(5)
    process.stdout.close()


def test_the_ready_file_lists_what_runs(broker: Broker) -> None:
    details = broker.details["nodes"][0]
    assert broker.ready_file.read_text().split() == details["listeners"]
    titles = broker.processes()
    for actor in details["actors"]:
        assert actor["kind"] in titles[actor["pid"]]
    assert details["pid"] == broker.pid

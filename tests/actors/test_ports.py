"""Ports that commands choose: proved free, and never the same for two that choose at once."""

from __future__ import annotations

import random
import socket
import subprocess
import sys

import pytest

from logeion.actors import ports as module
from logeion.actors.ports import Ports
from logeion.wire.errors import ConfigError

ADDRESS = "127.0.0.1"


def test_a_row_is_free_and_has_none_of_the_others() -> None:
    ports = Ports()
    row = ports.row([ADDRESS, "::1"], 0, 5, set(), "--port")
    assert row == list(range(row[0], row[0] + 5))
    for _ in range(20):
        other = ports.row([ADDRESS], 0, 2, set(row), "--admin-port")
        assert not set(other) & set(row)
    with socket.socket() as sock:
        sock.bind((ADDRESS, row[0]))


def test_what_one_command_has_chosen_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Ports(), Ports()
    taken = first.row([ADDRESS], 0, 3, set(), "--port")
    # The second looks exactly there, and a port is listened on by nobody yet.
    spots = iter([*taken, taken[0] - 1, taken[2] + 1])
    monkeypatch.setattr(random, "randrange", lambda *_: next(spots))
    assert second.one(ADDRESS, "--port") in (taken[0] - 1, taken[2] + 1)


def test_a_row_that_meets_anothers_port_gives_back_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = Ports(), Ports(), Ports()
    (taken,) = first.row([ADDRESS], 0, 1, set(), "--port")
    spots = iter([taken - 1, taken + 1, taken - 1])
    monkeypatch.setattr(random, "randrange", lambda *_: next(spots))
    assert second.row([ADDRESS], 0, 2, set(), "--port") == [taken + 1, taken + 2]
    assert third.one(ADDRESS, "--port") == taken - 1


def test_a_port_asked_for_by_number_is_taken_whoever_marked_it() -> None:
    first, second = Ports(), Ports()
    (taken,) = first.row([ADDRESS], 0, 1, set(), "--port")
    assert second.row([ADDRESS], taken, 1, set(), "--port") == [taken]
    with pytest.raises(ConfigError, match="choose another --admin-port"):
        second.row([ADDRESS], taken, 1, {taken}, "--admin-port")


def test_a_port_somebody_listens_on_is_refused_by_its_address() -> None:
    with socket.create_server((ADDRESS, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{ADDRESS}:{port}"):
            Ports().row([ADDRESS], port, 1, set(), "--port")


def test_a_mark_ends_with_its_process_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from logeion.actors.ports import Ports; ports = Ports(); "
        f"print(ports.one('{ADDRESS}', '--port'), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        taken = int(holder.stdout.readline())
        spots = iter([taken, taken, taken])
        monkeypatch.setattr(random, "randrange", lambda *_: next(spots))
        monkeypatch.setattr(module, "PORT_TRIES", 1)
        with pytest.raises(ConfigError, match="found no port"):
            Ports().one(ADDRESS, "--port")
        holder.kill()
        holder.wait()
        assert Ports().one(ADDRESS, "--port") == taken

"""``logeion group`` against a real broker, as a shell runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.broker import running_broker, until
from tests.interop.members.driver import MemberProcess


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_broker(tmp_path_factory.mktemp("cli")) as broker:
        yield broker.bootstrap


def logeion(bootstrap: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "logeion", *arguments, "-b", bootstrap]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=40)


def shown(bootstrap: str, *arguments: str) -> Any:
    done = logeion(bootstrap, *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def topic_with(bootstrap: str, name: str, records: int) -> None:
    logeion(bootstrap, "topic", "create", name, "-p", "1")
    logeion(bootstrap, "produce", name, given="".join(f"{number}\n" for number in range(records)))


def test_a_group_is_listed_described_watched_reset_and_deleted(bootstrap: str, tmp_path: Path) -> None:
    topic_with(bootstrap, "orders", 10)
    options = {"bootstrap": bootstrap, "group": "billing", "topics": ["orders"]}
    member = MemberProcess.python("confluent", tmp_path / "member.err", **options)
    try:
        until(lambda: len(member.records) == 10, 20, member.story())
        member.commit()
        assert shown(bootstrap, "group", "ls") == [
            {"group": "billing", "kind": "classic", "state": "Stable", "protocol_type": "consumer"}
        ]
        described = shown(bootstrap, "group", "describe", "billing")
        assert (described["state"], described["members"], described["lag"]) == ("Stable", 1, 0)
        assert described["partitions"][0]["committed"] == 10 and described["partitions"][0]["host"] == "/127.0.0.1"
        (who,) = shown(bootstrap, "group", "members", "billing")
        assert who["partitions"] == [["orders", 0]] and who["member"] == described["partitions"][0]["member"]
        refused = logeion(bootstrap, "group", "reset", "billing", "--to-earliest", "--yes")
        assert refused.returncode == 1 and "has 1 members" in refused.stderr and "try: " in refused.stderr
        assert logeion(bootstrap, "group", "delete", "billing", "--yes").returncode == 1
        member.close()
    finally:
        member.end()
    logeion(bootstrap, "produce", "orders", given="more\n")
    assert shown(bootstrap, "group", "lag", "billing")[0]["lag"] == 1
    until(lambda: shown(bootstrap, "group", "describe", "billing")["state"] == "Empty", 10, "an empty group")

    def target(*how: str) -> int:
        return int(shown(bootstrap, "group", "reset", "billing", *how)["partitions"][0]["new"])

    assert [target("--to-earliest"), target("--to-latest"), target("--to-offset", "7")] == [0, 11, 7]
    assert [target("--shift-by", "-3"), target("--shift-by", "99"), target("--to-time", "2000-01-01")] == [7, 11, 0]
    assert shown(bootstrap, "group", "describe", "billing")["partitions"][0]["committed"] == 10, "only shown"
    assert logeion(bootstrap, "group", "reset", "billing", "--shift-by", "-3", "--yes").returncode == 0
    assert shown(bootstrap, "group", "describe", "billing")["partitions"][0]["committed"] == 7
    gone = logeion(bootstrap, "group", "delete", "billing", "--yes")
    assert (gone.returncode, gone.stdout) == (0, "deleted billing\n")
    assert shown(bootstrap, "group", "ls") == []
    assert logeion(bootstrap, "group", "delete", "billing", "--yes").returncode == 3
    assert logeion(bootstrap, "group", "describe", "billing").returncode == 3
    assert logeion(bootstrap, "group", "lag", "billing").returncode == 3


def test_a_reset_can_give_a_group_its_first_positions(bootstrap: str) -> None:
    topic_with(bootstrap, "fresh", 5)
    assert logeion(bootstrap, "group", "reset", "new", "-t", "fresh", "--to-offset", "3", "--yes").returncode == 0
    (row,) = shown(bootstrap, "group", "describe", "new")["partitions"]
    assert (row["committed"], row["end"], row["lag"]) == (3, 5, 2)


def test_one_way_to_reset_at_a_time(bootstrap: str) -> None:
    assert logeion(bootstrap, "group", "reset", "g", "--to-latest", "--to-earliest").returncode == 2
    assert logeion(bootstrap, "group", "reset", "g").returncode == 2
    assert logeion(bootstrap, "group", "reset", "g", "--to-time", "soon").returncode == 2

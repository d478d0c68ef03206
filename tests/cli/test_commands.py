"""The commands against a real broker, as a shell runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.broker import running_broker, until


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_broker(tmp_path_factory.mktemp("cli")) as broker:
        yield broker.bootstrap


def logeion(bootstrap: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "logeion", *arguments, "-b", bootstrap],
        input=given,
        capture_output=True,
        text=True,
        timeout=40,
    )


def test_lines_go_in_and_come_out_in_order(bootstrap: str) -> None:
    made = logeion(bootstrap, "topic", "create", "lines", "-p", "1")
    assert (made.returncode, made.stdout) == (0, "created lines with 1 partition\n")
    text = "".join(f"line {number}\n" for number in range(2000))
    sent = logeion(bootstrap, "produce", "lines", "-z", "lz4", given=text)
    assert (sent.returncode, sent.stdout, sent.stderr) == (0, "", "2000 records -> lines\n")
    assert logeion(bootstrap, "consume", "lines").stdout == text
    assert logeion(bootstrap, "consume", "lines", "-n", "2", "--from", "5").stdout == "line 5\nline 6\n"
    assert logeion(bootstrap, "consume", "lines", "--from", "-1").stdout == "line 1999\n"
    assert logeion(bootstrap, "consume", "lines", "--from", "end").stdout == ""
    assert logeion(bootstrap, "consume", "lines", "--from", "@2000-01-01", "-n", "1").stdout == "line 0\n"
    assert logeion(bootstrap, "consume", "lines", "--from", "@2999-01-01").stdout == ""
    beyond = logeion(bootstrap, "consume", "lines", "--from", "9999")
    assert beyond.returncode == 1 and "is not between 0 and 2000" in beyond.stderr


def test_json_keeps_key_null_headers_and_timestamp(bootstrap: str) -> None:
    logeion(bootstrap, "topic", "create", "objects", "-p", "3")
    line = {"key": "ada", "value": None, "headers": [["h", "1"], ["n", None]], "partition": 2, "timestamp": 1234}
    sent = logeion(bootstrap, "produce", "objects", "--input", "json", "-o", "json", given=json.dumps(line))
    assert json.loads(sent.stdout) == {"topic": "objects", "records": 1, "failed": 0}
    read = json.loads(logeion(bootstrap, "consume", "objects", "-o", "json").stdout)
    assert {name: read[name] for name in line} == line
    wrong = logeion(bootstrap, "produce", "objects", "--input", "json", given='{"valu": 1}')
    assert wrong.returncode == 1 and "line 1" in wrong.stderr and "try: " in wrong.stderr


def test_a_record_that_is_refused_makes_produce_fail(bootstrap: str) -> None:
    logeion(bootstrap, "topic", "create", "small", "-p", "1", "-c", "max.message.bytes=200")
    sent = logeion(bootstrap, "produce", "small", given="x" * 1000 + "\n")
    assert sent.returncode == 1
    assert "not published: 1 of 1 records" in sent.stderr and "try: " in sent.stderr


def test_a_topic_is_described_configured_grown_and_deleted(bootstrap: str) -> None:
    logeion(bootstrap, "topic", "create", "life", "-p", "2")
    assert logeion(bootstrap, "topic", "create", "life").returncode == 1
    assert logeion(bootstrap, "topic", "config", "life", "--set", "retention.ms=99").returncode == 0
    values = json.loads(logeion(bootstrap, "topic", "config", "life", "-o", "json").stdout)
    assert {"name": "retention.ms", "value": "99", "source": "topic"} in values
    assert logeion(bootstrap, "topic", "config", "life", "--set", "retention.ms=abc").returncode == 1
    assert logeion(bootstrap, "topic", "grow", "life", "4").returncode == 0
    assert logeion(bootstrap, "topic", "grow", "life", "1").returncode == 1

    def described() -> Any:
        return json.loads(logeion(bootstrap, "topic", "describe", "life", "-o", "json").stdout)

    until(lambda: [p["leader"] for p in described()["partitions"]] == [1] * 4, 10, "four leaders")
    assert "life" in logeion(bootstrap, "topic", "ls").stdout
    gone = logeion(bootstrap, "topic", "delete", "life", "no-such-topic", "--yes")
    assert (gone.returncode, gone.stdout) == (3, "deleted life\n")
    assert logeion(bootstrap, "topic", "describe", "life").returncode == 3


def test_a_topic_that_is_not_there_is_3(bootstrap: str) -> None:
    assert logeion(bootstrap, "consume", "nowhere", "--timeout", "1").returncode == 3
    assert logeion(bootstrap, "topic", "config", "nowhere").returncode == 3


def test_actors_have_the_fields_that_were_promised(bootstrap: str) -> None:
    logeion(bootstrap, "topic", "create", "watched", "-p", "2")

    def watched() -> list[dict[str, Any]]:
        found = json.loads(logeion(bootstrap, "actors", "-o", "json").stdout)
        assert {actor["kind"] for actor in found} >= {"supervisor", "node", "controller", "gateway"}
        return [actor for actor in found if actor["topic"] == "watched" and actor["state"] == "running"]

    until(lambda: len(watched()) == 2, 10, "two running partitions")
    for number, actor in enumerate(sorted(watched(), key=lambda actor: str(actor["id"]))):
        assert actor["id"] == f"partition/watched-{number}"
        assert (actor["kind"], actor["partition"], actor["node"], actor["restarts"]) == ("partition", number, 1, 0)
        assert psutil.pid_exists(actor["pid"]) and actor["epoch"] >= 0
    assert "partition/watched-1" in logeion(bootstrap, "actors").stdout


def test_a_reader_that_has_seen_enough_ends_it_quietly(bootstrap: str) -> None:
    logeion(bootstrap, "topic", "create", "long", "-p", "1")
    logeion(bootstrap, "produce", "long", given="x" * 100 + "\n" + "y" * 1_000_000)
    command = f"{sys.executable} -m logeion consume long --follow --from start -b {bootstrap} | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=40
    )
    assert (done.stdout, done.stderr) == ("x" * 10 + "0\n", "")


def hears_ctrl_c() -> None:
    """As from a terminal: a suite that a shell runs in the background is started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_a_follower_with_130_and_no_traceback(bootstrap: str) -> None:
    logeion(bootstrap, "topic", "create", "followed", "-p", "1")
    logeion(bootstrap, "produce", "followed", given="first\n")
    follower = subprocess.Popen(
        [sys.executable, "-m", "logeion", "consume", "followed", "--follow", "--from", "start", "-b", bootstrap],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hears_ctrl_c,
    )
    assert follower.stdout is not None and follower.stderr is not None
    assert follower.stdout.readline() == b"first\n"
    follower.send_signal(signal.SIGINT)
    assert follower.wait(20) == 130
    assert follower.stderr.read().strip() == b""


def test_the_demo_loses_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "logeion", "demo", "--lines", "20000"], capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr
    assert "kill -9" in done.stdout and "lost 0, doubled 0, out of order or changed 0" in done.stdout


def test_ctrl_c_in_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "logeion", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hears_ctrl_c,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert demo.stdout is not None and demo.stderr is not None
    assert b"3 nodes ready" in demo.stdout.readline()
    below = psutil.Process(demo.pid).children(recursive=True)
    assert below
    demo.send_signal(signal.SIGINT)
    assert demo.wait(30) == 130
    assert demo.stderr.read().strip() == b""
    until(lambda: not any(process.is_running() for process in below), 5, "no process left")
    assert list(tmp_path.iterdir()) == []

"""What needs no broker: help, usage errors, exit codes, and how failures are told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from logeion.cli.common import as_cli_error
from logeion.cli.main import COMMANDS, main
from logeion.client.errors import ConnectError, DeadlineError
from logeion.errors import ClusterAuthorizationFailedError, MessageTooLargeError, UnknownTopicOrPartitionError


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(command, "--help", capsys=capsys)
    assert code == 0 and "Usage: logeion " + command in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["topci"],
        ["--nonsense"],
        ["topic", "create"],
        ["topic", "create", "t", "-c", "novalue"],
        ["topic", "grow", "t", "0"],
        ["consume", "t", "--from", "yesterday"],
        ["consume", "t", "--from", "@yesterday"],
        ["produce", "t", "no-such-file"],
        ["actors", "-o", "xml"],
    ],
)
def test_wrong_usage_is_2_with_a_cause_and_a_way_out(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(*arguments, capsys=capsys)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and "\ntry: logeion" in err


def test_a_misspelled_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'topic'?" in run("topci", capsys=capsys)[2]


def test_a_broker_that_is_not_there_is_5(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("topic", "ls", "-b", "127.0.0.1:1", "--timeout", "5", capsys=capsys)
    assert code == 5
    assert err.splitlines() == [
        "error: cannot connect to 127.0.0.1:1 (known from bootstrap): Connection refused",
        "try: start a broker with `logeion up`, or name one with -b HOST:PORT",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownTopicOrPartitionError("x"), 3),
        (DeadlineError("x"), 4),
        (ConnectError("a", "b", "c", "d"), 5),
        (ClusterAuthorizationFailedError("x"), 6),
        (MessageTooLargeError("x"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert as_cli_error(error).exit_code == code


def test_help_loads_neither_client_nor_broker_and_is_quick() -> None:
    script = (
        "import sys\n"
        "sys.argv = ['logeion', '--help']\n"
        "try:\n    from logeion.cli.main import main; main()\n"
        "except SystemExit: pass\n"
        "heavy = ('asyncio', 'rich', 'msgspec', 'thespian', 'logeion.client', 'logeion.wire', 'uvicorn')\n"
        "print(sorted(name for name in heavy if name in sys.modules), file=sys.stderr)\n"
    )
    best = 10.0
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        best = min(best, time.monotonic() - started)
        assert done.stderr == "[]\n", done.stderr
    # 150 ms is the aim on a quiet machine; this bound only catches something heavy that was let in.
    assert best < 0.6


def test_python_m_logeion_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "logeion", "--version"], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0 and done.stdout.startswith("logeion ")

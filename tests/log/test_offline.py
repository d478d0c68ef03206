"""``logeion log dump|verify``: reads without a lock, tells every kind of damage by file and byte, exits as promised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from logeion.cli.log import log as command
from logeion.log.verify import verify
from tests.log.world import append, open_log


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A log of several segments, still open."""
    directory = tmp_path / "orders-0"
    log = open_log(None, directory, segment_bytes=1_000)
    log.become_leader(1)
    for number in range(20):
        append(
            log,
            b"value %02d" % number * 8,
            None,
            codec=number % 2,
            producer=(5, 0, 2 * number),
            timestamp=1_000 * number,
        )
    log.become_leader(2)
    append(log, b"last", timestamp=30_000)
    log.sync()
    log.advance_high_watermark(log.end_offset)
    yield directory
    log.close(clean=False)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_a_whole_log_verifies_while_it_is_open(directory: Path) -> None:
    result = _run("verify", str(directory))
    assert result.exit_code == 0, result.output
    assert "offsets 0 to 41, 41 records in 21 batches" in result.output
    report = msgspec.json.decode(_run("verify", str(directory), "-o", "json").stdout)
    assert (report["batches"], report["problems"], report["notes"]) == (21, [], [])


def test_dump_shows_every_batch_and_on_request_every_record(directory: Path) -> None:
    rows = msgspec.json.decode(_run("dump", str(directory), "-o", "json", "--records").stdout)
    assert [row["base_offset"] for row in rows] == [*range(0, 40, 2), 40]
    assert rows[3]["codec"] == "gzip" and rows[3]["producer_id"] == 5 and rows[20]["leader_epoch"] == 2
    assert rows[3]["records"][0]["value"] == "value 03" * 8 and rows[3]["records"][1]["value"] is None
    table = _run("dump", str(directory))
    assert table.exit_code == 0 and len(table.output.splitlines()) == 22


def test_a_torn_end_is_a_note_not_damage(directory: Path) -> None:
    last = sorted(directory.glob("*.log"))[-1]
    last.write_bytes(last.read_bytes()[:-5])
    result = _run("verify", str(directory))
    assert result.exit_code == 0 and "is incomplete" in result.output
    assert _run("dump", str(directory)).exit_code == 0


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def _first(directory: Path, pattern: str) -> Path:
    return sorted(directory.glob(pattern))[0]


@pytest.mark.parametrize(
    "pattern,damage,what",
    [
        ("*.log", lambda path: _flip(path, 100), "CRC"),
        ("*.log", lambda path: _flip(path, 16), "magic"),
        ("*.log", lambda path: path.write_bytes(path.read_bytes()[:-5]), "incomplete"),
        ("*.index", lambda path: _flip(path, 7), "not at byte"),
        ("*.index", lambda path: path.unlink(), "missing"),
        ("*.timeindex", lambda path: _flip(path, 5), "out of order"),
        ("*.snapshot", lambda path: _flip(path, 12), "CRC"),
        ("leader-epoch-checkpoint", lambda path: path.write_text("0\n2\n1 0\n2 6\n"), "epoch 1"),
        ("leader-epoch-checkpoint", lambda path: path.write_text("nonsense"), "not a leader epoch checkpoint"),
    ],
)
def test_damage_is_told_by_file_and_exits_with_1(
    directory: Path, pattern: str, damage: Callable[[Path], None], what: str
) -> None:
    path = _first(directory, pattern)
    damage(path)
    result = _run("verify", str(directory))
    assert result.exit_code == 1, result.output
    assert str(path) in result.output and what in result.output
    assert result.stderr.startswith("error: ") and "\ntry: " in result.stderr
    assert verify(directory).problems[0].path == str(path)


def test_dump_of_a_damaged_log_shows_what_comes_before_and_exits_with_1(directory: Path) -> None:
    path = _first(directory, "*.log")
    _flip(path, path.stat().st_size // 2)
    _flip(path, 16 + 12 + int.from_bytes(path.read_bytes()[8:12], "big"))
    result = _run("dump", str(directory), "-o", "json")
    assert result.exit_code == 1
    rows = msgspec.json.decode(result.stdout)
    assert str(path) in rows[1]["error"]


def test_a_cut_is_accepted_only_where_a_sync_failed(directory: Path) -> None:
    result = _run("accept-cut", str(directory), "--yes")
    assert result.exit_code == 1 and "no sync has failed" in result.stderr
    (directory / "storage-failed").write_bytes(b'{"cause":"EIO","synced_end":10,"boot_id":"x","version":0}')
    result = _run("accept-cut", str(directory), "--yes")
    assert result.exit_code == 1 and "in use" in result.stderr


def test_an_accepted_cut_ends_at_the_last_synced_offset(tmp_path: Path) -> None:
    directory = tmp_path / "orders-0"
    log = open_log(None, directory)
    log.become_leader(1)
    for _ in range(5):
        append(log, b"a", b"b")
    log.close()
    (directory / "storage-failed").write_bytes(b'{"cause":"EIO","synced_end":6,"boot_id":"x","version":0}')
    result = _run("accept-cut", str(directory), "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{directory} ends at offset 6 now\n"
    again = open_log(None, directory)
    assert again.end_offset == 6
    again.close()


@pytest.mark.parametrize("name", ["dump", "verify"])
def test_what_is_not_there_exits_with_3(tmp_path: Path, name: str) -> None:
    for directory in (tmp_path / "nothing", tmp_path):
        result = _run(name, str(directory))
        assert result.exit_code == 3
        assert str(directory) in result.stderr and "\ntry: " in result.stderr

"""The examples of docs/examples, each by its one command, against a broker they start themselves."""

from __future__ import annotations

import os
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from logeion.testing import Broker

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def run(name: str, *arguments: str) -> str:
    """What it printed; it must succeed."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=50, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_of_them_are_listed_and_run_here() -> None:
    listed = set(re.findall(r"`python (\w+\.py)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}
    text = Path(__file__).read_text()
    assert all(f'run("{name}"' in text for name in listed)


def test_a_csv_export_becomes_events_for_several_readers(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    rows = "".join(f"{n},customer{n % 7},thing{n % 3},{n}.50\n" for n in range(1, 201))
    file.write_text("order,customer,product,amount\n" + rows)
    said = run("csv_events.py", str(file))
    assert "exported 200 new orders\nexported 0 new orders the second time\n" in said
    assert sum(int(count) for count in re.findall(r"(\d+) x thing", said)) == 200
    assert len(re.findall(r"^shipping: ", said, re.MULTILINE)) == 200


def test_a_query_that_was_submitted_and_never_finished_is_found() -> None:
    said = run("query_crashes.py")
    assert len(re.findall(r"^crashed db-\d+: 'select crash\(\)'", said, re.MULTILINE)) == 2
    assert said.count("crashed ") == 2


def test_votes_are_counted_exactly_through_a_crash() -> None:
    said = run("likes.py", "--users", "5000")
    assert "the counter ended with -9 after 2500 votes" in said
    likes, dislikes = re.findall(r"(\d+) like it, (\d+) do not", said)[0]
    assert int(likes) + int(dislikes) == 5000


def test_each_runs_again_with_the_same_broker(logeion_broker: Broker) -> None:
    bootstrap = logeion_broker.bootstrap
    for _ in range(2):
        assert "like it" in run("likes.py", "--users", "200", "--bootstrap", bootstrap)
    assert "1 mail sent\n0 mails sent" in run("alert_digest.py", "--bootstrap", bootstrap)
    # These minutes are done: what comes of them now is late.
    assert "0 mail sent\n0 mails sent" in run("alert_digest.py", "--bootstrap", bootstrap)


class Mails(socketserver.StreamRequestHandler):
    """As much of SMTP as one mail needs."""

    received: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline():
            command = line.split()[0].upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.received.append(b"".join(lines).decode())
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")


@pytest.fixture
def mail_server() -> Iterator[tuple[str, list[str]]]:
    received: list[str] = []
    handler = type("Handler", (Mails,), {"received": received})
    with socketserver.TCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def test_too_many_failures_are_one_mail(mail_server: tuple[str, list[str]]) -> None:
    address, received = mail_server
    said = run("alert_digest.py", "--smtp", address)
    assert "1 mail sent\n0 mails sent when nothing was new\n" in said
    assert len(received) == 1
    assert "minute 3: shop failed 4" in received[0] and "minute 7: mail failed 4" in received[0]
    assert len(re.findall(r"^minute ", received[0], re.MULTILINE)) == 2

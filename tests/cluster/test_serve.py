"""``logeion serve``: what it refuses, and in which words."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.broker import running_broker

SECRET = "a secret that is long enough\n"
VOTERS = 'voters = ["1@10.77.0.1:9645", "2@10.77.0.2:9645", "3@10.77.0.3:9645"]'


def serve(folder: Path, text: str, secret: str | None = SECRET, mode: int = 0o600) -> subprocess.CompletedProcess[str]:
    if secret is not None:
        path = folder / "secret"
        path.write_text(secret)
        path.chmod(mode)
    (folder / "node.toml").write_text(text.replace("SECRET", str(folder / "secret")))
    command = [sys.executable, "-m", "logeion", "serve", "--config", str(folder / "node.toml")]
    return subprocess.run([*command, "--data", str(folder / "data")], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[node]\nid = 1\n[cluster]\n{VOTERS}\n", ["cluster.secret_file", "to make one", "umask 077"]),
        (f'[cluster]\n{VOTERS}\nsecret_file = "SECRET"\n', ["node.id is not set"]),
        (f'[node]\nid = 1\n[cluster]\n{VOTERS}\nsecret_file = "SECRET"\n', ["10.77.0.1", "cluster.bind is 127.0.0.1"]),
        (
            f'[node]\nid = 1\n[cluster]\n{VOTERS}\nsecret_file = "SECRET"\nbind = "10.77.0.1"\nport = 7\n',
            ["cluster port is 9645", "cluster.port is 7"],
        ),
        (
            f'[node]\nid = 4\n[cluster]\n{VOTERS}\nsecret_file = "SECRET"\nbind = "0.0.0.0"\n',
            ["every address", "cluster.advertise"],
        ),
        (
            f'[node]\nid = 1\n[cluster]\n{VOTERS}\nsecret_file = "SECRET"\nbind = "0.0.0.0"\n'
            '[listeners]\nbind = ["0.0.0.0"]\n',
            ["listeners.bind", "listeners.advertise"],
        ),
        ('[cluster]\nsecret_file = "SECRET"\n', ["cluster.voters", "names none"]),
        ('[cluster]\nadvertise = "10.0.0.1"\n', ["cluster.voters", "names none"]),
        ('[listeners]\nbind = ["127.0.0.1", "10.77.0.1"]\n', ["listeners.bind has 10.77.0.1", "cluster.secret_file"]),
        ('[listeners]\nbind = ["0.0.0.0"]\nadvertise = "10.77.0.1:9092"\n', ["listeners.bind", "other hosts reach"]),
        ('[http]\nbind = ["::"]\n', ["http.bind has ::", "cluster.secret_file"]),
        ('[cluster]\nbind = "10.77.0.1"\n', ["cluster.bind has 10.77.0.1", "cluster.secret_file"]),
        (
            f'[node]\nid = 1\n[cluster]\n{VOTERS}\nsecret_file = "/nowhere/secret"\n',
            ["/nowhere/secret", "No such file"],
        ),
    ],
)
def test_what_cannot_be_a_node_of_a_cluster_is_refused_with_its_cause(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    done = serve(tmp_path, text)
    assert done.returncode == 1, done
    first, second = done.stderr.splitlines()
    assert first.startswith("logeion: ") and second.startswith("try: ")
    for word in words:
        assert word in first
    assert not (tmp_path / "data").exists(), "refused before anything is made"


@pytest.mark.parametrize(("secret", "mode", "word"), [(SECRET, 0o644, "chmod 600"), ("short", 0o600, "16 to 4096")])
def test_a_secret_that_is_none_is_refused(tmp_path: Path, secret: str, mode: int, word: str) -> None:
    text = f'[node]\nid = 1\n[cluster]\n{VOTERS}\nsecret_file = "SECRET"\nbind = "10.77.0.1"\n'
    done = serve(tmp_path, text, secret, mode)
    assert done.returncode == 1 and word in done.stderr
    assert secret.strip() not in done.stderr.replace(str(tmp_path), "")


def test_what_to_do_about_a_missing_secret_is_said(tmp_path: Path) -> None:
    done = serve(tmp_path, '[listeners]\nbind = ["0.0.0.0"]\n', secret=None)
    hint = done.stderr.splitlines()[1]
    for word in ("cluster.voters", "cluster.secret_file", "0600", "logeion up --bind"):
        assert word in hint


def test_a_node_of_one_machine_may_be_opened_on_purpose(tmp_path: Path) -> None:
    with running_broker(tmp_path, "--bind", "0.0.0.0") as broker:
        port = broker.bootstrap.rpartition(":")[2]
        with socket.create_connection(("127.0.0.1", int(port)), 5):
            pass


def test_a_file_is_needed() -> None:
    done = subprocess.run([sys.executable, "-m", "logeion", "serve"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "--config" in done.stderr

"""Nodes as a child process, for the demo: started on free ports, stopped without a trace."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .common import CliError

READY_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0


class RunningBroker(NamedTuple):
    """``bootstrap`` is host:port, ``details`` what ``logeion up --ready-file`` wrote as JSON."""

    bootstrap: str
    details: dict[str, Any]
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def running_up(folder: Path, *arguments: str) -> Iterator[RunningBroker]:
    """``logeion up`` on data and any free ports below ``folder``, ready; stopped by SIGTERM, if need be by SIGKILL.

    Raises CliError with the last of its log if it does not get ready.
    """
    ready, log = folder / "ready", folder / "up.log"
    ready.unlink(missing_ok=True)
    command: Sequence[str] = [
        sys.executable, "-m", "logeion", "up", "--port", "0", "--admin-port", "0",
        "--data", str(folder / "data"), "--ready-file", str(ready), *arguments,
    ]  # fmt: skip
    with log.open("ab") as output:
        # A session of its own: Ctrl-C is meant for us, and we stop it in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until = time.monotonic() + READY_WITHIN_S
        details = ready.with_name("ready.json")
        while not (ready.exists() and details.exists()):
            if process.poll() is not None or time.monotonic() > until:
                last = log.read_text(errors="replace").splitlines()[-3:]
                raise CliError(f"the broker did not get ready: {' | '.join(last)}", f"see {log}")
            time.sleep(0.01)
        yield RunningBroker(ready.read_text().split()[0], json.loads(details.read_text()), process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

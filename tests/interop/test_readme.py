"""The README's commands and its program are run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.tools import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_commands_and_the_program_of_the_readme_do_what_it_says(
    bootstrap: str, topic_name: str, make_topic: Callable[..., str]
) -> None:
    (program,) = [block for block in blocks("python") if "KafkaProducer" in block]
    (session,) = [block for block in blocks("console") if "logeion produce" in block]
    topic = make_topic()
    printed = ""
    for line in session.splitlines():
        if not line.startswith("$ ") or "topic create" in line:
            continue
        if "logeion actors" in line and "KAFKA_BOOTSTRAP" in os.environ:
            continue  # another broker has none
        command = line[2:].replace("greetings", topic).replace("logeion ", f"{BIN}/logeion ", 1)
        done = subprocess.run(f"{command} -b {bootstrap}", shell=True, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        printed += done.stdout
    assert "hello\n" in printed
    assert "KAFKA_BOOTSTRAP" in os.environ or f"partition/{topic}-0" in printed
    program = program.replace("localhost:9092", bootstrap).replace("greetings", topic)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout == "b'hello'\n", done.stderr

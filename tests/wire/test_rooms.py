"""What importing the wire may load, and how it may catch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import logeion
from logeion.wire import errors

WIRE = Path(logeion.__file__).parent / "wire"


@pytest.mark.parametrize("module", ["logeion", "logeion.wire.codec", "logeion.wire.records", "logeion.log"])
def test_importing_a_lower_room_loads_neither_asyncio_nor_the_client(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "logeion.client", "logeion.actors", "thespian", "click"} & set(loaded)


def test_public_names_are_there_when_asked_for() -> None:
    for name in logeion.__all__:
        assert getattr(logeion, name) is not None
        assert name in dir(logeion)
    assert logeion.KafkaError is errors.KafkaError
    with pytest.raises(AttributeError):
        _ = logeion.nonsense


def test_the_wire_catches_nothing_broadly() -> None:
    for path in WIRE.rglob("*.py"):
        found = re.findall(r"except\s*(?:\(?\s*(?:Base)?Exception\b.*)?:", path.read_text())
        assert not found, path

"""Outside tools that some tests need (kcat, node, a JDK, root): absent, the test is skipped and says why.

With LOGEION_REQUIRE_ALL=1, as in `.ci/run`, an absent tool is a failure: a suite that skips what it cannot run is
green for nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"


def missing(reason: str) -> NoReturn:
    """Skip this test for a reason that a person can act on, or fail it where everything is required."""
    if os.environ.get("LOGEION_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (LOGEION_REQUIRE_ALL=1)", pytrace=False)
    pytest.skip(reason)


def require_tool(command: str, try_: str) -> str:
    """The path of a command, or a skip that says how to get it: `require_tool("kcat", "apt-get install kcat")`."""
    found = shutil.which(command)
    if found is None:
        missing(f"{command} is not installed; try: {try_}")
    return found


def require_file(path: Path, try_: str) -> Path:
    """A file that a make target fetches, or a skip that names the target."""
    if not path.exists():
        missing(f"{path} is not there; try: {try_}")
    return path


def require_root() -> None:
    if os.geteuid() != 0:
        missing("needs root; try: sudo make test")

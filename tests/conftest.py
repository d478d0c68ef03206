"""What holds for every test: the rooms are imported by one name only."""

from __future__ import annotations

import sys
from typing import Any

import pytest

# `import actors` or `import client` would load a second copy of every class, and nothing would compare equal.
ROOT_NAMES = ("actors", "client")
IMPORTED = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[IMPORTED] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended: take over what it imported, for its own exit status is not looked at."""
    node.config.stash[IMPORTED].update(getattr(node, "workeroutput", {}).get("root_names", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.config.stash[IMPORTED]
    found.update(name for name in ROOT_NAMES if name in sys.modules)
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["root_names"] = sorted(found)
    elif found:
        for name in sorted(found):
            print(f"\na test imported {name}: write `import logeion.{name}`", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

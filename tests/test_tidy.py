"""House rules that a machine can check, so that nobody has to remember them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("actors", "client", "logeion")
MAX_LINES = 650  # a file past 500 is asked why; past this it is two files

# Where a broad catch is the design: it logs once and ends the process, the command or the one request. In the client,
# what the program's own callbacks and partitioners raise is theirs alone, and a defect fails the batch it is about.
MAY_CATCH_ALL = re.compile(
    r"actors/(runtime|supervisor|thespian_traps)\.py|logeion/cli/(main|errors|up)\.py"
    r"|client/(deliveries|sender|sync_producer)\.py"
)


@cache
def sources() -> tuple[Path, ...]:
    """Python files git knows or would know, without what lies behind the two room links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted(set(listed.stdout.split("\0")) - {""})
    return tuple(Path(name) for name in names if (ROOT / name).is_file())


@cache
def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path), str(path))


def in_product(path: Path) -> bool:
    return path.parts[0] in PRODUCT


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(tree_of(path))


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")  # tidy: the rule itself
    left = [
        f"{path}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if marks.search(line) and "# tidy:" not in line
    ]
    assert left == []


def test_no_method_of_the_product_only_says_that_it_is_not_written() -> None:
    unwritten = [
        f"{path}:{node.lineno}"
        for path in sources()
        if in_product(path)
        for node in nodes(path)
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc)
    ]
    assert unwritten == []


def test_files_stay_short_enough_to_read() -> None:
    long = [f"{path}: {count}" for path in sources() if (count := text_of(path).count("\n")) > MAX_LINES]
    assert long == []


def test_tests_wait_for_conditions_and_never_for_luck() -> None:
    """A sleep belongs in a loop that looks at a condition again; one in straight-line code hopes.

    What must not happen can only be given time not to: such a sleep says so. How long a fault lasts is not luck either;
    those who commit faults and make load are no tests.
    """
    lucky = []
    for path in sources():
        if path.parts[0] != "tests" or not path.name.startswith(("test_", "conftest")):
            continue
        polling = {
            id(inner)
            for loop in nodes(path)
            if isinstance(loop, ast.While | ast.For | ast.AsyncFor)
            for inner in ast.walk(loop)
        }
        for node in nodes(path):
            if not isinstance(node, ast.Call) or id(node) in polling:
                continue
            sleeps = ast.unparse(node.func) in ("time.sleep", "asyncio.sleep", "sleep")
            sleeps = sleeps and ast.unparse(node.args[0]) != "0"
            if sleeps and "# nothing may happen" not in text_of(path).splitlines()[node.lineno - 1]:
                lucky.append(f"{path}:{node.lineno}")
    assert lucky == []


def test_only_the_shell_catches_everything() -> None:
    broad = [
        f"{path}:{node.lineno}"
        for path in sources()
        if in_product(path) and not MAY_CATCH_ALL.match(str(path))
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
    ]
    assert broad == []


MACHINES = {
    "socket",
    "asyncio",
    "time",
    "random",
    "os",
    "threading",
    "secrets",
    "subprocess",
    "select",
    "selectors",
    "datetime",
}


def test_machines_import_no_input_output_clock_or_chance() -> None:
    impure = []
    for path in sources():
        if path.parts[0] != "actors" or path.name != "machine.py":
            continue
        for node in nodes(path):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            impure += [f"{path}:{node.lineno}: {name}" for name in names if name.split(".")[0] in MACHINES]
    assert impure == []


@pytest.mark.parametrize("room", ["actors", "client"])
def test_a_room_refuses_to_be_imported_by_its_folder_name(room: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"import logeion.{room}" in done.stderr

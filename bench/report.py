"""How a measurement is told: a markdown table for people, a JSON line under bench/results/ for later comparisons."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    java = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "java": java[0] if java else None,
    }


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()

    # From the top, and without the results: the run before may just have added a line.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/results")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table, its columns aligned for reading as text too."""
    cells = [[show(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "| " + " | ".join("-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)) + " |"
    )
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def show(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.3f}"


def median(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return statistics.median(kept) if kept else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Ours over theirs, where both were measured."""
    return ours / theirs if ours is not None and theirs else None


def append(name: str, parameters: dict[str, Any], result: Any) -> Path:
    """Add a line to bench/results/NAME.jsonl."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    entry = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join(["python -m", f"bench.{name}", *sys.argv[1:]]),
        "machine": machine(),
        "parameters": parameters,
        "result": result,
    }
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
    return path


def heading(title: str) -> str:
    about = machine()
    return (
        f"### {title}\n\n{datetime.date.today().isoformat()}, commit {commit()}, {about['cpu']}, "
        f"{about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}, Python {about['python']}, "
        f"{about['java']}\n"
    )

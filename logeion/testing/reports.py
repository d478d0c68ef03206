"""What is attached to the report of a failed test: the broker's log, the topics' last records, the actors."""

from __future__ import annotations

from typing import Any

from .running import Running

RECORDS_SHOWN = 10
COLUMNS = ("node", "id", "kind", "pid", "epoch", "state", "restarts")


def sections(broker: Running, log_at: int) -> list[tuple[str, str]]:
    """(title, text) of each; the log from byte ``log_at`` on. What cannot be had says why in its text."""
    return [
        (f"logeion {broker.title} log", broker.log_text(log_at) or "(nothing since the test began)"),
        ("logeion topics", broker.dump(RECORDS_SHOWN)),
        ("logeion actors", _tree(broker)),
    ]


def _tree(broker: Running) -> str:
    try:
        actors = broker.actors()
    except OSError as error:
        return f"(not to be had: {error})"
    columns = [column for column in COLUMNS if any(column in actor for actor in actors)]
    rows = [columns, *([_cell(actor.get(column)) for column in columns] for actor in actors)]
    for at, row in enumerate(rows[1:]):
        # Every supervisor comes before what it has started.
        if actors[at].get("kind") != "supervisor" and "id" in columns:
            last = at + 1 == len(actors) or actors[at + 1].get("kind") == "supervisor"
            row[columns.index("id")] = ("└─ " if last else "├─ ") + row[columns.index("id")]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cell(value: Any) -> str:
    return "" if value is None else str(value)

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from . import fuzz
from .samples import SLOTS


def test_seed_frames_are_valid() -> None:
    assert {fuzz.feed(kind, raw) for kind, raw in fuzz.seeds()} <= {"decoded"}
    assert len(fuzz.seeds()) == 5 + len(SLOTS)


def test_damaged_frames_raise_wire_errors_only() -> None:
    outcomes: Counter[str] = Counter()
    for block in range(20):
        outcomes += fuzz.run_block(2026, block)[0]
    assert outcomes.total() == 20_000
    # Most damage is noticed, some makes another valid frame, and each kind of notice is met.
    assert outcomes["decoded"] < 10_000
    assert {"TruncatedError", "MalformedError", "UnknownApiError", "UnknownVersionError"} < set(outcomes)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    state, results = tmp_path / "state", tmp_path / "results.jsonl"
    common = ["--seed", "5", "--resume", str(state), "--results", str(results)]
    fuzz.main(["--frames", "1000", *common])
    fuzz.main(["--frames", "2000", *common])
    whole = fuzz.run_block(5, 0)[0] + fuzz.run_block(5, 1)[0]
    assert [json.loads(line)["block"] for line in state.read_text().splitlines()] == [0, 1]
    assert json.loads(results.read_text().splitlines()[1])["outcomes"] == dict(whole)

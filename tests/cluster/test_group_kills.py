"""A killed Coordinator comes back with its members, and nothing that was committed is lost or moved back."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.broker import running_broker
from tests.cluster.group_kills import run


def test_ten_deaths_of_a_coordinator_under_load_cost_nobody_anything(tmp_path: Path) -> None:
    with running_broker(tmp_path / "broker") as broker:
        outcome = run(broker, tmp_path, kills=10, seed=1)
    assert outcome.verdicts == []
    assert outcome.rebalances == 0 and outcome.generations == 1, "a stable member was expelled"
    assert outcome.records > 100 and outcome.commits > 20
    assert outcome.longest_s < 3.0

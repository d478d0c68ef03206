"""A killed Coordinator comes back with its members, and nothing that was committed is lost or moved back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.group_kills import group_broker, run


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_ten_deaths_of_a_coordinator_under_load_cost_nobody_anything(protocol: str, tmp_path: Path) -> None:
    with group_broker(tmp_path) as broker:
        outcome = run(broker, tmp_path, kills=10, seed=1, protocol=protocol)
    assert outcome.verdicts == []
    assert outcome.rebalances == 0 and outcome.generations == 1, "a stable member was expelled"
    assert outcome.records > 100 and outcome.commits > 20
    assert outcome.longest_s < 5.0


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_come_leave_and_die_while_their_coordinator_does(protocol: str, tmp_path: Path) -> None:
    with group_broker(tmp_path) as broker:
        outcome = run(broker, tmp_path, kills=5, seed=2, protocol=protocol, churn=True)
    assert outcome.verdicts == []
    assert outcome.records > 100

"""The checker of groups sees each planted anomaly, and nothing in a clean history."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.checker import groups
from tests.checker.groups import Assignment, Commit, Delivery, judge

P = ("t", 0)


def commit(member: str, position: int, at: float, *, generation: int = 1, ok: bool = True) -> Commit:
    return Commit(member, generation, {P: position}, ok, at, at + 0.1)


PRODUCED = {P: range(10)}
DELIVERED = [Delivery("a", P, offset, 1.0 + offset / 100) for offset in range(5)]
DELIVERED += [Delivery("b", P, offset, 5.0 + offset / 100) for offset in range(5, 10)]
ASSIGNED = [Assignment("a", P, 0.5), Assignment("b", P, 4.0)]
COMMITS = [commit("a", 3, 2.0), commit("a", 5, 3.0), commit("b", 10, 6.0, generation=2)]


def anomalies(**changes: object) -> list[str]:
    history: dict[str, object] = {
        "produced": PRODUCED,
        "deliveries": DELIVERED,
        "assignments": ASSIGNED,
        "commits": COMMITS,
        "final": {P: 10},
    }
    return sorted({verdict.anomaly for verdict in judge(**(history | changes))})  # type: ignore[arg-type]


def test_a_clean_history_is_clean() -> None:
    assert anomalies() == []


def test_redelivery_past_the_last_commit_is_allowed() -> None:
    assert anomalies(commits=[COMMITS[0], COMMITS[2]], deliveries=[*DELIVERED, Delivery("b", P, 3, 4.5)]) == []


def test_a_record_that_nobody_was_given_is_a_skip() -> None:
    assert anomalies(deliveries=[one for one in DELIVERED if one.offset != 4]) == ["group-skip"]
    assert anomalies(deliveries=DELIVERED[:9], commits=COMMITS[:2], final={P: 5}) == []


def test_two_committers_of_one_generation_are_two_owners() -> None:
    assert anomalies(commits=[*COMMITS, commit("a", 10, 7.0, generation=2)]) == ["group-double-owner"]


def test_a_commit_of_an_old_generation_after_one_of_the_next_is_seen() -> None:
    assert anomalies(commits=[*COMMITS, commit("a", 10, 7.0, generation=1)]) == ["group-double-owner"]
    overlapping = Commit("a", 1, {P: 10}, True, 6.05, 6.5)
    assert anomalies(commits=[*COMMITS, overlapping]) == []


def test_a_position_that_goes_back_is_a_regression() -> None:
    assert anomalies(commits=[*COMMITS, commit("b", 7, 8.0, generation=2)]) == ["commit-regress"]
    assert anomalies(final={P: 9}) == ["commit-regress"]
    assert anomalies(commits=[*COMMITS, commit("b", 7, 8.0, generation=2, ok=False)]) == []


def test_a_record_below_what_was_committed_before_the_assignment_is_over_redelivery() -> None:
    assert anomalies(deliveries=[*DELIVERED, Delivery("b", P, 4, 4.5)]) == ["over-redelivery"]


def test_the_checker_knows_nothing_of_the_product() -> None:
    tree = ast.parse(Path(groups.__file__).read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in imported if name.startswith(("logeion", "actors", "client"))]

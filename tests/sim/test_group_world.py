"""The group's machine in the simulator, and proof that the simulator's judges can see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from logeion.actors.coordinator.classic import ClassicGroup
from logeion.actors.coordinator.consumer import ConsumerGroup
from logeion.actors.coordinator.machine import GroupMachine
from logeion.actors.coordinator.offsets import Offsets
from tests.sim.group_world import Violated, World, run_seed


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_no_seed_breaks_an_invariant(protocol: str) -> None:
    for seed in range(150):
        run_seed(seed, protocol=protocol)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_one_seed_is_one_history(protocol: str) -> None:
    first, second = (run_seed(77, protocol=protocol) for _ in range(2))
    assert first.trace == second.trace
    assert first.log.records == second.log.records


def caught(protocol: str, patch: Callable[[World], None] | None = None) -> str:
    """The violation the planted bug causes within 300 seeds."""
    for seed in range(300):
        try:
            run_seed(seed, protocol=protocol, patch=patch)
        except Violated as violation:
            return str(violation)
    raise AssertionError("300 seeds ran clean over a planted bug")


def test_a_dead_coordinators_late_append_is_caught() -> None:
    def unfence(world: World) -> None:
        world.log.fences = False

    assert "late append" in caught("classic", unfence)


def test_a_commit_of_an_old_generation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassicGroup, "check_commit", lambda self, *_: 0)
    assert "went from" in caught("classic") or "both committed" in caught("classic")


def test_a_commit_of_an_old_member_epoch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConsumerGroup, "check_commit", lambda self, *_: 0)
    assert "went from" in caught("consumer")


def test_giving_a_partition_before_its_owner_let_go_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def reconcile(self: ConsumerGroup, member: object, reported: object, now: object) -> None:
        member.owned = set(self.targets.get(member.member_id, set()))  # type: ignore[attr-defined]
        member.previous_epoch, member.epoch = member.epoch, self.assignment_epoch  # type: ignore[attr-defined]

    monkeypatch.setattr(ConsumerGroup, "_reconcile", reconcile)
    assert "was given" in caught("consumer")


def test_a_generation_that_is_logged_only_with_its_assignments_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ClassicGroup._save

    def save_when_stable(self: ClassicGroup, now: object, step: object) -> None:
        if self.state.value != "CompletingRebalance":
            honest(self, now, step)  # type: ignore[arg-type]

    monkeypatch.setattr(ClassicGroup, "_save", save_when_stable)
    assert "began twice" in caught("classic")


def test_answering_before_the_commit_is_in_the_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Offsets, offsets: object, now: object) -> tuple[list[object], list[int]]:
        return [], [0 for _ in offsets]  # type: ignore[attr-defined]

    monkeypatch.setattr(Offsets, "commit", forgetful)
    assert "is not in the log" in caught("classic")


def test_a_machine_that_replays_its_log_stands_where_it_stood() -> None:
    world = run_seed(5, protocol="classic")
    replayed = GroupMachine("g", world.settings)
    for record in world.log.records:
        replayed.replay(record)
    assert world.host is not None
    assert replayed.offsets.committed == world.host.machine.offsets.committed

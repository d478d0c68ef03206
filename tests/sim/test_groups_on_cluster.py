"""Consumer groups on the whole cluster in the simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from logeion.actors import messages as m
from tests.sim.aio import simulated
from tests.sim.cluster_world import ClusterWorld, run_seed
from tests.sim.coordinators import CoordinatorProcess
from tests.sim.engine import Violated
from tests.sim.group_judge import GroupJudge
from tests.sim.groups import Site
from tests.sim.members import ClassicMember, ConsumerMember
from tests.sim.stage import FAR, Stage

GROUP_SEEDS = range(11, 11 + 16 * 10, 16)


def test_another_process_tells_the_same_history_of_groups() -> None:
    words = [sys.executable, "-m", "tests.sim.cluster_world", "--seeds", "1", "--start", "27", "--trace"]
    told = {
        subprocess.run(
            words, env={**os.environ, "PYTHONHASHSEED": number}, capture_output=True, text=True, check=True
        ).stdout
        for number in ("1", "2")
    }
    assert len(told) == 1


def test_a_world_with_groups_has_what_its_seeds_are_for() -> None:
    worlds: list[ClusterWorld] = [run_seed(seed) for seed in GROUP_SEEDS]
    words = "\n".join("\n".join(world.engine.trace) for world in worlds)
    for what in ("will be killed, and is heard late", "serves in epoch 2", "coordinator/group-0 is killed", "crashed"):
        assert what in words, what
    sites = [site for world in worlds if world.groups is not None for site in world.groups.sites]
    assert {site.kind for site in sites} == {ClassicMember, ConsumerMember}
    judges = [world.groups.judge for world in worlds if world.groups is not None]
    assert sum(judge.acks for judge in judges) > 100 and sum(judge.fetches for judge in judges) > 100


class Scene:
    """One classic group of one member on a cluster where nothing happens by itself."""

    def __init__(self) -> None:
        self.stage = Stage(groups=1, gateways=1, voters=3, partitions=3)
        groups = self.stage.groups
        assert groups is not None
        groups.until = FAR
        self.site = Site(groups, "group-0", ClassicMember)
        groups.sites.append(self.site)
        self.judge: GroupJudge = groups.judge
        self.site.begin()
        self.wait(lambda: self.judge.acks > 2)

    def wait(self, condition: object) -> None:
        self.stage.wait(condition)  # type: ignore[arg-type]

    def coordinator(self) -> CoordinatorProcess | None:
        """The newest that serves."""
        found = [host.processes.get("coordinator/group-0") for host in self.stage.hosts.values()]
        serving = [one for one in found if isinstance(one, CoordinatorProcess) and one.shell.hosting is not None]
        return max(serving, key=lambda one: one.start.epoch or 0, default=None)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with simulated():
        yield Scene()


def test_a_group_follows_its_coordinator_to_another_host(scene: Scene) -> None:
    first = scene.coordinator()
    assert first is not None
    before = scene.judge.acks
    scene.stage.hosts[first.host].stop_tree()
    scene.wait(lambda: scene.judge.acks > before + 2)
    second = scene.coordinator()
    assert second is not None and second.host != first.host
    assert (second.start.epoch or 0) > (first.start.epoch or 0)
    scene.stage.hosts[first.host].start()
    scene.stage.calm()


def test_a_coordinator_that_is_cut_off_commits_nothing_while_another_one_does(scene: Scene) -> None:
    first = scene.coordinator()
    assert first is not None
    stage, others = scene.stage, [number for number in scene.stage.hosts if number != first.host]
    stage.network.block([pair for o in others for pair in ((first.host, o), (o, first.host))])
    one = m.OffsetToCommit(topic="t", partition=0, offset=1_000_000, metadata="zombie")
    member = scene.site.members[0]
    request = m.CommitOffsets(
        group="group-0", generation=member.epoch, member_id=member.member_id, offsets=[one], instance_id=None
    )
    answers: list[m.Message | None] = []
    assert first.on is not None
    gateway = first.on.processes[f"gateway/{first.host}"]
    stage.network.dial(
        stage.admin, lambda: gateway, lambda lane: lane.call(request, answers.append, 10.0), lambda: None, first.host
    )
    before = scene.judge.acks
    scene.wait(lambda: scene.judge.acks > before + 2)
    second = scene.coordinator()
    assert second is not None and second.host != first.host
    scene.wait(lambda: answers)
    assert not isinstance(answers[0], m.OffsetsCommitted)
    stage.calm()


def test_a_host_that_is_cut_off_tells_no_older_position(scene: Scene) -> None:
    first = scene.coordinator()
    assert first is not None and first.on is not None
    stage, others = scene.stage, [number for number in scene.stage.hosts if number != first.host]
    stage.network.block([pair for o in others for pair in ((first.host, o), (o, first.host))])
    # Now nothing of the group waits for a commit there, and the index of that host answers.
    first.kill()
    before = scene.judge.acks
    scene.wait(lambda: scene.judge.acks > before + 2)
    second = scene.coordinator()
    assert second is not None and second.host != first.host
    gateway, request = first.on.processes[f"gateway/{first.host}"], m.FetchOffsets(group="group-0", partitions=None)
    answers: list[m.Message | None] = []
    stage.network.dial(
        stage.admin, lambda: gateway, lambda lane: lane.call(request, answers.append, 20.0), lambda: None, first.host
    )
    stage.wait(lambda: answers, limit=30.0)
    assert isinstance(answers[0], m.Refused), answers
    stage.calm()


def test_the_judge_sees_an_older_position_than_one_that_was_acknowledged(scene: Scene) -> None:
    judge = scene.judge
    group = judge.group("group-0")
    place = ("t", 0)
    scene.wait(lambda: group.acked.get(place, 0) > 1)
    floor = judge.floor("group-0")
    old = next(iter(group.commits[place]))
    stale = m.OffsetsFetched(offsets=[m.OffsetToCommit(topic="t", partition=0, offset=0, metadata=old)])
    with pytest.raises(Violated, match="was acknowledged before"):
        judge.fetched("group-0", floor, stale)

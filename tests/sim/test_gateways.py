"""The class of seeds in which clients talk to gateways, and the loop that those live on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter

from tests.sim.cluster_world import GATEWAYS, GROUPS, ClusterWorld, run_seed
from tests.sim.virtual_loop import AsyncProcess, Exited
from tests.sim.world import Settings, World

FIRST = GATEWAYS - 1


def test_clients_of_gateways_are_told_the_truth_and_come_to_their_end() -> None:
    counts: Counter[str] = Counter()
    words = ""
    for seed in range(FIRST, FIRST + 12 * GATEWAYS, GATEWAYS):
        world = run_seed(seed)
        counts.update(world.gateway_judge.counts)
        words += "\n".join(world.engine.trace)
        world.close()
    # Seeds in which nothing is asked prove nothing.
    assert counts["acks=-1"] > 200 and counts["fetch 0"] > 200 and counts["latest"] > 20
    assert counts["fetch 6"] and counts["produce 6"] and counts["hints"] and counts["told"]
    for what in ("loses its lane to", "hears nothing from", "gateway/1 is killed", "is left alone with its clients"):
        assert what in words, what


def test_only_two_classes_of_seeds_have_gateways() -> None:
    drawn = {seed: ClusterWorld(seed).settings for seed in range(64)}
    with_gateways = {seed for seed, settings in drawn.items() if settings.gateways}
    with_groups = {seed for seed, settings in drawn.items() if settings.groups}
    assert {seed % GATEWAYS for seed in with_gateways - with_groups} == {FIRST}
    assert {seed % GROUPS for seed in with_groups} == {11} and with_groups < with_gateways


def test_another_process_tells_the_same_history_of_gateways() -> None:
    words = [sys.executable, "-m", "tests.sim.cluster_world", "--seeds", "1", "--start", str(FIRST), "--trace"]
    told = {
        subprocess.run(
            words, env={**os.environ, "PYTHONHASHSEED": number}, capture_output=True, text=True, check=True
        ).stdout
        for number in ("1", "2")
    }
    assert len(told) == 1


class Sleeper(AsyncProcess):
    """A process on a virtual loop."""

    def __init__(self) -> None:
        super().__init__(World(1, Settings()), "sleeper", host=1)
        self.errors: list[BaseException] = []
        self.woken: list[float] = []

    def uncaught(self, error: BaseException) -> None:
        self.errors.append(error)

    async def sleep(self, *seconds: float) -> None:
        for one in seconds:
            await asyncio.sleep(one)
            self.woken.append(round(self.engine.time, 3))


def test_virtual_time_passes_at_once_and_in_order() -> None:
    sleeper = Sleeper()
    tasks = [sleeper.loop.create_task(sleeper.sleep(2.0, 1.0)), sleeper.loop.create_task(sleeper.sleep(2.5))]
    sleeper.world.run(10.0)
    assert sleeper.woken == [2.0, 2.5, 3.0] and all(task.done() for task in tasks)


def test_who_is_stopped_wakes_when_it_goes_on_and_who_is_killed_never_does() -> None:
    sleeper = Sleeper()
    task = sleeper.loop.create_task(sleeper.sleep(1.0, 1.0, 1.0))
    sleeper.engine.at(0.5, sleeper.freeze)
    sleeper.engine.at(1.8, sleeper.thaw)
    sleeper.engine.at(3.0, sleeper.kill)
    sleeper.world.run(10.0)
    assert sleeper.woken == [1.8, 2.8] and not task.done()


def test_a_wait_ends_in_time() -> None:
    sleeper = Sleeper()

    async def wait() -> None:
        try:
            await asyncio.wait_for(sleeper.sleep(5.0), 0.5)
        except TimeoutError:
            sleeper.woken.append(round(sleeper.engine.time, 3))

    task = sleeper.loop.create_task(wait())
    sleeper.world.run(10.0)
    assert sleeper.woken == [0.5] and task.done()


def test_what_no_task_catches_is_told() -> None:
    sleeper = Sleeper()

    async def fail() -> None:
        raise ZeroDivisionError

    sleeper.loop.create_task(fail())
    sleeper.world.run(1.0)
    assert [type(error) for error in sleeper.errors] == [ZeroDivisionError]


def test_who_exits_does_nothing_any_more() -> None:
    sleeper = Sleeper()
    ended: list[float] = []

    async def leave() -> None:
        over = sleeper.loop.create_future()
        sleeper.loop.call_later(1.0, over.set_result, None)
        await over
        raise Exited(75)

    async def stay() -> None:
        try:
            await sleeper.sleep(0.5, 1.0)
        finally:
            ended.append(round(sleeper.engine.time, 3))

    tasks = [sleeper.loop.create_task(stay()), sleeper.loop.create_task(leave())]
    sleeper.world.run(10.0)
    assert not sleeper.alive and sleeper.woken == [0.5] and ended == [1.0] and len(tasks) == 2

"""The class of seeds in which clients talk to gateways, and the loop that those live on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter

from tests.sim.cluster_world import GATEWAYS, ClusterWorld, run_seed
from tests.sim.process import Process
from tests.sim.virtual_loop import VirtualLoop
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


def test_only_one_class_of_seeds_has_gateways() -> None:
    assert {seed % GATEWAYS for seed in range(64) if ClusterWorld(seed).settings.gateways} == {FIRST}


def test_another_process_tells_the_same_history_of_gateways() -> None:
    words = [sys.executable, "-m", "tests.sim.cluster_world", "--seeds", "1", "--start", str(FIRST), "--trace"]
    told = {
        subprocess.run(
            words, env={**os.environ, "PYTHONHASHSEED": number}, capture_output=True, text=True, check=True
        ).stdout
        for number in ("1", "2")
    }
    assert len(told) == 1


class Sleeper(Process):
    """A process on a virtual loop."""

    def __init__(self) -> None:
        super().__init__(World(1, Settings()), "sleeper", host=1)
        self.errors: list[BaseException] = []
        self.loop = VirtualLoop(self, self.errors.append)
        self.woken: list[float] = []

    def run(self, what: object, *arguments: object) -> None:
        asyncio._set_running_loop(self.loop)
        try:
            super().run(what, *arguments)  # type: ignore[arg-type]
        finally:
            asyncio._set_running_loop(None)

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

"""The topic is deleted while all goes on, and made again under the same name: other ids, the same directories."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from logeion.actors import messages as m
from tests.sim.world import TOPIC

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Key
    from tests.sim.world import World

AGAIN_S = 0.4


class Recreation:
    """Asks until it is done; ``ask`` reaches some host's controller, or nobody; ``made`` is told of the new one."""

    def __init__(self, world: World, ask: Callable[[m.Message], None], made: Callable[[], None]) -> None:
        self.world = world
        self.busy = False
        self._ask = ask
        self._made = made
        self._old: set[Key] = set()

    def begin(self) -> None:
        if self.busy or self.world.judge.budget:
            return
        # A topic may be laid on hosts of which nobody knows yet that they have lost anything: nothing is lost any more.
        self.world.keeps_storage = True
        self.world.note("the topic is deleted, and is to be made again")
        self.busy = True
        self._old = set(self.world.judge.truths)
        self._delete()

    def _delete(self) -> None:
        if not self._old.isdisjoint(self.world.judge.truths):
            # By id: an order that is carried out late must not meet the new one.
            self._ask(m.DeleteTopics(topic_ids=sorted({topic_id for topic_id, _ in self._old})))
            self.world.engine.after(AGAIN_S, self._delete)
            return
        for client in self.world.clients:
            if client.key in self._old:
                client.kill()
        self._create()

    def _create(self) -> None:
        if not self.world.judge.truths:
            self.world.create_topic(TOPIC)
            self.world.engine.after(AGAIN_S, self._create)
            return
        self.busy = False
        self.world.note("the topic is there again")
        self._made()

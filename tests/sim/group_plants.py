"""The patches of ``planted`` for groups on a whole cluster; two more are in ``plants``, for a group alone, too."""

from __future__ import annotations

from typing import Any

import pytest

from logeion.actors.coordinator.classic import ClassicGroup
from logeion.actors.coordinator.consumer import ConsumerGroup
from logeion.actors.coordinator.hosting import Hosting
from logeion.actors.coordinator.step import Step
from logeion.actors.coordinator.tailing import Tail


def commit_after_fencing(patch: pytest.MonkeyPatch) -> None:
    """A member's commit is taken whatever member epoch it is of (KIP-848)."""
    patch.setattr(ConsumerGroup, "check_commit", lambda self, *_: 0)


def index_to_watermark(patch: pytest.MonkeyPatch) -> None:
    """A new leader's index answers from what is below the watermark, which the former one's acks were above of."""

    async def complete(self: Tail, timeout_s: float) -> None:
        await self.catch_up()

    patch.setattr(Tail, "complete", complete)


def loads_to_watermark(patch: pytest.MonkeyPatch) -> None:
    """A Coordinator does not wait until all that its predecessor had written is committed."""

    async def reach(self: Tail, end: int, timeout_s: float) -> None:
        await self.catch_up()

    patch.setattr(Tail, "reach", reach)


def given_early(patch: pytest.MonkeyPatch) -> None:
    """A member is given its target at once, though another one has not let go."""

    def reconcile(self: ConsumerGroup, member: Any, reported: object, now: object) -> None:
        member.owned = set(self.targets.get(member.member_id, set()))
        member.previous_epoch, member.epoch = member.epoch, self.assignment_epoch

    patch.setattr(ConsumerGroup, "_reconcile", reconcile)


def generation_kept_back(patch: pytest.MonkeyPatch) -> None:
    """A generation is logged only with its assignments, though its number was given out before."""
    honest = ClassicGroup._save

    def save(self: ClassicGroup, now: Any, step: Any) -> None:
        if self.state.value != "CompletingRebalance":
            honest(self, now, step)

    patch.setattr(ClassicGroup, "_save", save)


def answers_first(patch: pytest.MonkeyPatch) -> None:
    """A Coordinator answers before what it has decided is committed."""
    honest = Hosting.follow

    def follow(self: Hosting, step: Step) -> None:
        replies, step.replies = step.replies, []
        for token, reply in replies:
            self._answer(token, reply)
        honest(self, step)

    patch.setattr(Hosting, "follow", follow)

"""What the console may look at. The node implements it; the console asks, and changes nothing."""

from __future__ import annotations

from typing import Protocol

import msgspec


class ActorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One actor, as ``logeion actors -o json`` shows it; fields are only ever added.

    ``kind`` is ``supervisor node controller gateway partition replica coordinator``, ``id`` unique and stable over
    restarts, ``state`` one of ``starting running stopping failed``; ``pid`` is null while there is no process.
    """

    kind: str
    id: str
    node: int
    pid: int | None
    topic: str | None
    partition: int | None
    epoch: int | None
    state: str
    restarts: int
    cause: str = ""


class View(Protocol):
    """A node at this moment."""

    @property
    def node(self) -> int:
        """Its id."""

    def actors(self) -> list[ActorRow]:
        """All actors of this host, the supervisor first."""

    def unready(self) -> list[str]:
        """Why clients cannot be served; empty when they can."""

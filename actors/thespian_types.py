"""Thespian's ``Actor`` for type checkers: the library has no types, and what is built on a base class that nobody knows
is unknown, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class Actor:
        """What of it is used here; see Thespian's own documentation."""

        def send(self, target: Any, message: Any) -> None:
            """Tell another actor; may wait for the peer's socket."""

        def createActor(self, kind: type, *, targetActorRequirements: dict[str, Any] | None = None) -> Any:
            """Fork a child; its address."""

        def wakeupAfter(self, period: Any) -> None:
            """Be sent a ``WakeupMessage`` then."""

else:
    from thespian.actors import Actor as Actor

"""The root of what actors say to each other; ``messages`` has the rest."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True, gc=False):
    """The root of all messages; the tag is the class's name."""

"""Every error that Logeion raises; ``logeion.wire.errors`` draws the tree."""

from __future__ import annotations

from .wire.errors import *  # noqa: F403
from .wire.errors import __all__ as __all__

"""What the leader of one topic-partition decides, for one leader epoch. Pure: no I/O, clock or randomness."""

from __future__ import annotations

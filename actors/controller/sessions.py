"""Which nodes still send heartbeats: the soft state of the controller that leads. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

# More than this share of the nodes silent at once: that looks like an overloaded machine, or like our own network.
MANY = 0.3


class Sessions:
    """When each node was last heard of.

    A node lapses after a session without a heartbeat. If two or more nodes and more than ``MANY`` of them are silent
    together, they are given one session more. Time that the controller itself has slept counts for nobody: whatever
    they said meanwhile is still to be read.
    """

    def __init__(self, session_s: float) -> None:
        self.session_s = session_s
        self._heard: dict[int, float] = {}
        self._gone: set[int] = set()
        self._looked: float | None = None

    def begin(self, nodes: Iterable[int], now: float) -> None:
        """Leadership begins: everybody has a whole session."""
        self._heard = dict.fromkeys(nodes, now)
        self._gone.clear()
        self._looked = now

    def heard(self, node: int, now: float) -> None:
        """A heartbeat, or a registration."""
        self._heard[node] = max(now, self._heard.get(node, now))
        self._gone.discard(node)

    def gone(self, node: int) -> None:
        """Its host says that it does not run: there is nothing to wait for."""
        self._gone.add(node)

    def alive(self, node: int, now: float) -> bool:
        """Whether this node was heard of within a session."""
        heard = self._heard.get(node)
        return heard is not None and now - heard < self.session_s

    def lapsed(self, nodes: Collection[int], now: float) -> list[int]:
        """Which of these have gone; to be asked at every ``deadline``."""
        self._forgive(now)
        gone = [node for node in nodes if node in self._gone]
        silent = {node: now - self._heard.setdefault(node, now) for node in nodes if node not in self._gone}
        due = [node for node, silence in silent.items() if silence >= self.session_s]
        # The others have lost several heartbeats, too, though not all to the very moment.
        together = sum(silence >= self.session_s / 2 for silence in silent.values())
        if due and together >= 2 and together > MANY * len(silent):
            due = [node for node in due if silent[node] >= 2 * self.session_s]
        return gone + due

    def deadline(self, nodes: Iterable[int], now: float) -> float:
        """When to look again, at the latest."""
        nodes = list(nodes)
        if not self._gone.isdisjoint(nodes):
            return now
        looked, session_s = self._looked, self.session_s
        look = (now if looked is None else looked) + session_s / 4
        for node in nodes:
            heard = self._heard.get(node, now)
            due = heard + session_s
            if looked is not None and due <= looked:
                # Silent by then, and perhaps given one session more.
                due = heard + 2 * session_s
                if due <= looked:
                    continue
            if due < look:
                look = due
        return look

    def _forgive(self, now: float) -> None:
        late = 0.0 if self._looked is None else now - self._looked - self.session_s / 4
        if late > self.session_s / 4:
            for node in self._heard:
                self._heard[node] = min(now, self._heard[node] + late)
        self._looked = now

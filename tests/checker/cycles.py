"""G0 and G1c: cycles of writes-before (ww) and read-from (wr), and their session and real-time variants.

Only an operation that wrote twice, or wrote and read, can have an edge into it and one out of it on different keys;
every other writer of a key is passed over, with its ww edges drawn together into one. So the graph is small for plain
producers and consumers, and whole for transactions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.checker.history import Value
from tests.checker.tables import Tables
from tests.checker.verdict import Finding

Edges = dict[int, set[int]]
# operation -> (t_inv, t_ret, process)
Nodes = dict[int, tuple[float, float, int | str]]


class Graph:
    """Collects the edges of one key after the other, then finds the cycles."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.ww: Edges = defaultdict(set)
        self.wr: Edges = defaultdict(set)
        self._keys: dict[int, set[str]] = defaultdict(set)
        self._reported: set[int] = set()

    def add(self, tables: Tables, polled: Iterable[tuple[int, list[Value]]]) -> None:
        """The edges of a key; ``polled`` are the graph's operations that polled it, with the values they got."""
        nodes = self.nodes
        before_of: dict[Value, int] = {}
        last = -1
        for number in range(len(tables.order)):
            here = list(tables.values_at(number))
            writers = {tables.writer[value][2] for value in here if value in tables.writer} & nodes.keys()
            for writer in writers:
                if last >= 0 and writer != last:
                    self._edge(self.ww, last, writer, tables.key)
            if writers:
                last = max(writers)
            for value in here:
                before_of.setdefault(value, last)
        for op, values in polled:
            for value in values:
                send = tables.writer.get(value)
                if send is None or send[5] == "fail":
                    continue
                if send[2] in nodes:
                    if send[2] != op:
                        self._edge(self.wr, send[2], op, tables.key)
                elif before_of.get(value, -1) not in (-1, op):
                    # Over the plain writer of the value: ww into it, wr out of it.
                    middle = -1 - send[2]
                    self._edge(self.ww, before_of[value], middle, tables.key)
                    self._edge(self.wr, middle, op, tables.key)

    def _edge(self, edges: Edges, source: int, target: int, key: str) -> None:
        edges[source].add(target)
        self._keys[source].add(key)

    def findings(self) -> Iterator[Finding]:
        """A finding for each component of each kind; the variants only where the plain graph has none there."""
        yield from self._cycles("", defaultdict(set))
        yield from self._cycles("-process", self._session())
        yield from self._cycles("-realtime", self._realtime())

    def _cycles(self, variant: str, more: Edges) -> Iterator[Finding]:
        kinds: list[tuple[str, list[Edges], Edges]] = [
            ("G0", [self.ww], self.ww),
            ("G1c", [self.wr], self.wr),
            ("G1c-ww", [self.ww, self.wr], self.wr),
        ]
        for name, edges, needed in kinds:
            for component in components([*edges, more]):
                inside = set(component)
                if inside & self._reported:
                    continue
                if not any(target in inside for node in component for target in needed.get(node, ())):
                    continue
                if variant and not any(target in inside for node in component for target in more.get(node, ())):
                    continue
                self._reported |= inside
                keys = set[str]().union(*(self._keys.get(node, set()) for node in component))
                ops = tuple(sorted(node if node >= 0 else -1 - node for node in component))
                note = f"{len(component)} operations in a circle over {', '.join(sorted(keys))}"
                yield Finding(name + variant, min(keys, default=""), note, ops=ops)

    def _session(self) -> Edges:
        edges: Edges = defaultdict(set)
        last: dict[int | str, int] = {}
        for op, (_, _, proc) in sorted(self.nodes.items(), key=lambda node: (node[1][0], node[0])):
            if proc in last:
                edges[last[proc]].add(op)
            last[proc] = op
        return edges

    def _realtime(self) -> Edges:
        """Edges from the operations that had returned to the next ones asked, the rest following by transitivity."""
        edges: Edges = defaultdict(set)
        asked = sorted(self.nodes, key=lambda op: self.nodes[op][0])
        done = sorted(self.nodes, key=lambda op: self.nodes[op][1])
        frontier: list[int] = []
        at = 0
        for op in asked:
            t_inv = self.nodes[op][0]
            while at < len(done) and self.nodes[done[at]][1] < t_inv:
                ended = done[at]
                at += 1
                frontier = [other for other in frontier if not self.nodes[other][1] < self.nodes[ended][0]]
                frontier.append(ended)
            for ended in frontier:
                edges[ended].add(op)
        return edges


def components(graphs: list[Edges]) -> list[list[int]]:
    """Strongly connected components of at least two nodes (Tarjan's algorithm, without recursion)."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []

    def targets(node: int) -> Iterator[int]:
        return (target for graph in graphs for target in graph.get(node, ()))

    for root in {node for graph in graphs for node in graph}:
        if root in number:
            continue
        work: list[tuple[int, Iterator[int]]] = []
        _enter(root, number, low, stack, on_stack)
        work.append((root, targets(root)))
        while work:
            node, rest = work[-1]
            for target in rest:
                if target not in number:
                    _enter(target, number, low, stack, on_stack)
                    work.append((target, targets(target)))
                    break
                if target in on_stack:
                    low[node] = min(low[node], number[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    component = [stack.pop()]
                    while component[-1] != node:
                        component.append(stack.pop())
                    on_stack.difference_update(component)
                    if len(component) > 1:
                        found.append(component)
    return found


def _enter(node: int, number: dict[int, int], low: dict[int, int], stack: list[int], on_stack: set[int]) -> None:
    number[node] = low[node] = len(number)
    stack.append(node)
    on_stack.add(node)

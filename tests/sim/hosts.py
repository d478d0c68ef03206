"""A host: its disk, its clocks, its Supervisor, and the processes that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.actors import messages as m
from logeion.actors.node.companions import KIND as COMPANION
from logeion.actors.node.companions import is_companion
from logeion.actors.node.events import Start
from logeion.actors.partition.shell import EXIT_STORAGE
from tests.sim.disk import HostDisk
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.world import World

DATA = "/data"


def names(number: int, gateways: int) -> list[str]:
    """The gateways of a host, as its Supervisor calls them."""
    return [f"gateway/{number}" + (f".{other}" if other > 1 else "") for other in range(1, gateways + 1)]


class Host:
    """The Supervisor is a part of it: it dies only with the whole tree. Fixed actors are started again by it."""

    def __init__(self, world: World, number: int) -> None:
        chance = world.engine.random
        self.world = world
        self.number = number
        self.disk = HostDisk(chance)
        self.disk.make(DATA)
        # Monotonic clocks have another zero on each host, and go at slightly different rates.
        self.shift = chance.uniform(1, 1000)
        self.rate = chance.uniform(0.999, 1.001)
        self.wall_shift = 0
        self.directory_id = f"directory-{number}-1"
        self.directories = 1
        self.up = False
        self.tree = 0
        self.broken_since = -1.0
        self.processes: dict[str, Process] = {}
        self.incarnations: dict[str, int] = {}
        # How many gateways were ever started here.
        self.gateways = 0
        self._restarts: dict[str, int] = {}
        self._pid = number * 100_000

    # Clocks

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self.shift + self.world.engine.time * self.rate

    def moment(self, when: float) -> float:
        """The world's time of a moment of this host's monotonic clock."""
        return (when - self.shift) / self.rate

    def now_ms(self) -> int:
        """The time of day, which may jump."""
        return 1_700_000_000_000 + int(self.world.engine.time * 1000) + self.wall_shift

    @property
    def incarnation(self) -> str:
        """Of this broker: directory, boot, and start of the Supervisor."""
        return f"{self.directory_id}:{self.disk.boot}:{self.tree}"

    # The tree

    def start(self) -> None:
        """The Supervisor starts its fixed actors."""
        if self.up:
            return
        self.up = True
        self.tree += 1
        self.world.note(f"host {self.number} starts its tree {self.tree}")
        self._after_fork("controller", self.tree)
        self._after_fork("node", self.tree)
        for gateway in names(self.number, self.world.settings.gateways):
            self._after_fork(gateway, self.tree)

    def _after_fork(self, fixed: str, tree: int) -> None:
        self.world.engine.after(self.world.engine.random.uniform(0.002, 0.015), self._fix, fixed, tree)

    def _fix(self, fixed: str, tree: int) -> None:
        if self.up and tree == self.tree and fixed not in self.processes:
            if fixed.startswith("gateway/"):
                self.gateways += 1
                self.incarnations[fixed] = self.gateways
            self.processes[fixed] = self.world.make_fixed(self, fixed)

    def stop_tree(self, *, power: bool = False) -> None:
        """Everything dies at once: ``kill -9`` of the whole tree, or the power."""
        if not self.up:
            return
        self.up = False
        processes, self.processes = self.processes, {}
        self.incarnations.clear()
        for process in processes.values():
            process.die(-9, power=power)
        if power:
            self.disk.lose_power()

    def exited(self, process: Process, status: int) -> None:
        """A process of this host is gone."""
        if not self.up or self.processes.get(process.name.partition(":")[2]) is not process:
            return
        actor = process.name.partition(":")[2]
        del self.processes[actor]
        incarnation = self.incarnations.pop(actor, 0)
        if actor in ("node", "controller") or actor.startswith("gateway/"):
            # Who ends at once again and again is started later and later.
            patience = 0.1 if status == EXIT_STORAGE else 0.0
            self.world.engine.after(patience, self._after_fork, actor, self.tree)
            return
        restarts = self._restarts[actor] = self._restarts.get(actor, 0) + 1
        self._tell_node(m.ActorExited(actor=actor, incarnation=incarnation, restarts=restarts, status=status))

    # What Node asks of the Supervisor

    def start_actor(self, start: Start) -> None:
        """Fork, unless that actor still runs."""
        self.world.engine.after(self.world.engine.random.uniform(0.002, 0.015), self._fork, start, self.tree)

    def _fork(self, start: Start, tree: int) -> None:
        if not self.up or tree != self.tree or start.actor in self.processes:
            return
        self._pid += 1
        self.incarnations[start.actor] = start.incarnation
        restarts = self._restarts.get(start.actor, 0)
        self._tell_node(
            m.ActorStarted(actor=start.actor, incarnation=start.incarnation, pid=self._pid, restarts=restarts)
        )
        self.processes[start.actor] = self.world.make_actor(self, start, self._pid)

    def stop_actor(self, actor: str, incarnation: int, force: bool) -> None:
        """SIGKILL, or (not ``force``) SIGTERM, which one that is stopped does not hear."""
        self.world.engine.after(self.world.network.local_delay(), self._stop, actor, incarnation, force)

    def _stop(self, actor: str, incarnation: int, force: bool) -> None:
        process = self.processes.get(actor)
        if process is None or self.incarnations.get(actor) != incarnation:
            return
        if force:
            process.kill()
        else:
            process.run(process.terminate)

    def list_actors(self, asked: int = 0) -> None:
        """Tell Node who runs."""
        entries = [
            m.ActorEntry(
                actor=actor,
                kind=COMPANION if is_companion(actor) else actor.partition("/")[0],
                incarnation=incarnation,
                pid=1 + number,
                restarts=self._restarts.get(actor, 0),
            )
            for number, (actor, incarnation) in enumerate(self.incarnations.items())
        ]
        self._tell_node(m.ActorsListed(actors=entries, number=asked))

    def _tell_node(self, message: m.Message) -> None:
        """By Thespian, in order: about a millisecond."""
        node = self.processes.get("node")
        if node is not None:
            self.world.engine.after(0.001, self._deliver, node, message)

    def _deliver(self, node: Process, message: m.Message) -> None:
        node.run(node.step, message)

    # Disk

    def lose_directory(self) -> None:
        """The data directory is replaced by an empty one; the host must be down. The voter's log is elsewhere."""
        assert not self.up
        self.directories += 1
        self.directory_id = f"directory-{self.number}-{self.directories}"
        for path in list(self.disk.names):
            if not path.endswith("/__cluster_metadata-0"):
                self.disk.remove(path)
        self.disk.make(DATA)

"""A partition's processes: the leader and the follower, real machines on a real log on a simulated disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from logeion.actors import messages as m
from logeion.actors.node.events import Start
from logeion.actors.partition.shell import EXIT_STORAGE, LOCK_AGAIN_S, LOCK_S, TRANSIENT
from logeion.actors.runtime import EXIT_CRASH
from logeion.log.config import LogConfig
from logeion.log.log import Log, SyncHandle
from logeion.wire.errors import StorageError
from tests.sim.hosts import DATA
from tests.sim.network import Port
from tests.sim.node_lane import Supervised, hello_of

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World


class Actor(Supervised):
    """What both have: a log, a lane to Node, syncs that take their time, and an end when the disk fails."""

    kind = ""

    def __init__(self, world: World, on: Host, start: Start, pid: int) -> None:
        hello = hello_of(start, self.kind, on.number, pid)
        super().__init__(world, f"{on.number}:{start.actor}", on=on, hello=hello)
        self.start = start
        self.key = (start.topic_id, start.partition)
        self.state = "starting"
        self.cause = ""
        self.log: Log | None = None
        self._looked: tuple[int, ...] = ()
        # What a kill of the sync in flight leaves: nothing of it is noted.
        self._sync: SyncHandle | None = None
        self._again = False
        self._lock_until = world.engine.time + LOCK_S
        self.dial_node()
        # A log takes its time to open: what the process before it wrote may come from a disk.
        self.later(world.engine.random.uniform(0.001, 0.01), self._open)

    # Node

    def report(self) -> None:
        if self.node is not None:
            self.node.tell(m.StateChanged(state=self.state, cause=self.cause, epoch=self.start.epoch))

    def from_node(self, lane: Port, request: int, message: m.AnyMessage, payload: bytes) -> None:
        """Node says this."""
        match message:
            case m.Ping():
                lane.reply(request, m.Pong())
            case m.Slice() if self.log is not None:
                self.slice_changed(message)
            case m.Slice():
                self.later_slice = message
            case m.Configure() if self.log is not None:
                self.configure(message)
            case m.Configure():
                self.later_configure = message

    # What Node said before the log was open.
    later_slice: m.Slice | None = None
    later_configure: m.Configure | None = None

    def slice_changed(self, message: m.Slice) -> None:
        """The partition, as the metadata log has it now."""
        raise NotImplementedError

    def configure(self, message: m.Configure) -> None:
        """The topic's configuration."""
        raise NotImplementedError

    def begin(self, log: Log) -> None:
        """The log is open: make the machine and start it."""
        raise NotImplementedError

    # The log

    def _open(self) -> None:
        on, start = self.on, self.start
        assert on is not None
        directory = Path(f"{DATA}/{start.topic}-{start.partition}")
        config = LogConfig.from_topic(start.configs)
        try:
            self.log = Log.open(directory, config, files=self.files, now_ms=on.now_ms(), topic_id=start.topic_id)
            # Node starts it only when the controller has taken note of a loss.
            self.world.judge.lost_is_known(self.host, self.key)
            self.begin(self.log)
        except StorageError as error:
            if isinstance(error.__cause__, BlockingIOError) and self.engine.time < self._lock_until:
                self.later(LOCK_AGAIN_S, self._open)
            else:
                self.fatal(error)
            return
        if not self.alive:
            return
        if self.later_configure is not None:
            self.configure(self.later_configure)
        if self.later_slice is not None:
            self.slice_changed(self.later_slice)
        self.state = "running"
        self.report()

    def fatal(self, error: StorageError) -> None:
        """Say why, and end: as lost if the log cannot be trusted, else as after any crash."""
        if not self.alive:
            return
        self.world.note(f"{self.name} ends: {error}")
        cause = error.__cause__
        passing = isinstance(cause, OSError) and cause.errno in TRANSIENT
        lost = not passing if self.log is None else self.log.failed is not None or not passing
        self.cause, self.state = str(error), "failed"
        if self.node is not None:
            self.node.tell(
                m.StateChanged(state="failed", cause=str(error), epoch=self.start.epoch, code=56 if lost else 0)
            )
        if lost:
            self.world.judge.storage_lost(self.host, self.key)
        self.die(EXIT_STORAGE if lost else EXIT_CRASH)

    def terminate(self) -> None:
        """SIGTERM: close the log cleanly."""
        self.state = "stopping"
        self.report()
        if self.log is not None and self._sync is None:
            try:
                self.log.close(clean=True)
            except StorageError:
                pass
        self.die(0)

    # Syncs

    def sync(self, batches: int = 0, size: int = 0) -> None:
        """Sync what is written; ``synced`` is called when that is done."""
        log = self.log
        assert log is not None
        if self._sync is not None:
            self._again = True
            return
        try:
            handle = log.sync_handle()
        except StorageError as error:
            self.fatal(error)
            return
        if handle is None:
            self.soon(self._nothing_to_sync)
            return
        self._sync = handle
        self.later(self.world.disk_time(), self._run_sync, handle)

    def _nothing_to_sync(self) -> None:
        assert self.log is not None
        self.synced(self.log.synced_end)

    def _run_sync(self, handle: SyncHandle) -> None:
        log = self.log
        assert log is not None
        self._sync = None
        try:
            handle.run()
        except StorageError as error:
            log.note_sync_failed(error)
            self.fatal(error)
            return
        try:
            end = log.note_synced(handle)
        except StorageError:
            end = log.synced_end
        again, self._again = self._again, False
        self.synced(end)
        if again and self.alive:
            self.sync()

    def synced(self, end: int) -> None:
        """All below ``end`` is on the device."""
        raise NotImplementedError

    # The world

    def stepped(self) -> None:
        super().stepped()
        if self.log is not None:
            self.look_again()

    def look_again(self) -> None:
        """Let the judge look, if anything has changed."""
        log = self.log
        if log is None:
            return
        looked = (log.end_offset, log.generation, log.high_watermark, log.start_offset)
        if looked != self._looked:
            self._looked = looked
            self.look(log)

    def look(self, log: Log) -> None:
        """Let the judge see what has changed."""
        truth = self.world.judge.truth_of(self.key, self.reign)
        if truth is not None:
            judge = self.world.judge
            judge.started(self.host, truth, log.start_offset)
            leading = self.kind == "partition"
            judge.logged(self.host, truth, leader=self.identity if leading else "", epoch=self.start.epoch or 0)
            self.judge_watermark(truth, log)

    @property
    def reign(self) -> int | None:
        """The leader epoch that it lives in."""
        return self.start.epoch

    def judge_watermark(self, truth: Any, log: Log) -> None:
        """The watermark may have moved."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        return f"{self.name}#{self.start.incarnation}"

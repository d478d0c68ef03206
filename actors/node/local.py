"""One partition that this node should hold, the process that an actor id names, and how long a failing one waits."""

from __future__ import annotations

import msgspec

from .. import messages as m

# The kinds of actor that hold a partition's directory, one at a time.
LEADER, FOLLOWER = "partition", "replica"

# How soon after its lane closes an actor's exit is told, or its next lane there.
PARTED_S = 1.0

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0
# Starts in a row that never came to run, after which a partition is offline and tried only now and then.
FAILED_STARTS_MAX = 8
OFFLINE_RETRY_S = 30.0
# Exits of a running actor that are answered at once; they are forgotten at four a second, so that an actor that is
# killed again and again comes back without delay, and one that crashes as soon as it serves does not eat the machine.
FREE_EXITS = 4
FORGOTTEN_PER_S = 4.0


class Process(msgspec.Struct, kw_only=True):
    """What holds an actor id on this host, whoever started it.

    ``state``: ``asked`` (StartActor is out), ``starting`` (the process is there), ``running``, ``stopping``.
    ``topic_id`` is None for a process found by a fresh Node that has not said hello yet; a Replica has no ``epoch``.
    ``slice`` is what it was told last of its partition.
    """

    actor: str
    incarnation: int
    state: str
    topic_id: str | None = None
    partition: int | None = None
    epoch: int | None = None
    pid: int = 0
    restarts: int = 0
    ran: bool = False
    connected: bool = False
    killed: bool = False
    # Its lane has closed: if it is not there again soon, its exit may have been told to nobody.
    parted: bool = False
    # The list that was asked for last before it was: who is missing in a later one is not there.
    since: int = 0
    # How often the Supervisor was asked about it since.
    overdue: int = 0
    # When something must have happened: started, said hello, or died.
    deadline: float | None = None
    configs: dict[str, str] | None = None
    slice: m.Slice | None = None

    @property
    def kind(self) -> str:
        return self.actor.partition("/")[0]

    @property
    def directory(self) -> str:
        """The directory that its actor's id names."""
        return self.actor.partition("/")[2]

    def part(self, incarnation: int, now: float) -> None:
        """Its lane has closed: most likely it has ended."""
        if self.incarnation == incarnation and self.connected:
            self.connected = False
            # Of what it was told, the last may have been lost with the lane.
            self.configs = self.slice = None
            if self.state in ("starting", "running"):
                self.parted, self.deadline = True, now + PARTED_S

    def greeted(self, hello: m.Hello) -> bool:
        """It has connected (again): whether it is this incarnation, and not on its way out."""
        if self.incarnation != hello.incarnation:
            return False
        if self.connected:
            # The same, before the end of its former lane was seen.
            self.configs = self.slice = None
        self.connected, self.parted = True, False
        self.pid = self.pid or hello.pid
        if self.topic_id is None:
            self.topic_id, self.partition, self.epoch = hello.topic_id, hello.partition, hello.epoch
        if self.state == "stopping":
            return False
        self.deadline = None
        if self.state == "asked":
            self.state = "starting"
        return True


class Backoff(msgspec.Struct, kw_only=True):
    """How soon the next process of an actor may start after one has ended by itself."""

    restarts: int = 0
    failed_starts: int = 0
    heat: float = 0.0
    heat_at: float = 0.0
    retry_at: float | None = None
    offline: bool = False
    cause: str = ""
    code: int = 0

    def note_exit(self, process: Process, now: float) -> None:
        """Its process has ended by itself: when may the next one start?

        ``process.restarts`` is what the Supervisor counts by now, this exit included.
        """
        self.restarts = max(self.restarts + 1, process.restarts)
        if process.ran:
            self.failed_starts = 0
            self.heat = max(0.0, self.heat - (now - self.heat_at) * FORGOTTEN_PER_S) + 1.0
            self.heat_at = now
            steps = self.heat - FREE_EXITS
        else:
            self.failed_starts += 1
            steps = self.failed_starts - 1.0
        if self.failed_starts >= FAILED_STARTS_MAX:
            self.go_offline(now)
        elif steps > 0 and not self.offline:
            self.retry_at = now + min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** (steps - 1))

    def go_offline(self, now: float, code: int = 56) -> None:
        """Give up for now; ``code`` is Kafka's (56 KAFKA_STORAGE_ERROR: the usual reason to fail at every start)."""
        self.offline = True
        self.code = self.code or code
        self.cause = self.cause or f"{self.failed_starts} starts in a row failed; the log of this node says why"
        self.retry_at = now + OFFLINE_RETRY_S

    def note_running(self) -> None:
        """Its process serves."""
        self.failed_starts = 0
        self.offline = False
        self.cause = ""
        self.code = 0
        self.retry_at = None


class Local(Backoff, kw_only=True):
    """One partition this node should hold, or whose directory it still has to remove (``role`` None).

    ``role`` is the kind of actor that the metadata log wants here.
    """

    topic: str
    topic_id: str
    partition: int
    role: str | None = None
    # A leader epoch that was committed while this Node lives and that no start has used: good for one start.
    unused_epoch: int = -1
    removing: bool = False
    # Its log cannot be used any more; others have it, so it is begun afresh once nobody counts on it.
    lost: bool = False
    # Not before this is its directory set aside again.
    aside_at: float = 0.0

    @property
    def wanted(self) -> bool:
        return self.role is not None

    @property
    def key(self) -> tuple[str, int]:
        return self.topic_id, self.partition

    @property
    def directory(self) -> str:
        """The name of its directory, which another topic of this name would use too."""
        return f"{self.topic}-{self.partition}"

    @property
    def actor(self) -> str:
        """The id of the actor that should run, stable over restarts."""
        return f"{self.role or LEADER}/{self.directory}"

    def begin_afresh(self) -> None:
        """Its directory is out of the way: what it failed of is past."""
        self.lost = False
        self.note_running()

    def stopped(self, epoch: int) -> m.PartitionStopped:
        """What gateways are told while nobody leads here; with a cause once it is offline."""
        return m.PartitionStopped(
            topic_id=self.topic_id,
            partition=self.partition,
            epoch=epoch,
            cause=self.cause if self.offline else "",
            code=self.code if self.offline else 0,
        )

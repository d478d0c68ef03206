"""What a node's machine is told besides the messages themselves, and what it wants done."""

from __future__ import annotations

import msgspec

from .. import messages as m


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The root of what happens to a Node."""


class GrantFailed(Event, frozen=True, kw_only=True):
    """``GrantEpochs`` was refused with ``code``, or (code 0) nobody answered; what became of it is unknown."""

    code: int
    reason: str


class Greeted(Event, frozen=True, kw_only=True):
    """An actor of this host has connected (again)."""

    hello: m.Hello


class Reported(Event, frozen=True, kw_only=True):
    """An actor says what it does now."""

    actor: str
    incarnation: int
    change: m.StateChanged


class Bound(Event, frozen=True, kw_only=True):
    """A gateway listens there, as ``host:port``."""

    actor: str
    addresses: list[str]


class Parted(Event, frozen=True, kw_only=True):
    """An actor's lane has closed."""

    actor: str
    incarnation: int


class DirectoryRemoved(Event, frozen=True, kw_only=True):
    """A partition is out of the way, so that another of that name can have its directory (unless it ``failed``)."""

    topic_id: str
    partition: int
    failed: bool = False


class Stray(Event, frozen=True, kw_only=True):
    """There is a directory of a partition that may have been assigned elsewhere while this host was down."""

    topic_id: str
    partition: int


class DownFailed(Event, frozen=True, kw_only=True):
    """``ReplicasDown`` was refused with ``code``, or (code 0) nobody answered."""

    code: int
    reason: str


class Stale(Event, frozen=True, kw_only=True):
    """Somebody was refused because this node's broker epoch is not the newest."""


class BeatAnswered(Event, frozen=True, kw_only=True):
    """A heartbeat's answer. Whether this node is fenced the metadata log says."""

    attempt: int
    may_stop: bool = False


class BeatFailed(Event, frozen=True, kw_only=True):
    """A heartbeat was refused with ``code``, or (code 0) its lane is closed or was never there."""

    attempt: int
    code: int


class Suspected(Event, frozen=True, kw_only=True):
    """Somebody waits in vain for this actor of the host."""

    actor: str
    incarnation: int


class Ponged(Event, frozen=True, kw_only=True):
    """An actor has answered its ping."""

    actor: str
    incarnation: int


class DrainAsked(Event, frozen=True, kw_only=True):
    """The host is about to be stopped; ``request`` names who waits for ``Drained``."""

    request: int
    timeout_s: float


class Wanted(Event, frozen=True, kw_only=True):
    """A gateway or a group index wants a group's Coordinator."""

    actor: str
    wish: m.EnsureCoordinator


class Elapsed(Event, frozen=True, kw_only=True):
    """The machine's deadline has come."""


AnyEvent = (
    m.Committed
    | m.NodeRegistered
    | m.EpochsGranted
    | m.Recorded
    | m.ActorsListed
    | m.ActorStarted
    | m.ActorExited
    | GrantFailed
    | Greeted
    | Reported
    | Bound
    | Parted
    | DirectoryRemoved
    | Stray
    | DownFailed
    | Stale
    | BeatAnswered
    | BeatFailed
    | Suspected
    | Ponged
    | DrainAsked
    | Wanted
    | Elapsed
)


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """The root of what the shell does for the machine."""


class Start(Effect, frozen=True, kw_only=True):
    """Have the Supervisor start this partition's leader, once, for this epoch; or its follower (``kind`` replica, no
    epoch); or a Coordinator or group index beside the leader of that epoch (``kind`` coordinator; ``group`` None is
    the index)."""

    actor: str
    incarnation: int
    topic: str
    topic_id: str
    partition: int
    epoch: int | None
    configs: dict[str, str]
    kind: str = "partition"
    group: str | None = None
    slice: m.Slice | None = None


class Stop(Effect, frozen=True, kw_only=True):
    """Have the Supervisor end that incarnation; ``force`` is SIGKILL."""

    actor: str
    incarnation: int
    force: bool


class List(Effect, frozen=True, kw_only=True):
    """Ask the Supervisor whom it has; its list carries the ``number``."""

    number: int


class Ask(Effect, frozen=True, kw_only=True):
    """Send this to the Controller; its answer, or ``GrantFailed`` or ``DownFailed``, comes back as an event."""

    message: m.GrantEpochs | m.ReplicasDown


class Register(Effect, frozen=True, kw_only=True):
    """Register (again) with the Controller."""


class ToGateways(Effect, frozen=True, kw_only=True):
    """Tell this to one gateway, or to all (``actor`` None)."""

    message: (
        m.PartitionRunning
        | m.PartitionStopped
        | m.CoordinatorRunning
        | m.CoordinatorStopped
        | m.IndexRunning
        | m.IndexStopped
    )
    actor: str | None = None


class Tell(Effect, frozen=True, kw_only=True):
    """Tell an actor its topic's effective configuration, or what is committed of its partition."""

    actor: str
    incarnation: int
    message: m.Configure | m.Slice


class SendPing(Effect, frozen=True, kw_only=True):
    """Ask this actor for a sign of life: ``Ponged``."""

    actor: str
    incarnation: int


class Beat(Effect, frozen=True, kw_only=True):
    """Send this heartbeat to the Controller of this host, or (``voter``) to that of another node."""

    attempt: int
    message: m.Heartbeat
    voter: int | None = None


class Drained(Effect, frozen=True, kw_only=True):
    """Tell who asked for it that the host may be stopped now."""

    request: int


class RemoveDirectory(Effect, frozen=True, kw_only=True):
    """Rename the partition's directory out of the way (then say ``DirectoryRemoved``) and delete it at leisure, or
    (``keep``) leave it there for a person."""

    topic: str
    topic_id: str
    partition: int
    keep: bool = False


AnyEffect = Start | Stop | List | Ask | Register | ToGateways | Tell | SendPing | Beat | Drained | RemoveDirectory

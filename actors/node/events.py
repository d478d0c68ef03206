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


class GatewayGone(Event, frozen=True, kw_only=True):
    """A gateway's lane has closed."""

    actor: str


class DirectoryRemoved(Event, frozen=True, kw_only=True):
    """A deleted topic's partition is out of the way, so that a new topic of that name can have its directory."""

    topic_id: str
    partition: int


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
    | m.ActorsListed
    | m.ActorStarted
    | m.ActorExited
    | GrantFailed
    | Greeted
    | Reported
    | Bound
    | GatewayGone
    | DirectoryRemoved
    | Wanted
    | Elapsed
)


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """The root of what the shell does for the machine."""


class Start(Effect, frozen=True, kw_only=True):
    """Have the Supervisor start this partition's leader, once, for this epoch; or a Coordinator or group index beside
    the leader of that epoch (``kind`` coordinator; ``group`` None is the index)."""

    actor: str
    incarnation: int
    topic: str
    topic_id: str
    partition: int
    epoch: int
    configs: dict[str, str]
    kind: str = "partition"
    group: str | None = None


class Stop(Effect, frozen=True, kw_only=True):
    """Have the Supervisor end that incarnation; ``force`` is SIGKILL."""

    actor: str
    incarnation: int
    force: bool


class List(Effect, frozen=True, kw_only=True):
    """Ask the Supervisor whom it has."""


class Ask(Effect, frozen=True, kw_only=True):
    """Send this to the Controller; its answer, or ``GrantFailed``, comes back as an event."""

    message: m.GrantEpochs


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


class Configure(Effect, frozen=True, kw_only=True):
    """Tell an actor its topic's effective configuration."""

    actor: str
    incarnation: int
    configs: dict[str, str]


class RemoveDirectory(Effect, frozen=True, kw_only=True):
    """Rename the partition's directory out of the way (then say ``DirectoryRemoved``) and delete it at leisure."""

    topic: str
    topic_id: str
    partition: int


AnyEffect = Start | Stop | List | Ask | Register | ToGateways | Configure | RemoveDirectory

"""Consumer groups of a simulated cluster: who is in them, how they reach their coordinators, and what befalls them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from logeion.actors import messages as m
from logeion.actors.gateway.groups import OFFSETS_CONFIGS
from logeion.actors.groups import OFFSETS_TOPIC
from tests.sim.clients import RETRY_S, Client
from tests.sim.coordinators import PACE, CoordinatorProcess
from tests.sim.engine import Violated
from tests.sim.group_gateways import GroupGateway
from tests.sim.group_judge import GroupJudge
from tests.sim.members import NOT_COORDINATOR, ClassicMember, ConsumerMember, MemberBase
from tests.sim.network import Port

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Truth
    from tests.sim.world import World

MEMBERS_MAX = 4
# The partition of which only the first commit of all, of nobody's, says something: a group with a position is kept when
# it has no members, and so are its generations' numbers.
FIRST = 99
OnAnswer = Callable[[m.Message | None], None]


class Connection(Client):
    """One client's, to the node that it takes for its group's coordinator."""

    def __init__(self, site: Site, name: str, number: int) -> None:
        self.site = site
        # Asked while there was no lane.
        self._asked: deque[tuple[m.Message, OnAnswer, float]] = deque()
        super().__init__(site.world, f"{site.group}.{name}", number, ("", -1))

    @property
    def done(self) -> bool:
        return True

    def _ask(self) -> None:
        self._looking = False
        host = self.site.groups.find(self.site.group, self.host)
        if host is None:
            self.look(RETRY_S)
            return
        self._looking = True

        def failed() -> None:
            self._looking = False
            self.look(RETRY_S)

        def opened(lane: Port) -> None:
            self._looking = False
            self.lane = lane
            lane.on_closed = self._closed
            self.connected(lane)

        self.world.network.dial(self, lambda: self.world.a_gateway(host.number), opened, failed, host.number)

    def connected(self, lane: Port) -> None:
        while self._asked and self.lane is lane and lane.open:
            self._send(lane, *self._asked.popleft())

    def ask(self, request: m.Message, on_answer: OnAnswer, timeout_s: float) -> None:
        """``on_answer`` once; ``None`` is no answer."""
        done = False

        def once(answer: m.Message | None) -> None:
            nonlocal done
            if not done:
                done = True
                on_answer(answer)

        self.later(timeout_s, once, None)
        self._asked.append((request, once, self.engine.time + timeout_s))
        if self.lane is not None and self.lane.open:
            self.connected(self.lane)
        else:
            self.look()

    def _send(self, lane: Port, request: m.Message, on_answer: OnAnswer, until: float) -> None:
        if self.engine.time >= until:
            return

        def answered(reply: m.Message | None) -> None:
            if isinstance(reply, m.Refused):
                reply = m.GroupAnswered(code=NOT_COORDINATOR)
            wrong = reply is None or getattr(reply, "code", 0) == NOT_COORDINATOR
            if wrong and self.lane is lane:
                self.again()
            on_answer(reply)

        lane.call(request, answered, until - self.engine.time)


class Site:
    """One group: what its members ask for and the judge is told."""

    pace = PACE

    def __init__(self, groups: Groups, group: str, kind: type[ClassicMember] | type[ConsumerMember]) -> None:
        self.groups = groups
        self.world = groups.world
        self.group = group
        self.kind = kind
        topic = self.world.judge.image.topic("t")
        assert topic is not None
        self.topic, self.topic_id, self.partitions = "t", topic.topic_id, len(topic.partitions)
        self.random: random.Random = self.world.engine.random
        self.ids: Iterator[int] = groups.ids
        self.members: list[MemberBase] = []
        # Nobody commits any more, so that the cluster can come to rest.
        self.quiet = False
        self._connections: dict[str, Connection] = {}

    # What members see

    @property
    def time(self) -> float:
        return self.world.engine.time

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.world.engine.at(when, what)

    def after(self, delay: float, what: Callable[[], None]) -> None:
        self.world.engine.after(delay, what)

    def note(self, line: str) -> None:
        self.world.note(f"{self.group}: {line}")

    def ask(self, sender: str, request: m.Message, on_answer: OnAnswer, timeout: float = PACE.answer_s) -> None:
        judge = self.groups.judge
        floor = judge.floor(self.group)

        def answered(answer: m.Message | None) -> None:
            match request, answer:
                case m.CommitOffsets(), m.OffsetsCommitted(code=0, codes=codes) if not any(codes):
                    judge.acknowledged(request)
                case m.FetchOffsets(), m.OffsetsFetched(code=0):
                    judge.fetched(self.group, floor, answer)
                case m.SyncGroup(), m.GroupSynced(code=0):
                    member = request.instance_id or request.member_id
                    judge.assigned(self.group, request.generation, member, answer.assignment)
            on_answer(answer)

        self.connection(sender).ask(request, answered, timeout)

    def connection(self, name: str) -> Connection:
        found = self._connections.get(name)
        if found is None:
            found = self._connections[name] = Connection(self, name, len(self.world.clients) + 1)
            self.world.clients.append(found)
        return found

    def may_commit(self) -> bool:
        return not self.quiet

    def label(self, member: MemberBase) -> str:
        return f"{member.epoch}|{member.member_id}|{member.instance_id or member.member_id}|{next(self.ids)}"

    def committed(self, member: str, generation: int, positions: dict[int, int]) -> None:
        """``ask`` has told the judge."""

    def saw_generation(self, generation: int, members: frozenset[str]) -> None:
        self.groups.judge.led(self.group, generation, members)

    def check_exclusive(self, member: MemberBase, given: set[int]) -> None:
        """A partition is given only when no other member of the group, by the log, still consumes it."""
        known = self.groups.judge.group(self.group).members
        if member.member_id not in known:
            return
        for other in self.alive:
            if other is not member and other.member_id in known and other.owned & given:
                raise Violated(
                    f"{self.group}: {member.name} was given {sorted(given)} while {other.name} owns "
                    f"{sorted(other.owned)}"
                )

    # What befalls them

    def begin(self) -> None:
        """The first commit of all, then the first members."""
        one = m.OffsetToCommit(topic=self.topic, partition=FIRST, offset=0, metadata=f"-1|||{next(self.ids)}")
        request = m.CommitOffsets(group=self.group, generation=-1, member_id="", offsets=[one])

        def answered(answer: m.Message | None) -> None:
            if isinstance(answer, m.OffsetsCommitted) and answer.code == 0:
                for _ in range(self.random.randint(1, 3)):
                    self.after(self.random.uniform(0.0, 0.5), self.add_member)
            else:
                self.after(RETRY_S, self.begin)

        self.ask("first", request, answered)

    @property
    def alive(self) -> list[MemberBase]:
        return [member for member in self.members if member.alive]

    def add_member(self) -> None:
        if len(self.alive) >= MEMBERS_MAX:
            return
        static = f"i{self.random.randint(1, 3)}" if self.random.random() < 0.2 else None
        if any(member.instance_id == static for member in self.alive):
            static = None
        member = self.kind(self, len(self.members), static)
        self.members.append(member)
        member.start()

    def read(self) -> None:
        """Somebody who is no member asks what is committed."""
        self.ask("reader", m.FetchOffsets(group=self.group, partitions=None), lambda answer: None)

    @property
    def settled(self) -> bool:
        """Whether each partition has one owner."""
        owned = sorted(partition for member in self.alive for partition in member.owned)
        return bool(self.members) and owned == list(range(self.partitions))


class Groups:
    """All of them, and the offsets topic."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.judge = GroupJudge(world)
        self.ids: Iterator[int] = iter(range(1, 1 << 62))
        self.sites: list[Site] = []
        self.until = 0.0

    def topic(self) -> m.TopicToCreate:
        """``__consumer_offsets``, as a gateway has it made."""
        settings = self.world.settings
        configs = {**OFFSETS_CONFIGS, "segment.bytes": str(settings.segment_bytes)}
        return m.TopicToCreate(
            name=OFFSETS_TOPIC,
            partitions=settings.offsets_partitions,
            replication_factor=settings.replicas,
            configs=configs,
        )

    def begin(self, until: float) -> None:
        """The groups begin; from ``until`` on nobody else comes or goes."""
        self.until = until
        chance = self.world.engine.random
        for number in range(self.world.settings.groups):
            kind = chance.choice((ClassicMember, ConsumerMember))
            self.sites.append(Site(self, f"group-{number}", kind))
        for site in self.sites:
            site.begin()
        self.world.engine.after(0.3, self._read)

    def elected(self, truth: Truth) -> None:
        """Another leader epoch has begun: what a client asks in the next moment is answered by who has just come."""
        if truth.directory.startswith(OFFSETS_TOPIC):
            for site in self.sites:
                if not site.quiet:
                    self.world.engine.after(self.world.engine.random.uniform(0.02, 0.1), site.read)

    def _read(self) -> None:
        self.world.engine.random.choice(self.sites).read()
        if not all(site.quiet for site in self.sites):
            self.world.engine.after(self.world.engine.random.uniform(0.1, 0.5), self._read)

    def settled(self) -> bool:
        """Whether all members own what is theirs; then nothing more is committed."""
        for site in self.sites:
            if site.members and not site.alive:
                site.add_member()
        if not all(site.settled for site in self.sites):
            return False
        for site in self.sites:
            site.quiet = True
        return True

    def find(self, group: str, client: int) -> Any:
        """The host that coordinates this group, by what some gateway knows that this client reaches; or None."""
        world = self.world
        host = world.hosts[world.engine.random.randint(1, len(world.hosts))]
        blocked = world.network.blocked
        gateway = world.a_gateway(host.number)
        if (client, host.number) in blocked or (host.number, client) in blocked:
            return None
        if not isinstance(gateway, GroupGateway) or gateway.frozen:
            return None
        node = gateway.coordinator(group)
        return None if node is None else world.hosts[node]

    # Faults

    def kinds(self) -> list[tuple[float, Callable[[], None]]]:
        """What can happen to groups besides all that happens to hosts and partitions."""
        return [
            (3, self.kill_coordinator),
            (2, self.freeze_coordinator),
            (4, self.late_append),
            (3, self.member_comes),
            (2, self.member_leaves),
            (2, self.member_crashes),
            (2, self.member_sleeps),
        ]

    def _coordinator(self, *, index: bool) -> CoordinatorProcess | None:
        found = [
            process
            for host in self.world.hosts.values()
            for process in host.processes.values()
            if isinstance(process, CoordinatorProcess) and (index or process.start.group is not None)
        ]
        return self.world.engine.random.choice(found) if found else None

    def kill_coordinator(self) -> None:
        process = self._coordinator(index=True)
        if process is not None:
            self.world.note(f"{process.name} is killed")
            process.kill()

    def freeze_coordinator(self) -> None:
        process = self._coordinator(index=True)
        if process is not None:
            seconds = self.world.engine.random.choice((0.1, 1.0, 3.0)) * self.world.engine.random.random()
            self.world.note(f"{process.name} is stopped for {seconds:.2f} s")
            process.freeze()
            self.world.engine.after(seconds, process.thaw)

    def late_append(self) -> None:
        """A Coordinator dies, and its partition reads its socket last, as one that was stopped may."""
        process, chance = self._coordinator(index=False), self.world.engine.random
        port = process.partition_port() if process is not None else None
        if process is not None and port is not None:
            self.world.note(f"{process.name} will be killed, and is heard late")
            port.delay(chance.uniform(0.1, 1.5))
            self.world.engine.after(chance.uniform(0.0, 0.5), process.kill)

    def member_comes(self) -> None:
        self.world.engine.random.choice(self.sites).add_member()

    def _member(self, least: int) -> MemberBase | None:
        alive = self.world.engine.random.choice(self.sites).alive
        return self.world.engine.random.choice(alive) if len(alive) >= least else None

    def member_leaves(self) -> None:
        member = self._member(1)
        if member is not None:
            member.leave()

    def member_crashes(self) -> None:
        member = self._member(1)
        if member is not None:
            member.crash()

    def member_sleeps(self) -> None:
        member, engine = self._member(1), self.world.engine
        if member is not None:
            member.paused_until = engine.time + engine.random.uniform(0.3, 2.5)

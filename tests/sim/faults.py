"""What can go wrong in a simulated cluster, drawn by the seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from logeion.actors import messages as m
from logeion.actors.node.events import DrainAsked
from tests.sim.ambushes import Ambushes
from tests.sim.network import Port
from tests.sim.nodes import NodeProcess
from tests.sim.process import Process
from tests.sim.recreation import Recreation
from tests.sim.replicas import Actor
from tests.sim.unclean import Losses
from tests.sim.voter_faults import VoterFaults
from tests.sim.world import TOPIC

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Truth
    from tests.sim.gateways import GatewayProcess
    from tests.sim.hosts import Host
    from tests.sim.world import World


class Faults:
    """``until``: from then on nothing new goes wrong, and all is healed. Each seed has its own kinds."""

    def __init__(self, world: World, until: float, pace: float) -> None:
        self.world = world
        self.until = until
        self.pace = pace
        self.engine = world.engine
        chance = world.engine.random
        kinds: list[tuple[float, Callable[[], None]]] = [
            (4, self.kill_leader),
            (2, self.kill_actor),
            (2, self.kill_in_change),
            (1, self.kill_fixed),
            (2, self.freeze),
            (1, self.freeze_host),
            (2, self.kill_tree),
            (3, self.power_cut),
            (1, self.stop_all),
            (2, self.isolate),
            (2, self.cut_pair),
            (2, self.one_way),
            (1, self.cut_client),
            (2, self.heal_links),
            (1, self.break_disk),
            (1, self.break_voter),
            (1, self.fill_disk),
            (1, self.lose_storage),
            (1, self.jump_clock),
            (1, self.trim),
            (1, self.drain),
            (1, self.elect),
            (0.3, self.recreate),
        ]
        if world.settings.seesaw:
            kinds = [
                (2, self.kill_leader),
                (4, self.kill_tree),
                (6, self.elect),
                (3, self.cut_leader),
                (1, self.freeze),
                (3, self.heal_links),
            ]
        if world.settings.gateways:
            kinds += [(3, self.kill_gateway), (2, self.freeze_gateway), (3, self.cut_gateway), (3, self.strand_leader)]
        if world.settings.stranded:
            kinds = [
                (4, self.strand_leader),
                (1, self.heal_links),
                (1, self.elect),
                (1, self.kill_leader),
                (1, self.kill_gateway),
                (1, self.freeze_gateway),
                (1, self.cut_gateway),
                (1, self.drain),
            ]
        if world.settings.hunted:
            kinds = [(3, self.hunt), (1, self.kill_leader), (1, self.freeze)]
        if world.groups is not None:
            own = (self.trim, self.recreate)
            kinds = [kind for kind in kinds if kind[1] not in own] + world.groups.kinds()
        self.losses = Losses(world, self) if world.settings.unclean else None
        if self.losses is not None:
            kinds = self.losses.kinds()
        if world.settings.moves_min_isr:
            kinds.append((2, self.set_min_isr))
        # Where the quorum is away for long nobody may take a replica away from a partition that has lost another.
        stays = world.settings.hunted or world.settings.moves_voters
        if world.settings.nodes > world.settings.replicas and not stays:
            kinds.append((3, self.reassign))
        directed = world.settings.seesaw or world.settings.hunted or world.settings.stranded or world.settings.unclean
        # A seed that does few kinds of things does them often: that goes deeper than a little of everything.
        share = chance.choice((0.2, 0.4, 0.7, 1.0)) if not directed else 1.0
        self.kinds = [kind for kind in kinds if chance.random() < share] or kinds
        self.counts: dict[str, int] = {}
        self.voter_faults = VoterFaults(world, until, self.counts)
        if world.settings.moves_voters:
            self.kinds = [kind for kind in self.kinds if kind[1] != self.break_voter] + self.voter_faults.kinds
        self.weights = [weight for weight, _ in self.kinds]
        self.lossy = chance.random() < 0.4
        self.recreation = Recreation(world, self.ask_controller, self._repopulate)
        self.ambushes = Ambushes(world, until, self.counts)

    def begin(self) -> None:
        chance, network = self.engine.random, self.world.network
        if self.lossy:
            network.loss = chance.choice((0.02, 0.1))
            network.doubles = chance.choice((0.0, 0.05))
        network.slow = chance.choice((0.0, 0.0, 0.02, 0.1))
        self.engine.after(chance.expovariate(1 / self.pace), self.next)
        self.engine.at(self.until, self.heal)
        if self.losses is not None:
            self.losses.begin()

    def next(self) -> None:
        if self.engine.time >= self.until:
            return
        chance = self.engine.random
        kind = chance.choices(self.kinds, self.weights)[0][1]
        name = kind.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        kind()
        self.engine.after(chance.expovariate(1 / self.pace), self.next)

    def heal(self) -> None:
        """The calm begins."""
        world = self.world
        world.note("all is healed")
        world.network.loss = world.network.doubles = world.network.slow = 0.0
        world.network.heal()
        for host in world.hosts.values():
            host.wall_shift = 0
            host.disk.broken.clear()
            host.disk.full = False
            for process in list(host.processes.values()):
                process.thaw()
                if process.files is not None:
                    process.files.kill_in = None
            host.start()
        if world.settings.moves_voters:
            self.voter_faults.heal()

    # Choosing

    def a_truth(self) -> Truth | None:
        truths = list(self.world.judge.truths.values())
        return self.engine.random.choice(truths) if truths else None

    def a_host(self, *, up: bool = True) -> Host | None:
        hosts = [host for host in self.world.hosts.values() if host.up or not up]
        return self.engine.random.choice(hosts) if hosts else None

    def leader(self) -> Actor | None:
        """The process that leads some partition, be it a zombie."""
        truth = self.a_truth()
        if truth is None:
            return None
        name = f"partition/{truth.directory}"
        found = [host.processes[name] for host in self.world.hosts.values() if name in host.processes]
        actors = [process for process in found if isinstance(process, Actor)]
        return self.engine.random.choice(actors) if actors else None

    def actor(self) -> Actor | None:
        host = self.a_host()
        actors = [process for process in host.processes.values() if isinstance(process, Actor)] if host else []
        return self.engine.random.choice(actors) if actors else None

    # Processes

    def kill_leader(self) -> None:
        self._kill(self.leader())

    def kill_actor(self) -> None:
        self._kill(self.actor())

    def kill_fixed(self) -> None:
        host = self.a_host()
        if host is not None:
            self._kill(host.processes.get(self.engine.random.choice(("node", "controller"))))

    # Gateways

    def strand_leader(self) -> None:
        """A leader's host is cut off from all others, not from its clients: it goes on as if it led."""
        process = self.leader()
        if process is not None:
            self.world.note(f"host {process.host} is left alone with its clients")
            others = [number for number in self.world.hosts if number != process.host]
            self.world.network.block([pair for o in others for pair in ((process.host, o), (o, process.host))])

    def gateway(self) -> GatewayProcess | None:
        gateways = self.world.gateways()
        return self.engine.random.choice(gateways) if gateways else None

    def kill_gateway(self) -> None:
        self._kill(self.gateway())

    def freeze_gateway(self) -> None:
        process = self.gateway()
        if process is not None:
            self._freeze(process, self.engine.random.choice((0.05, 0.5, 2.5)) * self.engine.random.random())

    def cut_gateway(self) -> None:
        """One of its lanes breaks: to Node, to the Controller, to a leader. Now and then it does not hear for a while
        that a leader's host is another: to Node and the Controller there is no way."""
        process, chance = self.gateway(), self.engine.random
        ports = [port for port in process.ports if port.other.on is not None] if process is not None else []
        if process is None or not ports:
            return
        if chance.random() < 0.5:
            port = chance.choice(ports)
            self.world.note(f"{process.name} loses its lane to {port.other.name}")
            process.run(port.close)
            return
        deaf = chance.choice((0.1, 0.5, 1.5))
        self.world.note(f"{process.name} hears nothing from Node and the Controller for {deaf:.1f} s")
        for port in ports:
            if port.other.hello is None or port.other.hello.kind == "controller":
                port.peer.delay(deaf)

    def _kill(self, process: Process | None) -> None:
        if process is not None:
            self.world.note(f"{process.name} is killed")
            process.kill()

    def kill_in_change(self) -> None:
        process = self.leader() if self.engine.random.random() < 0.5 else self.actor()
        if process is not None and process.files is not None:
            process.files.kill_in = self.engine.random.randint(0, 8)

    def freeze(self) -> None:
        host = self.a_host()
        process: Process | None = self.leader()
        if host is not None and (process is None or self.engine.random.random() < 0.5):
            process = self.engine.random.choice(list(host.processes.values())) if host.processes else None
        if process is not None and process.alive:
            self._freeze(process, self.engine.random.choice((0.05, 0.5, 2.5)) * self.engine.random.random())

    def _freeze(self, process: Process, seconds: float) -> None:
        self.world.note(f"{process.name} is stopped for {seconds:.2f} s")
        process.freeze()
        self.engine.after(seconds, process.thaw)

    def freeze_host(self) -> None:
        host = self.a_host()
        seconds = self.engine.random.choice((0.3, 2.5)) * self.engine.random.random()
        for process in list(host.processes.values()) if host is not None else []:
            self._freeze(process, seconds)

    # Hosts

    def kill_tree(self, host: Host | None = None) -> None:
        host = host or self.a_host()
        if host is not None and host.up:
            self.world.note(f"host {host.number}: its tree is killed")
            host.stop_tree()
            self._start_later(host)

    def power_cut(self, host: Host | None = None) -> None:
        host = host or self.a_host()
        if host is None or not host.up or not self.world.may_cut_power(host):
            return
        self.world.note(f"host {host.number}: the power goes")
        host.stop_tree(power=True)
        self.world.power_lost(host)
        self._start_later(host)

    def _start_later(self, host: Host) -> None:
        chance = self.engine.random
        self.engine.after(chance.choice((0.05, 0.5, 2.0)) * chance.random(), host.start)

    def hunt(self) -> None:
        truth = self.a_truth()
        if truth is not None:
            self.ambushes.wait_for_watermark(truth)

    def stop_all(self) -> None:
        power = self.engine.random.random() < 0.5
        for host in self.world.hosts.values():
            if power:
                self.power_cut(host)
            else:
                self.kill_tree(host)

    def drain(self) -> None:
        host = self.a_host()
        node = host.processes.get("node") if host is not None else None
        if host is not None and isinstance(node, NodeProcess):
            self.world.note(f"host {host.number} is to be stopped")
            node.run(node.step, DrainAsked(request=1, timeout_s=1.0))
            self.engine.after(self.engine.random.uniform(0.2, 1.2), self.kill_tree, host)

    # Links

    def isolate(self) -> None:
        host = self.a_host(up=False)
        if host is not None:
            self.world.note(f"host {host.number} is cut off")
            others = [number for number in self.world.hosts if number != host.number]
            if self.engine.random.random() < 0.5:
                others += [client.host for client in self.world.clients]
            self.world.network.block([pair for o in others for pair in ((host.number, o), (o, host.number))])

    def cut_leader(self) -> None:
        """A leader hears its followers no more, but its clients; nobody is told what it made of what they send."""
        process = self.leader()
        if process is not None:
            self.world.note(f"{process.name} hears no other host")
            self.world.network.block([(other, process.host) for other in self.world.hosts if other != process.host])

    def cut_pair(self) -> None:
        one, two = self.engine.random.sample(list(self.world.hosts), 2)
        self.world.note(f"{one} and {two} are cut off from each other")
        self.world.network.block([(one, two), (two, one)])

    def one_way(self) -> None:
        one, two = self.engine.random.sample(list(self.world.hosts), 2)
        if self.engine.random.random() < 0.5:
            self.world.note(f"{one} does not reach {two}")
            self.world.network.block([(one, two)])
        else:
            self.world.note(f"{one} reaches nobody")
            self.world.network.block([(one, other) for other in self.world.hosts if other != one])

    def cut_client(self) -> None:
        host = self.a_host(up=False)
        if host is not None and self.world.clients:
            client = self.engine.random.choice(self.world.clients)
            self.world.note(f"{client.name} and host {host.number} are cut off from each other")
            self.world.network.block([(client.host, host.number), (host.number, client.host)])

    def heal_links(self) -> None:
        self.world.note("links are healed")
        self.world.network.heal()

    # Disks and clocks

    def break_disk(self) -> None:
        """One partition's syncs, writes or reads on one host fail for a while."""
        host, truth = self.a_host(up=False), self.a_truth()
        if host is None or truth is None or not self.world.may_lose(host, truth):
            return
        kind = self.engine.random.choice(("sync", "write", "read"))
        self.world.note(f"host {host.number}: each {kind} in {truth.directory} fails")
        self.world.storage_broken(host, truth)
        host.disk.broken.add((kind, f"/{truth.directory}/"))
        self.engine.after(self.engine.random.uniform(0.1, 1.0), host.disk.broken.clear)

    def break_voter(self) -> None:
        """What a voter writes fails for a while: it ends, and begins again with what it has."""
        number = self.engine.random.choice(self.world.voters)
        disk = self.world.hosts[number].disk
        self.world.note(f"host {number}: each write of its voter fails")
        disk.broken.add(("write", "/__cluster_metadata-0/"))
        self.engine.after(self.engine.random.uniform(0.05, 0.5), disk.broken.clear)

    def fill_disk(self) -> None:
        host = self.a_host(up=False)
        if host is not None:
            self.world.note(f"host {host.number}: the disk is full")
            host.disk.full = True
            self.engine.after(self.engine.random.uniform(0.1, 1.0), self._room, host)

    def _room(self, host: Host) -> None:
        host.disk.full = False

    def lose_storage(self) -> None:
        host = self.a_host(up=False)
        if host is None or not self.world.may_lose_all(host):
            return
        self.world.note(f"host {host.number}: its directory is lost")
        host.stop_tree(power=self.engine.random.random() < 0.5)
        host.lose_directory()
        self.world.directory_lost(host)
        self._start_later(host)

    def jump_clock(self) -> None:
        host = self.a_host(up=False)
        if host is not None:
            host.wall_shift += self.engine.random.choice((-3_600_000, -1_000, 1_000, 1_800_000))

    # What people do

    def trim(self) -> None:
        """DeleteRecords."""
        actor = self.leader()
        client = next((client for client in self.world.clients if client.reaches), None)
        if actor is None or client is None or (client.lane is not None and not client.lane.open):
            return
        truth = self.world.judge.truths.get(client.key)
        if truth is not None and truth.end:
            offset = self.engine.random.choice((-1, self.engine.random.randint(0, truth.end)))
            client.trim(offset)

    def elect(self) -> None:
        self.ask_controller(m.ElectLeaders())

    def set_min_isr(self) -> None:
        """One more than the world's own, and back: what is promised is never less."""
        wanted = self.world.settings.min_isr + self.engine.random.choice((0, 1))
        self.world.note(f"min.insync.replicas is to be {wanted}")
        change = m.ConfigChange(key="min.insync.replicas", operation="set", value=str(wanted))
        self.ask_controller(m.AlterConfigs(resource="topic", name=TOPIC, changes=[change]))

    def recreate(self) -> None:
        """The topic is deleted, and another one gets its name."""
        self.recreation.begin()

    def _repopulate(self) -> None:
        """The new topic's clients, unless the calm has begun."""
        if self.engine.time < self.until:
            for key in self.world.judge.truths:
                self.world.add_producer(key, pace=0.1, until=self.until)
                self.world.add_consumer(key)

    def reassign(self) -> None:
        truth = self.a_truth()
        if truth is None:
            return
        topic, _, partition = truth.directory.rpartition("-")
        replicas = self.engine.random.sample(list(self.world.hosts), self.world.settings.replicas)
        wanted = m.PartitionToReassign(topic=topic, partition=int(partition), replicas=replicas)
        self.world.note(f"{truth.directory} is reassigned to {replicas}")
        self.ask_controller(m.ReassignPartitions(partitions=[wanted]))

    def ask_controller(self, message: m.Message) -> None:
        """An admin asks some host's controller, if any is there."""
        host = self.a_host()
        admin = self.world.admin

        def opened(lane: Port) -> None:
            lane.call(message, lambda reply: None, 5.0)

        if host is not None:
            self.world.network.dial(admin, lambda: host.processes.get("controller"), opened, lambda: None, host.number)

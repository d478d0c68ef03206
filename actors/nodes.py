"""Several nodes on one machine: a command of commands.

Every node is an ordinary foreground ``Command`` with a data directory, ports and a tree of its own, forked from here
after all modules are loaded, so that they share that memory. The nodes know each other only by their cluster ports and
the secret, as they would on several hosts. An inherited pipe ties each to this process: kill -9 of this one ends them
all. A node command that ends is started again; this process does nothing else for it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from setproctitle import setproctitle

from logeion.wire.errors import ConfigError

from .claim import NODES, Claim, StartError, claim
from .config import Config, load, parse_address, show_address
from .foreground import (
    EXIT_FAILED,
    STOP_S,
    Command,
    complain,
    forget_ready,
    preload,
    reader_left,
    standard_output_pipe,
    write_ready,
)
from .options import Options, check_cluster, check_tie, flags, located
from .ports import Ports
from .processes import end_descendants, reap
from .restarts import Policy, Restarts
from .thespian_traps import become_subreaper, keep_open, own_logging

log: logging.Logger = logging.getLogger(__name__)

SECRET = "cluster.secret"
CLUSTER_ADDRESS = "127.0.0.1"
# Nobody gives up on a node of a cluster: the others live on, and it comes back when it can.
AGAIN = Policy(intensity=sys.maxsize, period_s=30.0, free=2, backoff_min_s=0.1, backoff_max_s=5.0)
# With three nodes or more an acknowledged record is on two of them.
MIN_INSYNC = "min.insync.replicas"

Announce = Callable[[list[dict[str, Any]], float, Path], None]
"""All nodes are there: their details, the seconds it took, and the data directory."""


class Known(msgspec.Struct, kw_only=True):
    """``nodes.json``: what must stay the same from one start to the next."""

    nodes: int
    voters: int
    cluster_ports: list[int]


def run(options: Options, count: int, announce: Announce, *, restart: bool = True) -> int:
    """Run ``count`` nodes until told to stop; the command's exit code."""
    try:
        check_tie(options.tied_to_fd)
        base, directory = located(load(options.config_file, os.environ, flags(options)).config)
        held = claim(directory, options.fresh, NODES)
    except (ConfigError, StartError) as error:
        return complain(error)
    try:
        own_logging(base.log, "up")
        # Held until this command ends: the nodes' own look for a port for Thespian must not find these.
        ports = Ports()
        configs = plan(base, directory, count, ports)
        return _Parent(configs, directory, held, options, announce, restart).run()
    except (ConfigError, StartError) as error:
        return complain(error)
    finally:
        with contextlib.suppress(OSError):
            (directory / "run").rmdir()
        held.release()


def plan(base: Config, directory: Path, count: int, ports: Ports) -> list[Config]:
    """The nodes' configurations; makes the secret and the note of what must stay. Raises ConfigError, StartError."""
    known = _known(directory, count)
    listeners, http = base.listeners, base.http
    kafka = ports.row(listeners.bind, listeners.port, count, set(), "--port")
    admin = ports.row(http.bind, http.port, count, set(kafka), "--admin-port")
    cluster = _cluster_ports(ports, known.cluster_ports, count, {*kafka, *admin})
    secret = directory / SECRET
    _make(secret)
    known = Known(nodes=count, voters=known.voters, cluster_ports=cluster)
    (directory / NODES).write_bytes(msgspec.json.encode(known) + b"\n")
    voters = [f"{number}@{CLUSTER_ADDRESS}:{cluster[number - 1]}" for number in range(1, known.voters + 1)]
    topics = base.topics
    if count >= 3:
        topics = msgspec.structs.replace(topics, configs={MIN_INSYNC: "2", **topics.configs})
    configs = []
    for index in range(count):
        config = msgspec.structs.replace(
            base,
            node=msgspec.structs.replace(base.node, id=index + 1, data_dir=str(directory / f"node-{index + 1}")),
            listeners=msgspec.structs.replace(
                listeners, port=kafka[index], advertise=_advertised(listeners.advertise, kafka[index], index)
            ),
            http=msgspec.structs.replace(http, port=admin[index]),
            cluster=msgspec.structs.replace(
                base.cluster,
                voters=voters,
                secret_file=str(secret),
                bind=CLUSTER_ADDRESS,
                port=cluster[index],
                advertise="",
            ),
            topics=topics,
        )
        check_cluster(config)
        configs.append(config)
    return configs


def voters_of(count: int) -> int:
    """How many of so many nodes decide: an odd number, at most five."""
    return 5 if count >= 5 else 3 if count >= 3 else 1


def _known(directory: Path, count: int) -> Known:
    path = directory / NODES
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Known)
    except FileNotFoundError:
        return Known(nodes=count, voters=voters_of(count), cluster_ports=[])
    except (OSError, msgspec.DecodeError) as error:
        raise StartError(f"{path}: {error}", "restore it, or --fresh to erase the data") from error
    if count < known.nodes:
        raise StartError(f"{directory} holds {known.nodes} nodes", f"-n {known.nodes}, or --fresh to erase them")
    return known


def _cluster_ports(chosen: Ports, known: list[int], count: int, but: set[int]) -> list[int]:
    """Those of the last start, as far as they are still free."""
    ports: list[int] = []
    for index in range(count):
        wanted = known[index] if index < len(known) else 0
        try:
            ports += chosen.row([CLUSTER_ADDRESS], wanted, 1, {*but, *ports}, "cluster.port")
        except ConfigError:
            ports += chosen.row([CLUSTER_ADDRESS], 0, 1, {*but, *ports}, "cluster.port")
    return ports


def _advertised(advertise: str, port: int, index: int) -> str:
    """Each node's own: the same host, the port of its listener or the next one in a row."""
    if not advertise:
        return ""
    host, first = parse_address(advertise, 0)
    return show_address(host, first + index if first else port)


def _make(secret: Path) -> None:
    try:
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise StartError(f"{secret}: {error.strerror}", "make its directory writable for this user") from error
    with open(descriptor, "wb") as file:
        file.write(base64.b64encode(os.urandom(32)) + b"\n")


class _Child:
    """One node command, and the ends of its pipes that are ours."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.number = config.node.id
        self.pid = 0
        self.tie = self.reports = self.ended = -1
        self.said = b""
        self.details: dict[str, Any] | None = None
        self.restarts = Restarts(AGAIN)
        self.due = 0.0

    def close(self) -> None:
        """Forget it; if it lives, the end of the pipe tells it to stop."""
        for descriptor in (self.tie, self.reports, self.ended):
            if descriptor >= 0:
                os.close(descriptor)
        self.tie = self.reports = self.ended = -1
        self.pid = 0


class _Parent:
    """The watch over the node commands."""

    def __init__(
        self, configs: list[Config], directory: Path, held: Claim, options: Options, announce: Announce, restart: bool
    ) -> None:
        self.directory = directory
        self.began = time.monotonic()
        self._children = [_Child(config) for config in configs]
        self._ready_file = options.ready_file
        self._tie = options.tied_to_fd
        self._announce = announce
        self._announced = False
        self._restart = restart
        self._stop_signals = 0
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Whoever has it knows that nothing of an earlier start still runs.
        keep_open(held.tree)
        self._kept = held.tree

    def run(self) -> int:
        if self._ready_file is not None:
            forget_ready(self._ready_file)
        become_subreaper()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        # The remains of a node that was killed become ours, and are collected when they end.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_out)
        preload()
        for child in self._children:
            self._start(child)
        cause = self._watch()
        self._stop_all()
        return complain(StartError(cause, "the log lines above have the details")) if cause else 0

    def _on_signal(self, *_: object) -> None:
        self._stop_signals += 1

    # Starting

    def _start(self, child: _Child) -> None:
        tied, child.tie = os.pipe2(os.O_CLOEXEC)
        child.reports, reporting = os.pipe2(os.O_CLOEXEC)
        child.said, child.due = b"", 0.0
        sys.stdout.flush()
        sys.stderr.flush()
        first = not self._announced
        pid = os.fork()
        if pid == 0:
            code = EXIT_FAILED
            try:
                _leave_parent({self._kept, tied, reporting})
                code = _run_node(child.config, tied, reporting, len(self._children) if first else 1)
            finally:
                os._exit(code)
        os.close(tied)
        os.close(reporting)
        child.pid = pid
        child.ended = os.pidfd_open(pid)

    # Watching

    def _watch(self) -> str:
        """Until a signal (empty) or a node that cannot start at all (the cause)."""
        reader = standard_output_pipe()
        while not self._stop_signals:
            poll = select.poll()
            poll.register(self._wake_in, select.POLLIN)
            if self._tie is not None:
                poll.register(self._tie, select.POLLIN)
            if reader is not None:
                # No event is asked for; an error is told all the same, once nobody can read any more.
                poll.register(reader, 0)
            by_descriptor = {}
            for child in self._children:
                for descriptor in (child.reports, child.ended):
                    if descriptor >= 0:
                        by_descriptor[descriptor] = child
                        poll.register(descriptor, select.POLLIN)
            for descriptor, event in poll.poll(self._pause_ms()):
                if descriptor == reader and event & select.POLLERR:
                    reader_left()
                    return ""
                if descriptor == self._wake_in:
                    _drained(self._wake_in)
                elif descriptor == self._tie:
                    self._hear_owner(descriptor)
                elif descriptor in by_descriptor:
                    self._hear(by_descriptor[descriptor])
            cause = self._collect()
            if cause:
                return cause
            self._start_due()
        return ""

    def _hear_owner(self, tie: int) -> None:
        """Who holds the other end is gone, or says which nodes are to be started again: a byte each."""
        numbers = os.read(tie, 256)
        if not numbers:
            self._tie = None
            self._stop_signals += 1
        for child in self._children:
            if child.number in numbers and not child.pid:
                child.due = time.monotonic()

    def _pause_ms(self) -> int | None:
        due = [child.due for child in self._children if child.due]
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def _hear(self, child: _Child) -> None:
        """A node is ready (again): its details, a line of JSON."""
        if child.reports < 0 or not select.select([child.reports], [], [], 0)[0]:
            return
        data = os.read(child.reports, 1 << 20)
        if not data:
            os.close(child.reports)
            child.reports = -1
            return
        child.said += data
        *lines, child.said = child.said.split(b"\n")
        for line in lines:
            child.details = json.loads(line)
        if lines:
            self._tell()

    def _tell(self) -> None:
        details = [child.details for child in self._children if child.details is not None]
        if len(details) < len(self._children):
            return
        if self._ready_file is not None:
            nodes = [{key: value for key, value in node.items() if key != "cluster_id"} for node in details]
            write_ready(self._ready_file, details[0]["cluster_id"], nodes, pid=os.getpid())
        if not self._announced:
            self._announced = True
            with contextlib.suppress(BrokenPipeError):
                self._announce(details, time.monotonic() - self.began, self.directory)

    def _collect(self) -> str:
        """The node commands that have ended; the cause if that is no use to repair."""
        for pid, code in reap():
            child = next((one for one in self._children if one.pid == pid), None)
            if child is None:
                continue
            child.close()
            how = f"signal={-code}" if code < 0 else f"status={code}"
            if not self._announced:
                return f"node {child.number} did not start ({how})"
            log.warning("node ended node=%d pid=%d %s", child.number, pid, how)
            pause = child.restarts.exited(time.monotonic())
            if self._restart and pause is not None:
                child.due = time.monotonic() + pause
        return ""

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.due and child.due <= now:
                self._start(child)
                log.info("node started again node=%d pid=%d", child.number, child.pid)

    # Stopping

    def _stop_all(self) -> None:
        """All at once, so that no leader is moved: nobody would be left to lead."""
        deadline = time.monotonic() + STOP_S + 1.0
        for child in self._children:
            if child.tie >= 0:
                os.close(child.tie)
                child.tie = -1
        while self._stop_signals < 2 and time.monotonic() < deadline:
            alive = [child.ended for child in self._children if child.pid]
            if not alive:
                break
            select.select([*alive, self._wake_in], [], [], 0.1)
            _drained(self._wake_in)
            gone = dict(reap())
            for child in self._children:
                if child.pid in gone:
                    child.close()
        end_descendants()


def _drained(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)


def _leave_parent(kept: set[int]) -> None:
    """In a forked node command: nothing of the parent's but what it needs. Its reader and its signals are not ours."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    last = 2
    for descriptor in sorted(one for one in kept if one > 2):
        os.closerange(last + 1, descriptor)
        last = descriptor
    os.closerange(last + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _run_node(config: Config, tied: int, reporting: int, nodes: int) -> int:
    """The node command itself."""
    setproctitle(f"logeion[{config.node.id}] command")
    own_logging(config.log, f"command/{config.node.id}")
    logging.getLogger("Thespian").setLevel(logging.WARNING)

    def on_ready(details: dict[str, Any], took: float) -> None:
        line = json.dumps(details).encode() + b"\n"
        while line:
            line = line[os.write(reporting, line) :]

    directory = Path(config.node.data_dir)
    try:
        held = claim(directory, fresh=False)
        ports = Ports()
        config = ports.settle(config)
    except (ConfigError, StartError) as error:
        return complain(error)
    return Command(config, directory, held, ports, on_ready, tied, nodes=nodes, child=True).run()

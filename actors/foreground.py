"""The command's process: one Thespian tree, watched, restarted as a whole, stopped in order.

Single-threaded and without asyncio, because everything else is forked from here.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from logeion.wire.errors import ConfigError

from .claim import Claim, StartError, claim, clear_run
from .config import Config, load
from .options import Options, check_cluster, check_guarded, check_tie, flags, located
from .ports import Ports
from .processes import children, end_descendants, reap
from .restarts import Policy, Restarts
from .runtime import FAILURE, ActorSpec
from .thespian_traps import become_subreaper, forget_system, keep_open, own_logging
from .thespian_traps import install as install_traps

log: logging.Logger = logging.getLogger(__name__)

THESPIAN_ADDRESS = "127.0.0.1"
CREATE_S = 5.0
# When to say that it takes long, and when to give up: hundreds of partitions need their time on a small machine.
READY_S, READY_MAX_S = 30.0, 120.0
STOP_S = 15.0
# How long the others may take to lead what this node led.
DRAIN_S = 10.0
# More trees than this, and another one is no help.
TREES = Policy(intensity=10, period_s=30.0)
EXIT_FAILED = 1


OnReady = Callable[[dict[str, Any], float], None]
"""What a tree that has just become ready is (an entry of ``nodes`` in FILE.json, and ``cluster_id``), and how many
seconds after the command's start."""


def run(options: Options, defaults: Mapping[str, object] | None = None) -> int:
    """Run a node until it is told to stop; the command's exit code. ``defaults`` are this command's own."""
    try:
        check_tie(options.tied_to_fd)
        loaded = load(options.config_file, os.environ, flags(options), defaults)
        config, directory = located(loaded.config)
        if config.cluster.voters and loaded.origins["node.id"] == "default":
            raise ConfigError("node.id is not set; the nodes of a cluster have each their own")
        check_cluster(config)
        if options.guarded:
            check_guarded(config)
        held = claim(directory, options.fresh)
        ports = Ports()
        config = ports.settle(config)
    except (ConfigError, StartError) as error:
        return complain(error)
    own_logging(config.log, f"command/{config.node.id}")
    logging.getLogger("Thespian").setLevel(logging.WARNING)
    if options.ready_file is not None:
        forget_ready(options.ready_file)
    announced = False

    def on_ready(details: dict[str, Any], took: float) -> None:
        nonlocal announced
        if not announced:
            announced = True
            _announce(details, took, directory)
        if options.ready_file is not None:
            write_ready(options.ready_file, details.pop("cluster_id"), [details])

    try:
        return Command(config, directory, held, ports, on_ready, options.tied_to_fd).run()
    finally:
        held.release()


def complain(error: Exception) -> int:
    """Say on standard error why nothing starts, and what to try; the exit code."""
    return _complain(str(error), getattr(error, "hint", "logeion config show --origin says where values come from"))


def _complain(cause: str, hint: str) -> int:
    print(f"logeion: {cause}", file=sys.stderr)
    print(f"try: {hint}", file=sys.stderr)
    return EXIT_FAILED


class Command:
    """The tree and its watch."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        held: Claim,
        ports: Ports,
        on_ready: OnReady,
        tied_to_fd: int | None,
        *,
        nodes: int = 1,
        child: bool = False,
    ) -> None:
        """It is ready when so many ``nodes`` of the cluster are. A ``child`` is one of several nodes of a command, to
        which Ctrl-C, the terminal and the reader of standard output belong."""
        self.config = config
        self.directory = directory
        self.began: float = time.monotonic()
        self._ports = ports
        self._on_ready = on_ready
        self._nodes = nodes
        self._child = child
        self._stop_signals = 0
        # Whoever started this has the other end: its end, even by SIGKILL, is a signal to stop.
        self._tie = tied_to_fd
        self._watch: dict[int, str] = {}
        self._supervisor = 0
        self._admin = 0
        self._system: Any = None
        keep_open(held.tree)
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        become_subreaper()
        install_traps(self.config.node.id)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            ignored = self._child and number != signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ignored else self._on_signal)
        signal.set_wakeup_fd(self._wake_out)
        preload()
        trees = Restarts(TREES)
        served = False
        while True:
            cause = self._start()
            if not cause:
                cause = self._await_ready()
                served = served or not cause
            if not cause:
                cause = self._watch_tree()
            if not cause:
                self._drain()
                self._stop_tree()
                return 0
            self._kill_tree()
            if self._stopped():
                return 0
            cause = self._explained(cause)
            if not served:
                return _complain(cause, "the log lines above have the details")
            pause = trees.exited(time.monotonic())
            if pause is None:
                return _complain(
                    f"{trees.cause('the tree of processes')}; last: {cause}", "the log lines above say more"
                )
            log.error("tree ended, starting another cause=%s", cause)
            clear_run(self.directory / "run")
            self._rest(pause)

    def _on_signal(self, *_: object) -> None:
        self._stop_signals += 1

    def _ties(self) -> list[int]:
        return [] if self._tie is None else [self._tie]

    def _stopped(self) -> bool:
        """Whether to stop: by a signal, or because who started this has let go of the pipe."""
        if self._tie is not None and select.select([self._tie], [], [], 0)[0]:
            self._tie = None
            self._stop_signals += 1
        return self._stop_signals > 0

    # Starting

    def _start(self) -> str:
        """Start admin and supervisor; the cause if that failed."""
        from thespian.actors import ActorSystem, ActorSystemException

        from . import seal
        from .supervisor import Supervisor

        node = self.config.node.id
        seal.install(os.urandom(32), THESPIAN_ADDRESS)
        spec = ActorSpec(
            actor=f"supervisor/{node}",
            kind="supervisor",
            node=node,
            incarnation=time.time_ns(),
            data_dir=str(self.directory),
            config=self.config.encode(),
        )
        known = set(children(os.getpid()))
        try:
            self._system = ActorSystem(
                "multiprocTCPBase",
                {"Admin Port": self._ports.one(THESPIAN_ADDRESS, "--port")},
                logDefs={"version": 1},
                transientUnique=True,
            )
            supervisor = self._system.createActor(Supervisor, targetActorRequirements={"spec": spec.encode()})
            self._supervisor = self._system.ask(supervisor, "start", CREATE_S) or 0
        except (ActorSystemException, ConfigError, OSError) as error:
            return f"Thespian did not start: {error}"
        if not self._supervisor:
            return f"the supervisor did not answer within {CREATE_S:.0f} s"
        # All that is left to say is said by signals.
        forget_system(self._system)
        self._system = None
        reap()
        admins = [pid for pid in children(os.getpid()) if pid not in known]
        if len(admins) != 1:
            return f"expected one Thespian admin, found {len(admins)}"
        self._admin = admins[0]
        try:
            self._watch = {
                os.pidfd_open(self._admin): "Thespian's admin ended",
                os.pidfd_open(self._supervisor): "the supervisor ended",
            }
        except ProcessLookupError:
            return "the supervisor ended as soon as it had started"
        return ""

    def _rest(self, seconds: float) -> None:
        """Wait, unless a signal comes."""
        if seconds and not self._stopped():
            select.select([self._wake_in, *self._ties()], [], [], seconds)

    def _explained(self, cause: str) -> str:
        """The cause, with what the Supervisor or an actor left behind to explain its end."""
        with contextlib.suppress(OSError):
            cause += ": " + (self.directory / "run" / FAILURE).read_text(errors="replace").strip()
        return cause

    def _await_ready(self) -> str:
        """Until Node says so; the cause if the tree ended first or it takes too long."""
        asked = time.monotonic()
        deadline = asked + READY_S
        while not self._stopped():
            try:
                ready = _ask_ready(self.directory / "run", self._nodes, self._events_until(deadline))
            except _Interrupted:
                return "" if self._stopped() else self._ended()
            if ready is not None:
                self._on_ready(self._details(ready), time.monotonic() - self.began)
                return ""
            if time.monotonic() > deadline:
                waited = time.monotonic() - asked
                # Where several hosts make a cluster, the others may come much later.
                several = len(self.config.cluster.voters) > 1
                if waited > READY_MAX_S and not several:
                    return f"the node was not ready within {READY_MAX_S:.0f} s"
                hint = f": do most voters ({', '.join(self.config.cluster.voters)}) run, with one secret?"
                log.warning("not ready after %.0f s%s", waited, hint if several else "")
                deadline = time.monotonic() + READY_S
        return ""

    def _events_until(self, deadline: float) -> Iterator[float]:
        """Seconds that may be waited for, again and again until the deadline; raises ``_Interrupted`` when something
        else is to do."""
        while time.monotonic() <= deadline:
            if self._stopped() or self._ended():
                raise _Interrupted
            yield min(0.05, max(0.001, deadline - time.monotonic()))

    def _details(self, ready: Any) -> dict[str, Any]:
        return {
            "cluster_id": ready.cluster_id,
            "node": ready.node,
            "listeners": ready.listeners,
            "admin": ready.admin,
            "pid": os.getpid(),
            "admin_pid": self._admin,
            "supervisor_pid": self._supervisor,
            "role": "controller,broker" if ready.node in (self.config.voters() or [ready.node]) else "broker",
            "leads": ready.leads,
            "advertises": self.config.listeners.advertise or ready.listeners[0],
            "actors": [{"id": a.actor, "kind": a.kind, "pid": a.pid} for a in ready.actors],
        }

    # Watching

    def _ended(self) -> str:
        """Why the tree is not whole any more; empty while it is."""
        readable = select.select(list(self._watch), [], [], 0)[0]
        return self._watch[readable[0]] if readable else ""

    def _watch_tree(self) -> str:
        """Until a signal (empty), or the end of admin or supervisor, or the latter's hanging (the cause)."""
        from .hangs import Hangs

        poll = select.poll()
        for descriptor in (*self._watch, self._wake_in, *self._ties()):
            poll.register(descriptor, select.POLLIN)
        reader = None if self._child else standard_output_pipe()
        if reader is not None:
            # No event is asked for; an error is told all the same, once nobody can read any more.
            poll.register(reader, 0)
        hung_s = self.config.node.hung_ms / 1000
        hangs = Hangs(self.directory / "run", self._supervisor, hung_s, poll, time.monotonic())
        try:
            while True:
                events = poll.poll(hangs.wait_ms(time.monotonic()))
                if any(descriptor == reader and event & select.POLLERR for descriptor, event in events):
                    reader_left()
                    return ""
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_in, 4096)
                reap()
                if self._stopped():
                    return ""
                cause = self._ended() or hangs.turn({descriptor for descriptor, _ in events}, time.monotonic())
                if cause:
                    return cause
        finally:
            hangs.close()

    # Stopping

    def _drain(self) -> None:
        """Let others lead what this node leads, while it can still hand it over; not if they all stop together."""
        if (self._tie is None and self._child) or not self.config.cluster.voters:
            return
        from .blocking import BlockingLane
        from .messages import Drain

        began = time.monotonic()
        try:
            with BlockingLane(self.directory / "run" / "node.sock", "command") as lane:
                lane.ask(Drain(timeout_ms=int(DRAIN_S * 1000)), self._drain_waits(began + DRAIN_S + 1.0))
        except (OSError, EOFError, StopIteration, _Interrupted) as error:
            log.warning("stopping without having drained: %s", str(error) or "it takes too long")
        else:
            log.info("drained in %.2f s", time.monotonic() - began)

    def _drain_waits(self, deadline: float) -> Iterator[float]:
        while time.monotonic() < deadline:
            if self._stop_signals > 1 or self._ended():
                raise _Interrupted
            yield 0.05

    def _stop_tree(self) -> None:
        """Let the supervisor stop all in order; a second signal, or the deadline, kills what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._supervisor, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        supervisor = [fd for fd, what in self._watch.items() if "supervisor" in what]
        while self._stop_signals < 2 and time.monotonic() < deadline:
            if select.select([*supervisor, self._wake_in], [], [], 0.1)[0]:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_in, 4096)
            if not supervisor or select.select(supervisor, [], [], 0)[0]:
                break
        self._kill_tree()
        shutil.rmtree(self.directory / "run", ignore_errors=True)

    def _kill_tree(self) -> None:
        """End every process below this one, however deep, and wait for them."""
        end_descendants()
        for descriptor in self._watch:
            os.close(descriptor)
        self._watch.clear()
        if self._system is not None:
            forget_system(self._system)
            self._system = None


class _Interrupted(Exception):
    """A signal came, or the tree is not whole any more."""


def preload() -> None:
    """Load what the children run, so that they share its memory and fork ready."""
    from .supervisor import actor_class

    for kind in ("controller", "node", "gateway", "partition", "replica"):
        actor_class(kind)
    from logeion.wire import apis

    assert apis.APIS
    gc.collect()
    gc.freeze()


def standard_output_pipe() -> int | None:
    """Standard output, if it is a pipe or a socket that somebody reads."""
    try:
        descriptor = sys.stdout.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def reader_left() -> None:
    """``logeion up | head -1``: whoever read our output has enough, so the command ends like any other would."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _ask_ready(run_dir: Path, nodes: int, waits: Iterator[float]) -> Any:
    """Node's ``Ready``, or None when Node could not be asked this time."""
    from .blocking import BlockingLane
    from .messages import AwaitReady, Ready

    try:
        lane = BlockingLane(run_dir / "node.sock", "command")
    except OSError:
        time.sleep(next(waits, 0.0) / 10)
        return None
    with lane:
        try:
            answer = lane.ask(AwaitReady(nodes=nodes), waits)
        except (OSError, EOFError, StopIteration):
            return None
    return answer if isinstance(answer, Ready) else None


def _announce(details: dict[str, Any], took: float, directory: Path) -> None:
    lines = (
        f"logeion: node {details['node']} ready in {took:.2f} s (Ctrl-C stops, data is kept)",
        f"  Kafka  {', '.join(details['listeners'])}",
        f"  Admin  {', '.join('http://' + address for address in details['admin'])}",
        f"  Data   {directory}",
    )
    with contextlib.suppress(BrokenPipeError):
        print("\n".join(lines), flush=True)


def forget_ready(ready_file: Path) -> None:
    """What an earlier run wrote would tell a waiting test the wrong addresses."""
    for path in (ready_file, _details(ready_file)):
        path.unlink(missing_ok=True)


def write_ready(ready_file: Path, cluster_id: str, nodes: list[dict[str, Any]], **more: object) -> None:
    """FILE.json with the details, then FILE with the Kafka listeners, one a line."""
    _write(_details(ready_file), json.dumps({"cluster_id": cluster_id, **more, "nodes": nodes}, indent=1) + "\n")
    _write(ready_file, "".join(f"{address}\n" for node in nodes for address in node["listeners"]))


def _details(ready_file: Path) -> Path:
    """Where the details stand, beside the ready file."""
    return ready_file.with_name(ready_file.name + ".json")


def _write(path: Path, text: str) -> None:
    """The file, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)

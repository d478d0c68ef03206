"""Lanes between hosts: one cluster port a host, where whoever dials first proves that he knows the cluster's secret.

Node owns the port. The dialler names the actor it wants; once both sides have proved themselves (``handshake``) the
connection is handed to that actor (``handover``) and is an ordinary lane: Node is out of the path. Until then a
connection is held to a few hundred bytes and five seconds, and the oldest of too many gives way to the newest: whoever
is honest needs no more than a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

from logeion.wire.errors import ConfigError

from . import handshake
from .config import Config, show_address
from .handover import connect_inbox, send_socket
from .handshake import HandshakeError
from .lanes import Lane, LaneError, LaneTimeout, OnClosed, OnMessage, lane_over

log: logging.Logger = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
CONNECT_S = 2.0
# A peer that acknowledges nothing for so long is gone; an idle one is asked after KEEP_IDLE_S.
USER_TIMEOUT_MS = 2_000
KEEP_IDLE_S, KEEP_INTERVAL_S, KEEP_PROBES = 5, 1, 3
# Connections that have not proved themselves yet, and those on their way to an actor that does not take them.
STRANGERS_MAX, STRANGERS_PER_ADDRESS, PASSING_MAX = 1024, 512, 1024
# How long a connection is kept for a leader that does not listen yet: followers come before it has started. Looked for
# whenever a socket has appeared; names that are this fresh may hide others of the same tick of the clock.
HOLD_S = 1.5
LOOK_S = 0.005
FRESH_NS = 20_000_000
HELD = b"partition-"
ACCEPTS = 64
REST_S = 1.0
COMPLAIN_S = 1.0
SECRET_MIN, SECRET_MAX = 16, 4096


# The secret -------------------------------------------------------------------------------------------------------


def load_secret(config: Config) -> bytes:
    """What the hosts of this cluster know of each other; raises ``ConfigError`` that says what is wrong with the file.

    It must be an ordinary file of our own that nobody else may read, with 16 bytes or more.
    """
    name = config.cluster.secret_file
    if not name:
        raise ConfigError(
            "cluster.voters needs cluster.secret_file, the same on all nodes; to make one: "
            "(umask 077; head -c 32 /dev/urandom | base64 > cluster.secret)"
        )
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"cluster.secret_file {name}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"cluster.secret_file {name} is no ordinary file")
        if found.st_uid != os.geteuid():
            raise ConfigError(f"cluster.secret_file {name} belongs to another user (uid {found.st_uid}); chown it")
        if found.st_mode & 0o077:
            raise ConfigError(
                f"cluster.secret_file {name} has mode {stat.S_IMODE(found.st_mode):04o}, others may use it; "
                f"chmod 600 {name}"
            )
        secret = os.read(descriptor, SECRET_MAX + 1).strip()
    finally:
        os.close(descriptor)
    if not SECRET_MIN <= len(secret) <= SECRET_MAX:
        raise ConfigError(
            f"cluster.secret_file {name} holds {len(secret)} bytes; {SECRET_MIN} to {SECRET_MAX} are wanted, "
            "32 random ones are good"
        )
    return secret


# The port ---------------------------------------------------------------------------------------------------------


class HostPort:
    """The listening side, in Node: accepts, verifies, hands over."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sockets: list[socket.socket], run_dir: Path, secret: bytes
    ) -> None:
        """``sockets`` listen already; they are closed by ``close``."""
        self.loop = loop
        self.run_dir = run_dir
        self.secret = secret
        self._sockets = sockets
        # In the order in which they came.
        self._strangers: dict[_Arrival, None] = {}
        self._of_address: dict[str, dict[_Arrival, None]] = {}
        self._passing: set[_Arrival] = set()
        # Those whose actor does not listen yet, and when they are refused.
        self._waiting: dict[_Arrival, float] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._looked_ns = 0
        self._complained = -COMPLAIN_S
        self._unsaid = 0
        for sock in sockets:
            sock.setblocking(False)
            self._listen(sock)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where other hosts connect."""
        return [sock.getsockname()[:2] for sock in self._sockets]

    def close(self) -> None:
        """Stop listening; what is not handed over yet is dropped."""
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self.loop.remove_reader(sock.fileno())
                sock.close()
        for arrival in [*self._strangers, *self._passing]:
            arrival.drop("")
        if self._looking is not None:
            self._looking.cancel()

    def _listen(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self.loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("cluster port accepts nothing for %s s: %s", REST_S, error.strerror)
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(REST_S, self._listen, listener)
                return
            host = str(peer[0])
            mates = self._of_address.get(host, {})
            if len(mates) >= STRANGERS_PER_ADDRESS:
                next(iter(mates)).drop(f"more than {STRANGERS_PER_ADDRESS} connections of its address prove nothing")
            elif len(self._strangers) >= STRANGERS_MAX:
                next(iter(self._strangers)).drop(f"more than {STRANGERS_MAX} connections prove nothing")
            arrival = _Arrival(self, sock, host, int(peer[1]))
            self._strangers[arrival] = None
            self._of_address.setdefault(host, {})[arrival] = None
            arrival.greet()

    def proved(self, arrival: _Arrival) -> bool:
        """It is no stranger any more; False: too many are on their way already."""
        self.forget(arrival)
        if len(self._passing) >= PASSING_MAX:
            return False
        self._passing.add(arrival)
        return True

    def hold(self, arrival: _Arrival) -> bool:
        """Keep it until its actor listens, which is tried again by ``find``; False if that has been too long."""
        now = self.loop.time()
        if now >= self._waiting.setdefault(arrival, now + HOLD_S):
            return False
        if self._looking is None:
            self._looked_ns = 0
            self._looking = self.loop.call_later(LOOK_S, self._look)
        return True

    def found(self, arrival: _Arrival) -> None:
        """Its actor listens."""
        self._waiting.pop(arrival, None)

    def _look(self) -> None:
        self._looking = None
        now = self.loop.time()
        changed_ns = self.run_dir.stat().st_mtime_ns
        new = changed_ns != self._looked_ns or time.time_ns() - changed_ns < FRESH_NS
        self._looked_ns = changed_ns
        for arrival, until in list(self._waiting.items()):
            if new or now >= until:
                arrival.find()
        if self._waiting and self._looking is None:
            self._looking = self.loop.call_later(LOOK_S, self._look)

    def forget(self, arrival: _Arrival) -> None:
        """It is gone, or another's."""
        self._passing.discard(arrival)
        self._waiting.pop(arrival, None)
        if arrival in self._strangers:
            del self._strangers[arrival]
            mates = self._of_address[arrival.host]
            del mates[arrival]
            if not mates:
                del self._of_address[arrival.host]

    def complain(self, arrival: _Arrival, cause: str, level: int) -> None:
        """Log why it was dropped, but not every one of a flood."""
        now = self.loop.time()
        if now - self._complained < COMPLAIN_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more like this since the last line)" if self._unsaid else ""
        self._complained, self._unsaid = now, 0
        peer = show_address(arrival.host, arrival.port)
        log.log(level, "cluster port dropped a connection peer=%s: %s%s", peer, cause, more)


class _Arrival:
    """One connection until it is handed over."""

    host: str
    port: int

    def __init__(self, port: HostPort, sock: socket.socket, host: str, number: int) -> None:
        self._owner = port
        self._sock = sock
        self.host, self.port = host, number
        self._nonce = os.urandom(handshake.NONCE_SIZE)
        self._data = b""
        self._need = handshake.CLAIM_HEAD
        self._inbox: socket.socket | None = None
        self._closed = False
        self._timer = port.loop.call_later(HANDSHAKE_S, self._late)

    def greet(self) -> None:
        try:
            self._sock.setblocking(False)
            tune(self._sock)
            # A fresh connection has room for so little.
            self._sock.send(handshake.greeting(self._nonce))
        except OSError as error:
            self.drop(error.strerror or str(error), logging.INFO)
            return
        self._owner.loop.add_reader(self._sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(self._need - len(self._data))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.drop(error.strerror or str(error), logging.INFO)
            return
        if not data:
            # Whoever dialled may have ended; or somebody looked whether the port is open.
            self.drop("it went away in the middle of the handshake" if self._data else "it said nothing", logging.INFO)
            return
        self._data += data
        if len(self._data) < self._need:
            return
        try:
            if self._need == handshake.CLAIM_HEAD:
                self._need = handshake.claim_size(self._data)
                return
            self._theirs, self._target = handshake.read_claim(self._owner.secret, self._nonce, self._data)
        except HandshakeError as error:
            self.drop(str(error))
            return
        self._owner.loop.remove_reader(self._sock.fileno())
        if self._owner.proved(self):
            self.find()
        else:
            self._refuse(handshake.BUSY, "too many connections wait for their actors")

    def find(self) -> None:
        """Give it to its actor, now or as soon as that listens."""
        name = self._target.decode()
        if name.startswith(handshake.PROBE):
            self._tell(name.removeprefix(handshake.PROBE))
            return
        try:
            self._inbox = connect_inbox(self._owner.run_dir / f"{name}.in")
        except OSError as error:
            absent = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            if absent and self._target.startswith(HELD) and self._owner.hold(self):
                return
            cause = error.strerror if error.errno not in (errno.ENOENT, errno.ECONNREFUSED) else "it does not run"
            self._refuse(handshake.NOT_THERE, f"no {name} here: {cause}")
            return
        self._owner.found(self)
        self._pass_on()

    def _tell(self, name: str) -> None:
        """Only whether the actor's process has ended.

        A socket that nobody holds proves that whoever bound it is gone; one that is missing proves nothing.
        """
        try:
            connect_inbox(self._owner.run_dir / f"{name}.in").close()
        except ConnectionRefusedError:
            self._refuse(handshake.ENDED, f"{name} has ended", logging.DEBUG)
        except OSError as error:
            self._refuse(handshake.NOT_THERE, f"no {name} here: {error.strerror}", logging.DEBUG)
        else:
            self._refuse(handshake.RUNS, f"{name} runs", logging.DEBUG)

    def _pass_on(self) -> None:
        """Give it to the actor; while that has no room for it, try again."""
        assert self._inbox is not None
        loop = self._owner.loop
        welcome = handshake.answer(self._owner.secret, self._nonce, self._theirs, self._target)
        try:
            send_socket(self._inbox, self._sock, welcome)
        except (BlockingIOError, InterruptedError):
            loop.add_writer(self._inbox.fileno(), self._pass_on)
        except OSError as error:
            self._refuse(handshake.NOT_THERE, f"no {self._target.decode()} here: {error.strerror}")
        else:
            self._close()

    def _refuse(self, status: int, reason: str, level: int = logging.INFO) -> None:
        with contextlib.suppress(OSError):
            self._sock.send(
                handshake.answer(self._owner.secret, self._nonce, self._theirs, self._target, status, reason)
            )
        log.log(level, "lane refused peer=%s: %s", show_address(self.host, self.port), reason)
        self._close()

    def _late(self) -> None:
        if self._inbox is not None:
            self._refuse(handshake.BUSY, f"{self._target.decode()} did not take the connection")
        else:
            self.drop(f"it proved nothing within {HANDSHAKE_S:.0f} s")

    def drop(self, cause: str, level: int = logging.WARNING) -> None:
        """Close without a word; ``cause`` is for our log."""
        if cause:
            self._owner.complain(self, cause, level)
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._owner.forget(self)
        self._owner.loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if self._inbox is not None:
            self._owner.loop.remove_writer(self._inbox.fileno())
            self._inbox.close()


# Dialling ---------------------------------------------------------------------------------------------------------


async def dial_host(
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    target: str,
    *,
    secret: bytes,
    on_message: OnMessage | None = None,
    on_closed: OnClosed | None = None,
) -> Lane:
    """A lane to the actor whose lane socket is called ``target`` on the host of this cluster port.

    Raises ``OSError`` when nobody listens there, ``LaneError`` when the other side is none of this cluster, has no
    such actor, or does not finish within ``HANDSHAKE_S``.
    """
    async with _in_time(target, host, port):
        sock = await _connect(loop, host, port)
        try:
            status, reason = await _prove(loop, sock, target, secret)
            if status != handshake.OK:
                raise HandshakeError(reason)
        except BaseException:
            sock.close()
            raise
    return await lane_over(loop, sock, on_message=on_message, on_closed=on_closed)


async def has_ended(loop: asyncio.AbstractEventLoop, host: str, port: int, actor: str, *, secret: bytes) -> bool:
    """Whether the process of this actor (its lane socket's name) has ended, as its own host sees it; no lane is opened.

    False: it runs, or that host cannot tell. Raises as ``dial_host`` does.
    """
    async with _in_time(actor, host, port):
        with await _connect(loop, host, port) as sock:
            status, _ = await _prove(loop, sock, handshake.PROBE + actor, secret)
    return status == handshake.ENDED


@contextlib.asynccontextmanager
async def _in_time(target: str, host: str, port: int) -> AsyncIterator[None]:
    """A handshake within ``HANDSHAKE_S``; what fails of it is told as a lane's failure."""
    where = f"{target} at {show_address(host, port)}"
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            yield
    except TimeoutError as error:
        raise LaneTimeout(f"{where}: no handshake in time") from error
    except HandshakeError as error:
        raise LaneError(f"{where}: {error}") from error


async def _prove(loop: asyncio.AbstractEventLoop, sock: socket.socket, target: str, secret: bytes) -> tuple[int, str]:
    """What the port answers once both sides have proved themselves: its status and reason."""
    theirs = handshake.read_greeting(await _read(loop, sock, handshake.GREETING_SIZE, "it closed before its greeting"))
    nonce = os.urandom(handshake.NONCE_SIZE)
    await loop.sock_sendall(sock, handshake.claim(secret, theirs, nonce, target))
    head = await _read(loop, sock, handshake.ANSWER_HEAD, "it did not accept our proof: is the secret the same?")
    size = handshake.answer_size(head)
    if size > len(head):
        head += await _read(loop, sock, size - len(head), "it closed in the middle of its answer")
    return handshake.read_answer(secret, theirs, nonce, target, head)


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int, otherwise: str) -> bytes:
    """Exactly so many bytes: what follows them is the lane's."""
    data = b""
    while len(data) < size:
        try:
            more = await loop.sock_recv(sock, size - len(data))
        except ConnectionResetError:
            more = b""
        if not more:
            raise HandshakeError(otherwise)
        data += more
    return data


async def _connect(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """A connection to the first address of the host that accepts one."""
    last: OSError = OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    for family, address in await _addresses(loop, host, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            tune(sock)
            async with asyncio.timeout(CONNECT_S):
                await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]
    return [(socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port))]


def tune(sock: socket.socket) -> None:
    """Small frames leave at once, and a peer that is gone is noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_PROBES)

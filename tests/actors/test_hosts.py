"""Lanes between hosts: who knows the secret reaches the actor it names, and nobody else reaches anything."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from logeion.actors import handshake, hosts, lanes
from logeion.actors.config import ClusterSection, Config
from logeion.actors.handover import WELCOME_MAX, connect_inbox
from logeion.actors.hosts import HostPort, dial_host, load_secret
from logeion.actors.lanes import Lane, LaneClosed, LaneError, LaneListener, LaneTimeout, introduce
from logeion.actors.messages import AnyMessage, Hello, Message, Ping, Pong, StateChanged
from logeion.actors.stream import Frame
from logeion.wire.buffers import Buffer
from logeion.wire.errors import ConfigError

SECRET = b"correct horse battery staple"


@pytest.fixture(autouse=True)
def introduced() -> Iterator[None]:
    before = lanes._myself
    introduce(Hello(actor="test/7", kind="test", node=7, pid=os.getpid()))
    yield
    lanes._myself = before


class Host:
    """A cluster port, and one actor called ``target`` behind it that answers Ping."""

    def __init__(self, run_dir: Path, address: str = "127.0.0.1") -> None:
        self.loop = asyncio.get_running_loop()
        self.run_dir = run_dir
        self.lanes: list[Lane] = []
        self.heard: list[Message] = []
        self.actor = LaneListener(self.loop, run_dir / "target.sock", self._on_lane)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.port = HostPort(self.loop, [socket.create_server((address, 0), family=family)], run_dir, SECRET)
        self.address: tuple[str, int] = self.port.addresses[0]

    def _on_lane(self, lane: Lane) -> None:
        self.lanes.append(lane)
        lane.on_message = self._on_message

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        self.heard.append(message)
        if isinstance(message, Ping):
            lane.reply(request, Pong())
        elif isinstance(message, StateChanged):
            lane.reply(request, StateChanged(state=str(len(frame.view))))

    async def dial(self, target: str = "target", secret: bytes = SECRET) -> Lane:
        return await dial_host(self.loop, *self.address, target, secret=secret)

    async def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET)
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.address)
        return sock

    async def answers(self) -> bool:
        """Whether an honest host is still served."""
        lane = await self.dial()
        answer = await lane.request(Ping(), timeout_s=5)
        lane.close()
        return answer == Pong()

    @property
    def strangers(self) -> int:
        return len(self.port._strangers)

    def close(self) -> None:
        self.port.close()
        self.actor.close()


Body = Callable[[Host], Awaitable[None]]


def run(folder: Path, body: Body, address: str = "127.0.0.1") -> None:
    async def bounded() -> None:
        before = len(os.listdir("/proc/self/fd"))
        host = Host(folder, address)
        try:
            await asyncio.wait_for(body(host), 20)
        finally:
            host.close()
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before, "no descriptor is left")
        assert [path.name for path in folder.iterdir()] == []

    asyncio.run(bounded())


async def until(condition: Callable[[], object], what: str = "") -> None:
    deadline = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.001)


async def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    loop = asyncio.get_running_loop()
    try:
        while more := await loop.sock_recv(sock, 65536):
            data += more
    except ConnectionResetError:
        pass
    return data


async def greeted(host: Host) -> tuple[socket.socket, bytes]:
    """A connection, and the nonce of the port's greeting."""
    sock = await host.connect()
    data = b""
    while len(data) < handshake.GREETING_SIZE:
        data += await host.loop.sock_recv(sock, handshake.GREETING_SIZE - len(data))
    return sock, handshake.read_greeting(data)


# What works -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_knows_the_secret_has_a_lane_to_the_actor(tmp_path: Path, address: str) -> None:
    if address == "::1" and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this kernel has no IPv6")

    async def body(host: Host) -> None:
        lane = await host.dial()
        assert lane.peer is not None and lane.peer.actor == "test/7"
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        payload: list[Buffer] = [b"abc", memoryview(bytes(9_000_000))]
        assert await lane.request(StateChanged(state=""), payload, timeout_s=5) == StateChanged(state="9000003")
        (far,) = host.lanes
        for sock in (lane._stream.sock, far._stream.sock):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not os.get_inheritable(sock.fileno())
        assert not host.port._strangers and not host.port._passing and not host.port._of_address
        lane.close()
        await until(lambda: far.closed)
        assert host.actor.lanes == set()

    run(tmp_path, body, address)


def test_a_host_may_be_a_name(tmp_path: Path) -> None:
    async def body(host: Host) -> None:
        lane = await dial_host(host.loop, "localhost", host.address[1], "target", secret=SECRET)
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        lane.close()

    run(tmp_path, body)


def test_the_port_is_out_of_the_path_once_it_has_handed_over(tmp_path: Path) -> None:
    async def body(host: Host) -> None:
        lane = await host.dial()
        host.port.close()
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        lane.close()

    run(tmp_path, body)


def test_many_dial_at_once(tmp_path: Path) -> None:
    async def body(host: Host) -> None:
        dialled = await asyncio.gather(*(host.dial() for _ in range(100)))
        assert await asyncio.gather(*(lane.request(Ping(), timeout_s=5) for lane in dialled)) == [Pong()] * 100
        for lane in dialled:
            lane.close()

    run(tmp_path, body)


def test_an_actor_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    async def body(host: Host) -> None:
        with pytest.raises(LaneError, match="no partition-abc-0 here: it does not run"):
            await host.dial("partition-abc-0")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(str(tmp_path / "crashed.in"))
        with pytest.raises(LaneError, match="no crashed here: it does not run"):
            await host.dial("crashed")
        (tmp_path / "crashed.in").unlink()
        assert await host.answers()

    run(tmp_path, body)


def test_an_actor_that_takes_nothing_is_waited_for_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "HANDSHAKE_S", 0.3)

    async def body(host: Host) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
            stuck.bind(str(tmp_path / "stuck.in"))
            results = await asyncio.gather(*(host.dial("stuck") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, LaneError) for result in results)
        await until(lambda: not host.port._passing)
        (tmp_path / "stuck.in").unlink()
        assert await host.answers()

    run(tmp_path, body)


def test_an_actor_that_takes_its_time_gets_all_of_them(tmp_path: Path) -> None:
    """The kernel holds ten datagrams; the others wait at the port."""

    async def body(host: Host) -> None:
        host.loop.remove_reader(host.actor._inbox._sock.fileno())
        dialling = [asyncio.ensure_future(host.dial()) for _ in range(30)]
        await until(lambda: len(host.port._passing) >= 15)
        host.loop.add_reader(host.actor._inbox._sock.fileno(), host.actor._inbox._receive)
        for lane in await asyncio.gather(*dialling):
            assert await lane.request(Ping(), timeout_s=5) == Pong()
            lane.close()

    run(tmp_path, body)


# Strangers --------------------------------------------------------------------------------------------------------


def test_a_wrong_secret_is_refused_on_both_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(host: Host) -> None:
        with pytest.raises(LaneError, match="is the secret the same"):
            await host.dial(secret=SECRET + b"!")
        assert "does not know our cluster secret" in caplog.text
        assert SECRET.decode() not in caplog.text
        assert host.lanes == [] and await host.answers()

    run(tmp_path, body)


def test_a_port_that_does_not_prove_itself_is_not_talked_to(tmp_path: Path) -> None:
    """Somebody answers at the address of a host, and does not know the secret."""

    async def body(host: Host) -> None:
        heard = b""
        done = asyncio.Event()

        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal heard
            nonce = os.urandom(32)
            writer.write(handshake.greeting(nonce))
            claim = await reader.readexactly(handshake.CLAIM_HEAD + len("target"))
            writer.write(handshake.answer(b"a secret of its own", nonce, claim[:32], b"target"))
            heard = await reader.read()
            writer.close()
            done.set()

        server = await asyncio.start_server(impostor, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LaneError, match="does not prove"):
            await dial_host(host.loop, "127.0.0.1", port, "target", secret=SECRET)
        await done.wait()
        assert heard == b"", "not even a Hello"
        server.close()
        await server.wait_closed()

    run(tmp_path, body)


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n".ljust(40), b"LgnH\x63" + bytes(32), b"LgnH", b""]
)
def test_what_is_no_cluster_port_is_said_so(tmp_path: Path, greeting: bytes) -> None:
    async def body(host: Host) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LaneError, match=r"no cluster port|speaks version 99|closed before"):
            await dial_host(host.loop, "127.0.0.1", port, "target", secret=SECRET)
        server.close()
        await server.wait_closed()

    run(tmp_path, body)


def test_a_port_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HANDSHAKE_S", 0.05)

    async def body(host: Host) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(LaneTimeout):
                await dial_host(host.loop, "127.0.0.1", silent.getsockname()[1], "target", secret=SECRET)
        with pytest.raises(OSError):
            await dial_host(host.loop, "127.0.0.1", silent.getsockname()[1], "target", secret=SECRET)

    run(tmp_path, body)


def test_a_recorded_handshake_opens_nothing(tmp_path: Path) -> None:
    """Also not when it is played again as it was, byte for byte, nor with another target, nor reflected."""

    async def body(host: Host) -> None:
        sock, nonce = await greeted(host)
        claim = handshake.claim(SECRET, nonce, os.urandom(32), "target")
        await host.loop.sock_sendall(sock, claim)
        first = await host.loop.sock_recv(sock, handshake.ANSWER_HEAD)
        assert len(first) == handshake.ANSWER_HEAD
        sock.close()
        assert len(host.actor.lanes) <= 1

        retargeted = handshake.claim(SECRET, nonce, os.urandom(32), "target")[:-6] + b"source"
        reflected = nonce + first[: handshake.MAC_SIZE] + b"\x06target"
        for replay in (claim, retargeted, reflected):
            sock, fresh = await greeted(host)
            assert fresh != nonce
            await host.loop.sock_sendall(sock, replay)
            assert await read_to_end(sock) == b""
            sock.close()
        assert host.lanes == [] and await host.answers()

    run(tmp_path, body)


@pytest.mark.parametrize(
    "target",
    [
        "../node", "/etc/passwd", "a/b", ".", "..", ".hidden", "a.sock", "target\0", "targ\u00e9t", "a b", "-x", "_",
        "x" * 129, "",
    ],
)  # fmt: skip
def test_a_target_is_ids_only(tmp_path: Path, target: str) -> None:
    """Neither side lets it through: the dialler does not send it, and the port does not look for it."""

    async def body(host: Host) -> None:
        with pytest.raises(LaneError, match="no actor's name"):
            await host.dial(target)
        name = target.encode()
        if 0 < len(name) <= handshake.TARGET_MAX:
            sock, nonce = await greeted(host)
            mine = os.urandom(32)
            mac = handshake._mac(SECRET, b"dialler", nonce, mine, name)
            await host.loop.sock_sendall(sock, mine + mac + bytes([len(name)]) + name)
            assert await read_to_end(sock) == b""
            sock.close()
        assert host.lanes == [] and await host.answers()

    run(tmp_path, body)


def packed(number: int, message: Message) -> bytes:
    head = lanes.pack(number, message, ())[0][0]
    assert isinstance(head, bytes)
    return head


HELLO = packed(0, Hello(actor="node/1", kind="node", node=1, pid=1))
PING = packed(1, Ping())


@pytest.mark.parametrize(
    "data",
    [
        HELLO + PING,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".ljust(200),
        struct.pack(">ihhih", 10, 18, 0, 7, -1) * 20,
        bytes(64) + b"\xff" + bytes(255),
        bytes(64) + b"\x00" + PING,
        bytes(64) + b"\x06target" + HELLO + PING,
        bytes(64) + b"\x80" + b"/" * 128,
        os.urandom(100_000),
    ],
    ids=["lane", "http", "kafka", "length-255", "length-0", "empty-mac", "slashes", "noise"],
)
def test_without_the_secret_no_actor_hears_a_byte(tmp_path: Path, data: bytes) -> None:
    """The exploit: speak to an actor through the cluster port without knowing the secret."""

    async def body(host: Host) -> None:
        sock, _ = await greeted(host)
        try:
            await host.loop.sock_sendall(sock, data)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert await read_to_end(sock) == b""
        sock.close()
        await until(lambda: not host.port._strangers)
        assert host.lanes == [] and host.heard == [] and host.actor.lanes == set()
        assert await host.answers()

    run(tmp_path, body)


@pytest.mark.parametrize("size", [0, 1, 31, 64, 65, 70])
def test_a_truncated_handshake_ends(tmp_path: Path, size: int) -> None:
    async def body(host: Host) -> None:
        sock, nonce = await greeted(host)
        await host.loop.sock_sendall(sock, handshake.claim(SECRET, nonce, os.urandom(32), "target")[:size])
        sock.shutdown(socket.SHUT_WR)
        assert await read_to_end(sock) == b""
        sock.close()
        assert host.lanes == [] and host.strangers == 0

    run(tmp_path, body)


def test_a_slow_handshake_works_and_one_too_slow_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HANDSHAKE_S", 1.0)

    async def body(host: Host) -> None:
        sock, nonce = await greeted(host)
        mine = os.urandom(32)
        for byte in handshake.claim(SECRET, nonce, mine, "target"):
            await host.loop.sock_sendall(sock, bytes([byte]))
            await asyncio.sleep(0)
        answer = await host.loop.sock_recv(sock, handshake.ANSWER_HEAD)
        assert handshake.read_answer(SECRET, nonce, mine, "target", answer) == (handshake.OK, "")
        sock.close()

        monkeypatch.setattr(hosts, "HANDSHAKE_S", 0.05)
        sock, nonce = await greeted(host)
        await host.loop.sock_sendall(sock, handshake.claim(SECRET, nonce, mine, "target")[:-1])
        assert await read_to_end(sock) == b""
        sock.close()
        assert host.strangers == 0

    run(tmp_path, body)


def test_a_flood_of_half_open_handshakes_does_not_keep_an_honest_host_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hosts, "STRANGERS_PER_ADDRESS", 8)

    async def body(host: Host) -> None:
        flood = [await host.connect() for _ in range(200)]
        await until(lambda: host.strangers == 8)
        assert await host.answers()
        assert host.strangers <= 8
        assert len(caplog.records) <= 3, "a flood does not fill the log"
        for sock in flood:
            sock.close()
        await until(lambda: host.strangers == 0)

    run(tmp_path, body)


def test_there_is_a_limit_over_all_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "STRANGERS_MAX", 8)

    async def body(host: Host) -> None:
        flood = []
        for number in range(40):
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((f"127.0.0.{2 + number % 20}", 0))
            await host.loop.sock_connect(sock, host.address)
            flood.append(sock)
        await until(lambda: host.strangers == 8)
        assert await host.answers()
        for sock in flood:
            sock.close()

    run(tmp_path, body)


def test_what_an_inbox_is_sent_by_mistake_is_dropped(tmp_path: Path) -> None:
    async def body(host: Host) -> None:
        def rights(*descriptors: int) -> list[tuple[int, int, bytes]]:
            return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]

        with connect_inbox(tmp_path / "target.in") as inbox, open(os.devnull) as file, socket.socket() as sock:
            before = len(os.listdir("/proc/self/fd"))
            inbox.send(b"no descriptor")
            inbox.sendmsg([b"no socket"], rights(file.fileno()))
            inbox.sendmsg([b"two"], rights(sock.fileno(), file.fileno()))
            inbox.sendmsg([b"too long" * WELCOME_MAX], rights(sock.fileno()))
            assert await host.answers()
            await until(lambda: len(os.listdir("/proc/self/fd")) == before)
        assert len(host.lanes) == 1

    run(tmp_path, body)


def test_a_lane_that_ends_before_its_hello_is_an_error(tmp_path: Path) -> None:
    async def body(host: Host) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as actor:
            actor.bind(str(tmp_path / "brief.in"))
            dialling = asyncio.ensure_future(host.dial("brief"))
            actor.setblocking(False)
            descriptors: list[int] = []
            while not descriptors:
                await asyncio.sleep(0.001)
                try:
                    welcome, descriptors, _, _ = socket.recv_fds(actor, 1024, 1)
                except BlockingIOError:
                    continue
        connection = socket.socket(fileno=descriptors[0])
        connection.sendall(welcome)
        connection.close()
        with pytest.raises(LaneClosed):
            await dialling
        (tmp_path / "brief.in").unlink()

    run(tmp_path, body)


# The secret -------------------------------------------------------------------------------------------------------


def secret_of(path: Path) -> bytes:
    return load_secret(Config(cluster=ClusterSection(secret_file=str(path))))


def test_a_secret_is_read_without_the_newline_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    assert secret_of(path) == SECRET
    path.chmod(0o400)
    assert secret_of(path) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_a_secret_that_others_may_use_is_none(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        secret_of(path)


@pytest.mark.parametrize("content", [b"", b"too short", b"  \n" * 20, b"x" * 5000])
def test_a_secret_has_a_length(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="16 to 4096"):
        secret_of(path)


def test_a_secret_is_an_ordinary_file_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        secret_of(tmp_path / "missing")
    with pytest.raises(ConfigError, match="no ordinary file"):
        secret_of(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="no ordinary file"):
        secret_of(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="to make one"):
        load_secret(Config())
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    monkeypatch.setattr(hosts, "os", SimpleNamespace(**{**vars(os), "geteuid": lambda: os.getuid() + 1}))
    with pytest.raises(ConfigError, match="another user"):
        secret_of(path)

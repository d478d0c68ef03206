"""The private names of thespian 4.0 that are patched, and that each patch does what it is for."""

from __future__ import annotations

import inspect
import io
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
import thespian.system.admin.adminCore as admin_core
import thespian.system.logdirector as logdirector
import thespian.system.multiprocCommon as multiproc
import thespian.system.transport.IPBase as ip_base
import thespian.system.transport.streamBuffer as stream_buffer
import thespian.system.transport.TCPTransport as tcp
import thespian.system.utilis as utilis
from thespian.actors import ActorAddress, ActorExitRequest

from logeion.actors import seal, thespian_traps


def source(thing: Any) -> str:
    return inspect.getsource(thing)


def test_processes_are_started_through_the_names_that_are_replaced() -> None:
    assert "target=startAdmin" in source(multiproc.multiprocessCommon._startAdmin)
    assert "target=startChild" in source(multiproc.MultiProcReplicator._startChildActor)
    assert "target=startupASLogger" in source(multiproc.startASLogger)
    for name in ("startAdmin", "startChild", "startupASLogger", "setProcName"):
        assert callable(getattr(multiproc, name))
    assert callable(logdirector.setProcName)


def test_the_admin_leaves_its_parent_by_exactly_one_fork() -> None:
    text = source(thespian_traps._original_start_admin)
    assert text.count("os.fork()") == 1 and "if os.fork(): sys.exit(0)" in text


def test_the_logger_that_died_is_replaced_by_a_name_that_does_not_exist() -> None:
    assert "self.logDefs" in source(multiproc.MultiProcReplicator.childDied)
    assert "self.logdefs = logdefs" in source(admin_core.AdminCore.__init__)


def test_actors_know_the_processes_of_their_children() -> None:
    text = source(multiproc.MultiProcReplicator._startChildActor)
    assert "self._child_procs.append(ChildInfo(" in text
    assert "self.childProc = childProc" in source(multiproc.ChildInfo.__init__)
    assert "_myRef = self" in source(sys.modules["thespian.system.actorManager"].ActorManager._createInstance)


def test_signals_are_set_before_the_actor_is_made() -> None:
    """Ours are set in the actor's ``__init__`` and must be the last."""
    text = source(thespian_traps._original_start_child)
    assert text.index("set_signal_handler(each") < text.index("am.run()")
    assert "self._createInstance()" in source(sys.modules["thespian.system.actorManager"].ActorManager.run)


def test_the_transport_uses_the_names_that_are_sealed() -> None:
    assert "ReceiveBuffer(serializer.loads)" in source(tcp.TCPIncoming_Common.__init__)
    assert "serializer.dumps" in source(tcp.TCPTransport.serializer)
    assert callable(utilis.thesplog_control)
    assert "ackMsg" in source(tcp) and "ackDataErrMsg" in source(tcp)
    assert list(inspect.signature(seal._original_init).parameters) == [
        "self", "af", "socktype", "proto", "baseaddr", "port", "external",
    ]  # fmt: skip
    assert "self.bindname" in source(seal._original_init)
    assert "thisSystem = ThisSystem()" in source(ip_base)


def test_importing_thespian_asks_no_resolver() -> None:
    code = (
        "import socket\n"
        "def asked(*a, **k): raise SystemExit('asked')\n"
        "socket.getfqdn = socket.gethostname = socket.getaddrinfo = asked\n"
        "import logeion.actors.thespian_traps\n"
        "assert socket.getfqdn is asked\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_a_fault_ends_the_process_even_after_thespian_has_caught_all_signals() -> None:
    def child() -> None:
        for number in thespian_traps.FAULT_SIGNALS:
            signal.signal(number, lambda *_: None)
        thespian_traps.restore_fault_signals()
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(10)
    assert process.exitcode == -signal.SIGSEGV


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    process = multiprocessing.get_context("fork").Process(target=thespian_traps.die_with_parent, args=(1 << 22,))
    process.start()
    process.join(10)
    assert process.exitcode == thespian_traps.EXIT_ORPHAN


def test_a_forked_process_keeps_only_what_it_should() -> None:
    read, write = os.pipe()
    kept, kept_out = os.pipe()

    def child() -> None:
        thespian_traps._kept.update((kept, kept_out))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
        thespian_traps._enter("test child")
        open_ones = []
        for descriptor in (read, write, kept, kept_out):
            try:
                os.fstat(descriptor)
            except OSError:
                continue
            open_ones.append(descriptor)
        default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        os._exit(0 if open_ones == [kept, kept_out] and default else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(10)
    for descriptor in (read, write, kept, kept_out):
        os.close(descriptor)
    assert process.exitcode == 0


def test_own_logging_returns_to_the_loggers_of_our_modules() -> None:
    """Thespian replaces the root and the manager; loggers made before that hang below the old root."""
    from logeion.actors.config import LogSection

    old_root, old_manager, old_handlers, old_level = (
        logging.root, logging.Logger.manager, list(logging.root.handlers), logging.root.level,
    )  # fmt: skip
    ours = logging.getLogger("logeion.actors.test")
    try:
        logging.root = logging.Logger.root = logging.RootLogger(logging.WARNING)
        logging.Logger.manager = logging.Manager(logging.root)
        thespian_traps.own_logging(LogSection(), "test/1")
        out = io.StringIO()
        (handler,) = old_root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.stream = out
        ours.info("hello")
        assert "test/1" in out.getvalue() and "hello" in out.getvalue()
    finally:
        logging.root = logging.Logger.root = old_root
        logging.Logger.manager = old_manager
        old_root.handlers[:] = old_handlers
        old_root.setLevel(old_level)


# The seal


@pytest.fixture
def sealer() -> seal.Sealer:
    return seal.Sealer(b"k" * 32)


def test_thespians_messages_pass_the_seal(sealer: seal.Sealer) -> None:
    address = ActorAddress(ip_base.TCPv4ActorAddress("127.0.0.1", 4711))
    sender, message = sealer.loads(sealer.dumps((address, ActorExitRequest(recursive=True))))
    assert str(sender) == str(address) and isinstance(message, ActorExitRequest)
    assert sealer.loads(sealer.dumps({"a": [1, b"2", {3}]})) == {"a": [1, b"2", {3}]}


@pytest.mark.parametrize("change", range(0, 60, 7))
def test_any_changed_byte_breaks_the_seal(sealer: seal.Sealer, change: int) -> None:
    data = bytearray(sealer.dumps((1, "message", b"x" * 40)))
    data[change] ^= 1
    with pytest.raises(seal.SealError):
        sealer.loads(bytes(data))


def test_another_trees_frame_is_refused(sealer: seal.Sealer) -> None:
    with pytest.raises(seal.SealError):
        sealer.loads(seal.Sealer(b"o" * 32).dumps("hello"))


@pytest.mark.parametrize("name", ["os.system", "posix.system", "builtins.eval", "subprocess.Popen", "builtins.getattr"])
def test_even_a_sealed_frame_cannot_name_what_runs_code(sealer: seal.Sealer, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    body = b"c" + module.encode() + b"\n" + attribute.encode() + b"\n(S'true'\ntR."
    with pytest.raises(seal.SealError):
        seal._Unpickler(io.BytesIO(body)).load()


@pytest.mark.parametrize("name", [b"thespian.system.multiprocCommon\nsys", b"thespian.system.multiprocCommon\npartial"])
def test_nor_what_a_module_of_thespians_has_imported(name: bytes) -> None:
    with pytest.raises(seal.SealError):
        seal._Unpickler(io.BytesIO(b"c" + name + b"\n.")).load()


def test_nor_reach_it_through_a_dotted_name() -> None:
    module, name = b"thespian.system.systemBase", b"os.system"
    body = b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93."
    with pytest.raises(seal.SealError):
        seal._Unpickler(io.BytesIO(body)).load()


def test_a_constant_of_the_socket_module_may_be_named_as_some_pythons_do(sealer: seal.Sealer) -> None:
    """Debian 12's Python 3.11.2 pickles AF_INET by its own name; without this, no node starts there."""
    assert seal._Unpickler(io.BytesIO(b"csocket\nAF_INET\n.")).load() is socket.AF_INET
    assert sealer.loads(sealer.dumps(socket.SOCK_STREAM)) is socket.SOCK_STREAM
    for name in (b"socket", b"error", b"gethostbyname", b"MSG_PEEK"):
        with pytest.raises(seal.SealError):
            seal._Unpickler(io.BytesIO(b"csocket\n" + name + b"\n.")).load()


@pytest.mark.parametrize("data", [b"99999999>x", b"-1>x", b"abc", b">", b"123456789", b" 5>x", b"5_0>x"])
def test_a_frame_that_begins_wrong_is_refused_before_it_is_gathered(data: bytes) -> None:
    with pytest.raises(ValueError):
        seal._BoundedBuffer(lambda frame: frame).addMore(data)


def test_a_frame_in_pieces_is_gathered(sealer: seal.Sealer) -> None:
    body = sealer.dumps("hello")
    data = b"%d>" % len(body) + body
    buffer = seal._BoundedBuffer(sealer.loads)
    for at in range(len(data)):
        buffer.addMore(data[at : at + 1])
    message, extra = buffer.completed()
    assert message == "hello" and not extra
    assert stream_buffer.ReceiveBuffer in seal._BoundedBuffer.__mro__

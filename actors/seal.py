"""Thespian's own port, closed to strangers.

Thespian unpickles whatever reaches it, on all interfaces. Here every frame is authenticated with HMAC-SHA256 under a
key of this start of the tree *before* anything is unpickled; what is then unpickled may name only Thespian's own
classes and plain values; frames have a limit; and every socket is bound to one address. No secrecy, no protection
against replay within one start: the port is for this host's processes and stays on loopback.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import pickle
import socket
from typing import Any

import thespian.system.transport.IPBase as ip_base
import thespian.system.transport.streamBuffer as stream_buffer
import thespian.system.transport.TCPTransport as tcp

from logeion.wire.errors import LogeionError

MAC_SIZE = hashlib.sha256().digest_size
FRAME_MAX = 16 * 1024 * 1024
LENGTH_DIGITS_MAX = 8


class SealError(LogeionError):
    """A frame on Thespian's port that was not made by this tree, or names what it may not."""


_ALLOWED_MODULES = ("thespian.", "datetime")
_ALLOWED_NAMES = {
    ("builtins", name) for name in ("set", "frozenset", "bytearray", "complex", "object", "slice", "range", "bytes")
} | {
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
    ("socket", "AddressFamily"),
    ("socket", "SocketKind"),
    ("logging", "LogRecord"),
    ("_codecs", "encode"),
}

_CONSTANTS = (socket.AddressFamily, socket.SocketKind)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if "." not in name and (module.startswith(_ALLOWED_MODULES) or (module, name) in _ALLOWED_NAMES):
            found = super().find_class(module, name)
            # A module of Thespian's also holds what it imported; only its own classes may be named.
            own = isinstance(found, type) and found.__module__.startswith(_ALLOWED_MODULES)
            if own or (module, name) in _ALLOWED_NAMES:
                return found
        if module == "socket" and isinstance(found := getattr(socket, name, None), _CONSTANTS):
            # Some Pythons (3.11.2 of Debian 12) pickle these by their own name, others by that of their class.
            return found
        raise SealError(f"a frame on Thespian's port names {module}.{name}")


class Sealer:
    """Thespian's serializer: ``dumps`` seals, ``loads`` opens or raises ``SealError``."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def dumps(self, value: Any) -> bytes:
        body = pickle.dumps(value, 5)
        return hmac.digest(self._key, body, "sha256") + body

    def loads(self, data: bytes) -> Any:
        body = data[MAC_SIZE:]
        if not hmac.compare_digest(hmac.digest(self._key, body, "sha256"), data[:MAC_SIZE]):
            raise SealError("a frame on Thespian's port without our seal")
        return _Unpickler(io.BytesIO(body)).load()


class _BoundedBuffer(stream_buffer.ReceiveBuffer):  # type: ignore[misc]
    """Refuses lengths that no frame of ours has, before any of it is gathered."""

    def addMore(self, buf: bytes) -> None:
        if self._size is None:
            digits = (self._buf + buf)[: LENGTH_DIGITS_MAX + 1]
            length, mark, _ = digits.partition(b">")
            if not length.isdigit() or (not mark and len(digits) > LENGTH_DIGITS_MAX) or int(length) > FRAME_MAX:
                raise ValueError("no frame of ours begins like this")
        super().addMore(buf)


def install(key: bytes, address: str) -> None:
    """Seal all of Thespian in this process and those it forks; ``address`` is the one address to bind."""
    sealer = Sealer(key)
    tcp.serializer = sealer
    tcp.ReceiveBuffer = _BoundedBuffer
    tcp.ackMsg = stream_buffer.toSendBuffer(stream_buffer.ackPacket, sealer.dumps)
    tcp.ackDataErrMsg = stream_buffer.toSendBuffer(stream_buffer.ackDataErrPacket, sealer.dumps)

    def bound(
        self: Any, af: int, socktype: int, proto: int, baseaddr: str | None, port: int, external: Any = False
    ) -> None:
        _original_init(self, af, socktype, proto, address, port, external)
        self.bindname = (address, self.bindname[1])

    ip_base.IPActorAddress.__init__ = bound


_original_init = ip_base.IPActorAddress.__init__

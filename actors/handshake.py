"""How two hosts of a cluster prove to each other that they know its secret. No I/O, no clock, no randomness.

    port    -> dialler   Greeting: magic | u8 version | 32 random bytes
    dialler -> port      Claim:    32 random bytes | MAC | u8 length | target, the name of the actor it wants
    port    -> dialler   Answer:   MAC | u8 status (0: yours) | u8 length | reason

Who wants no lane, only to know whether an actor's process has ended, puts ``probe-`` before its name.

Each MAC is HMAC-SHA256 under the secret over a label of its role, both random values and the target, the port's also
over status and reason: nothing can be replayed, reflected or redirected. The dialler proves itself first, so that a
stranger is told nothing that depends on the secret. This gives no secrecy, and no integrity to what follows.
"""

from __future__ import annotations

import hmac
import re
import struct

from logeion.wire.errors import LogeionError

VERSION = 1
MAGIC = b"LgnH"
NONCE_SIZE = MAC_SIZE = 32
TARGET_MAX = 128
REASON_MAX = 200

GREETING_SIZE = len(MAGIC) + 1 + NONCE_SIZE
CLAIM_HEAD = NONCE_SIZE + MAC_SIZE + 1
ANSWER_HEAD = MAC_SIZE + 2

OK, NOT_THERE, BUSY, RUNS, ENDED = range(5)

PROBE = "probe-"

_TARGET = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class HandshakeError(LogeionError):
    """The other side is none of this cluster, or not what it should be; the message says why."""


def greeting(nonce: bytes) -> bytes:
    """What the port says first."""
    return MAGIC + bytes([VERSION]) + nonce


def read_greeting(data: bytes) -> bytes:
    """The port's nonce; raises ``HandshakeError`` if this is no cluster port of a version we know."""
    if data[: len(MAGIC)] != MAGIC:
        raise HandshakeError("no cluster port of a Logeion node answers there")
    if data[len(MAGIC)] != VERSION:
        raise HandshakeError(f"its cluster port speaks version {data[len(MAGIC)]}, this node {VERSION}")
    return data[len(MAGIC) + 1 :]


def claim(secret: bytes, theirs: bytes, nonce: bytes, target: str) -> bytes:
    """What the dialler answers; raises ``HandshakeError`` for a target that is no actor's name."""
    name = _checked(target.encode())
    return nonce + _mac(secret, b"dialler", theirs, nonce, name) + bytes([len(name)]) + name


def claim_size(head: bytes) -> int:
    """The size of the whole claim that begins with these ``CLAIM_HEAD`` bytes; raises ``HandshakeError``."""
    length = head[-1]
    if not 0 < length <= TARGET_MAX:
        raise HandshakeError(f"a target cannot have {length} bytes")
    return CLAIM_HEAD + length


def read_claim(secret: bytes, nonce: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The dialler's nonce and the target it may have, once it is proved; raises ``HandshakeError``."""
    theirs, mac, name = data[:NONCE_SIZE], data[NONCE_SIZE : CLAIM_HEAD - 1], data[CLAIM_HEAD:]
    if not hmac.compare_digest(mac, _mac(secret, b"dialler", nonce, theirs, name)):
        raise HandshakeError("it does not know our cluster secret")
    return theirs, _checked(name)


def answer(secret: bytes, nonce: bytes, theirs: bytes, target: bytes, status: int = OK, reason: str = "") -> bytes:
    """What the port says last; from then on the connection is a lane (status 0), or closed."""
    told = reason.encode()[:REASON_MAX]
    tail = bytes([status, len(told)]) + told
    return _mac(secret, b"port", nonce, theirs, target, tail) + tail


def answer_size(head: bytes) -> int:
    """The size of the whole answer that begins with these ``ANSWER_HEAD`` bytes; raises ``HandshakeError``."""
    if head[-1] > REASON_MAX:
        raise HandshakeError(f"a reason cannot have {head[-1]} bytes")
    return ANSWER_HEAD + head[-1]


def read_answer(secret: bytes, theirs: bytes, nonce: bytes, target: str, data: bytes) -> tuple[int, str]:
    """Status and reason, if the port proves itself; raises ``HandshakeError``."""
    mac, tail = data[:MAC_SIZE], data[MAC_SIZE:]
    if not hmac.compare_digest(mac, _mac(secret, b"port", theirs, nonce, target.encode(), tail)):
        raise HandshakeError("it does not prove that it knows our cluster secret")
    return tail[0], tail[2:].decode(errors="replace")


def _checked(name: bytes) -> bytes:
    """Ids only: nothing that means anything in a path."""
    if not _TARGET.fullmatch(name):
        raise HandshakeError("the target is no actor's name")
    return name


def _mac(secret: bytes, role: bytes, port: bytes, dialler: bytes, target: bytes, tail: bytes = b"") -> bytes:
    body = b"logeion cluster port, %s, %d\0" % (role, VERSION) + port + dialler
    return hmac.digest(secret, body + struct.pack(">H", len(target)) + target + tail, "sha256")

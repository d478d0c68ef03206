"""The small files beside the segments: what each holds, and how it is read back after a crash.

Recovery point and clean-shutdown marker are msgspec JSON; ``partition.metadata`` and ``log-start-offset-checkpoint``
are Kafka's text. The state file is overwritten in place at each advance of the watermark, which costs one system call
and survives the process, not the host: after a host crash it may be older than the log, or fail its CRC and be ignored.
"""

from __future__ import annotations

import base64
import struct

import fastcrc
import msgspec

from logeion.wire.errors import MalformedError

LIMIT = 1 << 20

_STATE = struct.Struct(">Iqqq")
_STATE_CRC = struct.Struct(">I")
_SYNCED_END = struct.Struct(">Iq")
STATE_SIZE = _STATE.size + _STATE_CRC.size


class RecoveryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """All below ``offset`` is on the device; what lies above was written during the boot ``boot_id``."""

    offset: int
    boot_id: str
    version: int = 0


class CleanShutdown(msgspec.Struct, frozen=True, kw_only=True):
    """Everything was synced when the log ended at ``end``, with ``size`` bytes in its last segment."""

    end: int
    segment: int
    size: int
    version: int = 0


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A sync failed: pages that look clean may not be on the device, and only ``synced_end`` can be trusted."""

    cause: str
    synced_end: int
    boot_id: str
    version: int = 0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The leader epoch, the high watermark and the log start, as of the last advance."""

    epoch: int
    high_watermark: int
    log_start: int

    def encode(self) -> bytes:
        """Fixed size, with a CRC-32C at the end."""
        body = _STATE.pack(1, self.epoch, self.high_watermark, self.log_start)
        return body + _STATE_CRC.pack(fastcrc.crc32.iscsi(body))

    @classmethod
    def decode(cls, data: bytes) -> State:
        """Raises ``MalformedError`` for a torn or foreign file."""
        if len(data) != STATE_SIZE or fastcrc.crc32.iscsi(data[: _STATE.size]) != _STATE_CRC.unpack_from(data, 28)[0]:
            raise MalformedError("the partition state is torn")
        version, epoch, high_watermark, log_start = _STATE.unpack_from(data)
        if version != 1:
            raise MalformedError(f"partition state of version {version}")
        return cls(epoch=epoch, high_watermark=high_watermark, log_start=log_start)


def encode_synced_end(offset: int) -> bytes:
    """Fixed size, with a CRC-32C at the end, to be overwritten in place.

    A file of its own, no field of the state: an older release overwrites that, and could not read one that has grown.
    """
    body = _SYNCED_END.pack(1, offset)
    return body + _STATE_CRC.pack(fastcrc.crc32.iscsi(body))


def decode_synced_end(data: bytes) -> int:
    """Raises ``MalformedError`` for a torn or foreign file."""
    body = data[: _SYNCED_END.size]
    if len(data) != _SYNCED_END.size + 4 or fastcrc.crc32.iscsi(body) != _STATE_CRC.unpack_from(data, len(body))[0]:
        raise MalformedError("the synced end is torn")
    version, offset = _SYNCED_END.unpack(body)
    if version != 1:
        raise MalformedError(f"synced end of version {version}")
    return int(offset)


def encode_json(value: RecoveryPoint | CleanShutdown | Failure) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def decode_recovery_point(data: bytes) -> RecoveryPoint:
    """Raises ``MalformedError``."""
    try:
        return msgspec.json.decode(data, type=RecoveryPoint)
    except msgspec.DecodeError as error:
        raise MalformedError(f"not a recovery point: {error}") from None


def decode_clean_shutdown(data: bytes) -> CleanShutdown:
    """Raises ``MalformedError``."""
    try:
        return msgspec.json.decode(data, type=CleanShutdown)
    except msgspec.DecodeError as error:
        raise MalformedError(f"not a clean shutdown marker: {error}") from None


def decode_failure(data: bytes) -> Failure:
    """Never raises: a marker that cannot be read still says that a sync failed, and nothing is trusted."""
    try:
        return msgspec.json.decode(data, type=Failure)
    except msgspec.DecodeError:
        return Failure(cause="unknown", synced_end=0, boot_id="")


def encode_topic_id(topic_id: str) -> bytes:
    """Kafka's ``partition.metadata``: the id (32 hex digits here) as unpadded URL-safe base64."""
    text = base64.urlsafe_b64encode(bytes.fromhex(topic_id)).rstrip(b"=")
    return b"version: 0\ntopic_id: " + text + b"\n"


def decode_topic_id(data: bytes) -> str:
    """The topic id as 32 hex digits; raises ``MalformedError``."""
    try:
        fields = dict(line.split(": ", 1) for line in data.decode("ascii").splitlines())
        if fields["version"] != "0":
            raise ValueError
        raw = base64.urlsafe_b64decode(fields["topic_id"] + "==")
        if len(raw) != 16:
            raise ValueError
    except (ValueError, KeyError, UnicodeDecodeError):
        raise MalformedError("not a partition.metadata file") from None
    return raw.hex()


def encode_offset(offset: int) -> bytes:
    """A checkpoint that holds one offset: Kafka's version line, then the offset."""
    return f"0\n{offset}\n".encode("ascii")


def decode_offset(data: bytes) -> int:
    """Raises ``MalformedError``."""
    lines = data.split()
    if len(lines) != 2 or lines[0] != b"0" or not lines[1].isdigit() or len(lines[1]) > 19:
        raise MalformedError("not an offset checkpoint")
    return int(lines[1])

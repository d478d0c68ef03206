"""Batch by batch through a segment file, reading headers and, if asked, checking every CRC."""

from __future__ import annotations

from collections.abc import Iterator

from logeion.wire.batch import HEADER_SIZE, BatchHeader, read_header, verify_crc
from logeion.wire.errors import KafkaError, WireError

from .files import Files

# Read ahead for small batches, skip from header to header where they are large.
_AHEAD = 65_536
_LARGE = 32_768
# Nothing that we wrote is longer; a damaged length must not make us read or skip further.
_MAX_BATCH = 2**31 - 1


class Walk:
    """One pass from ``position`` to ``end`` of an open segment file.

    After the iteration ``position`` is the end of the last good batch, and ``fault`` says why it stopped there: ""
    at ``end``, ``"torn"`` when the last batch reaches beyond it, else what is wrong with the bytes. ``check_from`` is
    the first offset whose batch has its CRC checked; None checks none. Raises ``OSError``.
    """

    def __init__(
        self, files: Files, fd: int, position: int, end: int, *, next_offset: int, check_from: int | None = None
    ) -> None:
        self.position: int = position
        self.next_offset: int = next_offset
        self.fault: str = ""
        self._files = files
        self._fd = fd
        self._end = end
        self._check_from = check_from

    def __iter__(self) -> Iterator[tuple[int, BatchHeader]]:
        chunk = b""
        begin = self.position
        ahead = 4_096
        while self.position < self._end:
            at = self.position - begin
            if at + HEADER_SIZE > len(chunk):
                begin, at = self.position, 0
                chunk = self._files.read_exactly(self._fd, min(ahead, self._end - begin), begin)
                if len(chunk) < HEADER_SIZE:
                    self.fault = "torn"
                    return
            try:
                header = read_header(chunk, at)
            except (WireError, KafkaError) as error:
                self.fault = str(error)
                return
            fault = self._fault_of(header)
            if fault:
                self.fault = fault
                return
            if self._check_from is not None and header.base_offset >= self._check_from:
                batch = memoryview(chunk)[at : at + header.size]
                if len(batch) < header.size:
                    batch = memoryview(self._files.read_exactly(self._fd, header.size, self.position))
                try:
                    verify_crc(batch, header)
                except (WireError, KafkaError) as error:
                    self.fault = str(error)
                    return
            ahead = 4_096 if header.size > _LARGE else _AHEAD
            position = self.position
            self.position += header.size
            self.next_offset = header.next_offset
            yield position, header

    def _fault_of(self, header: BatchHeader) -> str:
        if header.magic != 2:
            return f"magic {header.magic} where 2 was expected"
        if header.length < HEADER_SIZE - 12:
            return f"a batch length of {header.length}"
        if header.base_offset < self.next_offset or header.last_offset_delta < 0:
            return f"offset {header.base_offset} after offset {self.next_offset - 1}"
        if self.position + header.size > self._end:
            return "torn"
        return ""

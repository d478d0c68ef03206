"""The codecs of record batches, each bounded: nothing here makes more bytes than its caller allows.

The broker needs them off the hot path only (compaction, a forced ``compression.type``, a lookup inside a batch).
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any

from .errors import DecompressionError, OversizedError

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)

# Kafka's names for them, as in ``compression.type``.
CODECS = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}

Bytes = bytes | bytearray | memoryview


@functools.cache
def _cramjam() -> Any:
    """Loaded when first needed: a broker passes batches on unopened, and can do without its 2 MB."""
    import cramjam

    return cramjam


def compress(codec: int, data: Bytes, level: int | None = None) -> bytes:
    """The data as this codec's clients expect it; ``level`` counts for gzip (6) and zstd (3). Raises ValueError."""
    match codec:
        case 0:
            return bytes(data)
        case 1:
            return zlib.compress(data, 6 if level is None else level, _GZIP)
        case 2:
            return _compress_snappy(memoryview(data))
        case 3:
            return _compress_lz4(memoryview(data))
        case 4:
            return bytes(_cramjam().zstd.compress(data, level=3 if level is None else level))
    raise ValueError(f"no codec {codec}")


def decompress(codec: int, data: Bytes, limit: int) -> memoryview:
    """The data decompressed.

    Raises OversizedError beyond ``limit`` bytes, having used no more memory than that, and DecompressionError for
    bytes that the codec did not make.
    """
    view = memoryview(data)
    match codec:
        case 0:
            if len(view) > limit:
                raise _oversized("uncompressed", limit)
            return view
        case 1:
            return _decompress_gzip(view, limit)
        case 2:
            if bytes(view[:8]) == _XERIAL_MAGIC:
                return _decompress_xerial(view, limit)
            return _decompress_snappy(view, limit)
        case 3:
            return _decompress_growing("lz4", view, None, limit)
        case 4:
            return _decompress_growing("zstd", view, _zstd_content_size(view), limit)
    raise DecompressionError(f"no codec {codec}")


def _oversized(name: str, limit: int) -> OversizedError:
    return OversizedError(f"{name}: becomes more than {limit} bytes")


def _decompress_gzip(view: memoryview, limit: int) -> memoryview:
    pieces: list[bytes] = []
    size = 0
    rest: Bytes = view
    while True:
        member = zlib.decompressobj(_GZIP)
        try:
            piece = member.decompress(rest, limit + 1 - size)
        except zlib.error as cause:
            raise DecompressionError(f"gzip: {cause}") from cause
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise _oversized("gzip", limit)
        if not member.eof:
            raise DecompressionError("gzip: cut short")
        rest = member.unused_data
        if not rest:
            return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))


def _compress_snappy(view: memoryview) -> bytes:
    """Framed as Java's SnappyOutputStream does ("xerial"), which every client reads:

    magic 8 bytes | version i32 | lowest compatible version i32 | (size i32 | raw snappy block)...
    """
    pieces = [_XERIAL_HEADER]
    for at in range(0, len(view), _XERIAL_BLOCK):
        block = bytes(_cramjam().snappy.compress_raw(view[at : at + _XERIAL_BLOCK]))
        pieces += (_I32.pack(len(block)), block)
    return b"".join(pieces)


def _decompress_xerial(view: memoryview, limit: int) -> memoryview:
    out = bytearray()
    at = len(_XERIAL_HEADER)
    while at < len(view):
        if at + 4 > len(view):
            raise DecompressionError("snappy: block size cut short")
        (size,) = _I32.unpack_from(view, at)
        at += 4
        if not 0 <= size <= len(view) - at:
            raise DecompressionError(f"snappy: block of {size} bytes, {len(view) - at} left")
        out += _decompress_snappy(view[at : at + size], limit - len(out))
        at += size
    return memoryview(out)


def _decompress_snappy(view: memoryview, limit: int) -> memoryview:
    try:
        size = _cramjam().snappy.decompress_raw_len(view)
        # A copy of three bytes makes at most 64: more than that nobody can have compressed, whatever is declared.
        if size > 64 + 22 * len(view):
            raise DecompressionError(f"snappy: {len(view)} bytes cannot become {size}")
        if size > limit:
            raise _oversized("snappy", limit)
        out = bytearray(size)
        if _cramjam().snappy.decompress_raw_into(view, out) != size:
            raise DecompressionError("snappy: shorter than declared")
    except _cramjam().DecompressionError as cause:
        raise DecompressionError(f"snappy: {cause}") from cause
    return memoryview(out)


def _compress_lz4(view: memoryview) -> bytes:
    """An LZ4 frame of independent 64 KiB blocks without checksums, written here because Java's reader refuses the
    linked blocks that the frame functions of most libraries make (the batch has a CRC of its own):

    magic u32 LE | flags 0x60 | block size code 0x40 | header checksum 0x82 | (size u32 LE | block)... | 0 u32
    """
    pieces = [_LZ4_HEADER]
    for at in range(0, len(view), _LZ4_BLOCK):
        raw = view[at : at + _LZ4_BLOCK]
        block = bytes(_cramjam().lz4.compress_block(raw, store_size=False))
        if len(block) < len(raw):
            pieces += (_U32_LE.pack(len(block)), block)
        else:
            pieces += (_U32_LE.pack(len(raw) | _LZ4_STORED), bytes(raw))
    pieces.append(bytes(4))
    return b"".join(pieces)


def _decompress_growing(name: str, view: memoryview, declared: int | None, limit: int) -> memoryview:
    """By a library that fills a buffer we give it: a larger one each time it was too small, up to the limit."""
    if declared is not None and declared > limit:
        raise _oversized(name, limit)
    into = _cramjam().lz4.decompress_into if name == "lz4" else _cramjam().zstd.decompress_into
    size = min(max(4 * len(view), 1 << 16) if declared is None else declared, limit)
    while True:
        out = bytearray(size)
        try:
            made = into(view, out)
        except _cramjam().DecompressionError as cause:
            if size < limit:
                # Too small or corrupt: the library tells by its words only, and the limit bounds the attempts.
                size = min(4 * max(size, 1), limit)
                continue
            if "whole buffer" in str(cause):
                raise _oversized(name, limit) from cause
            raise DecompressionError(f"{name}: {cause}") from cause
        return memoryview(out)[:made]


def _zstd_content_size(view: memoryview) -> int | None:
    """What the first frame's header declares (RFC 8878, 3.1.1.1), if it does."""
    if len(view) < 5 or bytes(view[:4]) != _ZSTD_MAGIC:
        raise DecompressionError("zstd: no frame")
    descriptor = view[4]
    single_segment = descriptor >> 5 & 1
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    if not width:
        return None
    at = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(view[at : at + width], "little")
    return size + 256 if width == 2 else size


_GZIP = 31  # zlib's wbits for a gzip wrapper and the full window
_I32 = struct.Struct(">i")
_U32_LE = struct.Struct("<I")
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK = 32 * 1024
_LZ4_HEADER = bytes.fromhex("04224d18604082")
_LZ4_BLOCK = 64 * 1024
_LZ4_STORED = 0x80000000
_ZSTD_MAGIC = bytes.fromhex("28b52ffd")

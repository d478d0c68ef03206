"""Each codec against another implementation of it, and against those who would blow it up."""

from __future__ import annotations

import gzip
import random
import tracemalloc

import aiokafka.codec as theirs  # type: ignore[import-untyped]
import cramjam
import pytest

from logeion.wire.compression import CODECS, GZIP, LZ4, NONE, SNAPPY, ZSTD, compress, decompress
from logeion.wire.errors import DecompressionError, OversizedError, WireError

TEXT = b"".join(b"%d: the quick brown fox\n" % number for number in range(20_000))
SAMPLES = {"empty": b"", "one": b"x", "text": TEXT, "noise": random.Random(1).randbytes(200_000)}

ENCODE = {
    GZIP: theirs.gzip_encode,
    SNAPPY: theirs.snappy_encode,
    LZ4: theirs.lz4_encode,
    ZSTD: theirs.zstd_encode,
}
DECODE = {
    GZIP: theirs.gzip_decode,
    SNAPPY: theirs.snappy_decode,
    LZ4: theirs.lz4_decode,
    ZSTD: theirs.zstd_decode,
}


@pytest.mark.oracle
@pytest.mark.parametrize("codec", list(ENCODE))
@pytest.mark.parametrize("name", list(SAMPLES))
def test_aiokafka_and_we_read_each_other(codec: int, name: str) -> None:
    data = SAMPLES[name]
    ours = compress(codec, data)
    if data:
        assert bytes(DECODE[codec](ours)) == data
    assert bytes(decompress(codec, bytes(ENCODE[codec](data)), len(data))) == data
    for view in (ours, memoryview(ours), bytearray(ours)):
        assert decompress(codec, view, len(data)) == data


@pytest.mark.parametrize("codec", list(CODECS.values()))
def test_one_byte_over_the_limit_is_refused_and_the_limit_itself_is_not(codec: int) -> None:
    packed = compress(codec, TEXT)
    assert decompress(codec, packed, len(TEXT)) == TEXT
    for limit in (len(TEXT) - 1, 1000, 0):
        with pytest.raises(OversizedError):
            decompress(codec, packed, limit)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_bomb_costs_no_more_than_the_limit(codec: int) -> None:
    bomb = compress(codec, bytes(100_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(OversizedError):
            decompress(codec, bomb, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_what_the_codec_did_not_make_is_refused(codec: int) -> None:
    packed = compress(codec, TEXT)
    for bad in (b"", b"\x01", b"nonsense" * 10, packed[: len(packed) // 2], packed[:-9], b"\xff" * 40):
        with pytest.raises(DecompressionError):
            decompress(codec, bad, 1 << 20)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_damaged_bytes_raise_nothing_but_wire_errors(codec: int) -> None:
    rng = random.Random(codec)
    packed = compress(codec, TEXT[:5000])
    for _ in range(300):
        bad = bytearray(packed)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            assert len(decompress(codec, bad, 20_000)) <= 20_000
        except WireError:
            pass


def test_raw_snappy_and_several_gzip_members_are_read() -> None:
    raw = bytes(cramjam.snappy.compress_raw(TEXT))
    assert decompress(SNAPPY, raw, len(TEXT)) == TEXT
    members = gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])
    assert decompress(GZIP, members, len(TEXT)) == TEXT
    with pytest.raises(OversizedError):
        decompress(GZIP, members, len(TEXT) - 1)


def test_snappy_that_declares_more_than_it_can_hold_is_refused_before_allocation() -> None:
    with pytest.raises(DecompressionError, match="cannot become"):
        decompress(SNAPPY, b"\xff\xff\xff\x3f" + bytes(20), 1 << 30)


def test_lz4_blocks_are_independent_because_java_reads_no_others() -> None:
    packed = compress(LZ4, TEXT)
    flags = packed[4]
    assert flags >> 6 == 1 and flags & 0x20 and not flags & 0x1B
    assert bytes(cramjam.lz4.decompress(packed)) == TEXT


def test_levels_and_unknown_codecs() -> None:
    assert len(compress(GZIP, TEXT, 9)) < len(compress(GZIP, TEXT, 1))
    assert compress(NONE, memoryview(b"as it is")) == b"as it is"
    with pytest.raises(ValueError, match="no codec 9"):
        compress(9, b"")
    with pytest.raises(DecompressionError):
        decompress(9, b"", 1)

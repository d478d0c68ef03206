"""Damaged frames into the decoders: whatever comes, only WireError may come out.

    python -m tests.wire.fuzz --frames 1000000 --seed 1 [--resume FILE] [--results FILE]

Seeds are one valid frame of every (key, version, request or response) and a batch of every codec. Frames come in
blocks of a thousand whose randomness is that of (seed, block), so any of them can be made again. ``--resume``
remembers the finished blocks and goes on after the last one. A result is appended to ``--results`` as one JSON line.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from logeion.wire.batch import check_produced
from logeion.wire.codec import decode_request, decode_response, parse_header
from logeion.wire.errors import KafkaError, WireError
from logeion.wire.records import Record, build_batch, read_records

from .samples import SLOTS, frame, full_message, message_class

BLOCK = 1000
BATCH_LIMIT = 1 << 20
MEMORY_LIMIT = 2 << 30

# What a frame is: (key, version, "request" or "response"), or a bare record batch.
Kind = tuple[int, int, str]
BATCH: Kind = (-1, 0, "batch")

_NASTY = (
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff",
    b"\x7f\xff",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\x07",
    b"\x80\x80\x80\x80\x80\x80",
    b"\x00",
    b"\x01",
    b"\xff",
)


@cache
def seeds() -> tuple[tuple[Kind, bytes], ...]:
    """The valid frames, without their lengths."""
    records = [Record(i, 1000 + i, b"k%d" % i, b"value" * 5, [("h", b"x")]) for i in range(5)]
    found: list[tuple[Kind, bytes]] = [(BATCH, build_batch(records, codec=codec)) for codec in range(5)]
    for slot in SLOTS:
        found.append((slot, frame(slot, full_message(message_class(slot), slot[1]))))
    return tuple(found)


def mutated(raw: bytes, other: bytes, rng: Random) -> bytes:
    """The frame after one to four damages; ``other`` lends bytes to splice in."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(8):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.randrange(256)
            case 2:
                del out[at:]
            case 3:
                nasty = rng.choice(_NASTY)
                out[at : at + len(nasty)] = nasty
            case 4:
                out[at:at] = rng.choice(_NASTY)
            case 5:
                del out[at : at + rng.randint(1, 8)]
            case 6:
                start = rng.randrange(len(other))
                out[at:at] = other[start : start + rng.randint(1, 40)]
            case 7:
                stop = at + rng.randint(1, 30)
                out[at:at] = out[at:stop] * rng.randint(1, 5)
    return bytes(out)


def frames(
    seed: int, block: int, kinds: tuple[str, ...] = ("request", "response", "batch")
) -> Iterator[tuple[Kind, bytes]]:
    """The thousand damaged frames of one block."""
    rng = Random(f"{seed}:{block}")
    pool = [entry for entry in seeds() if entry[0][2] in kinds]
    for _ in range(BLOCK):
        (kind, raw), (_, other) = rng.choice(pool), rng.choice(pool)
        yield kind, mutated(raw, other, rng)


def feed(kind: Kind, raw: bytes) -> str:
    """Decodes one frame; returns what became of it. Lets through whatever is neither WireError nor, for batches,
    KafkaError."""
    try:
        match kind:
            case (_, _, "request"):
                decode_request(parse_header(raw), raw)
            case (key, version, "response"):
                decode_response(key, version, raw)
            case _:
                read_records(raw, max_bytes=BATCH_LIMIT, check_crc=False)
                check_produced(raw, BATCH_LIMIT)
    except WireError as error:
        return type(error).__name__
    except KafkaError as error:
        if kind != BATCH:
            raise
        return type(error).__name__
    return "decoded"


def run_block(seed: int, block: int) -> tuple[Counter[str], float]:
    """(what became of the frames, seconds of the slowest); raises AssertionError with the way to repeat a finding."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for index, (kind, raw) in enumerate(frames(seed, block)):
        begin = time.perf_counter()
        try:
            outcomes[feed(kind, raw)] += 1
        except Exception as error:
            raise AssertionError(
                f"{kind} frame {index} of block {block}: {type(error).__name__}: {error}\n{raw.hex()}\n"
                f"again: python -m tests.wire.fuzz --seed {seed} --block {block}"
            ) from error
        slowest = max(slowest, time.perf_counter() - begin)
    return outcomes, slowest


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--block", type=int, help="only this block of a thousand")
    parser.add_argument("--resume", type=Path, help="remember finished blocks here, go on after the last")
    parser.add_argument("--results", type=Path, help="append the result here as one JSON line")
    options = parser.parse_args(arguments)

    blocks = range(-(-options.frames // BLOCK)) if options.block is None else range(options.block, options.block + 1)
    outcomes: Counter[str] = Counter()
    slowest, seconds, first = 0.0, 0.0, blocks.start
    if options.resume and options.resume.exists():
        for line in options.resume.read_text().splitlines():
            done = json.loads(line)
            if done["seed"] == options.seed and done["block"] == first:
                outcomes.update(done["outcomes"])
                slowest, seconds, first = max(slowest, done["slowest"]), seconds + done["seconds"], first + 1
    print(f"seed {options.seed}; again: python -m tests.wire.fuzz --frames {options.frames} --seed {options.seed}")
    for block in range(first, blocks.stop):
        begin = time.perf_counter()
        found, slow = run_block(options.seed, block)
        spent = time.perf_counter() - begin
        outcomes += found
        slowest, seconds = max(slowest, slow), seconds + spent
        if options.resume:
            state = {"seed": options.seed, "block": block, "outcomes": found, "slowest": slow, "seconds": spent}
            with options.resume.open("a") as file:
                file.write(json.dumps(state) + "\n")
    result = {
        "fuzz": "wire decoders",
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "seed": options.seed,
        "frames": outcomes.total(),
        "escaped": 0,
        "outcomes": dict(outcomes.most_common()),
        "slowest_ms": round(slowest * 1000, 2),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(result))
    if options.results:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        with options.results.open("a") as file:
            file.write(json.dumps(result) + "\n")
    return 0


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


if __name__ == "__main__":
    # A decoder that allocates what a frame merely claims ends as MemoryError, and is found.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.exit(main())

"""One hop between two processes: throughput and CPU of large payloads, round trip of small messages.

python -m bench.stream_bench [--mb 2000] [--size 1000000] [--round-trips 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from logeion.actors.lanes import Lane, LaneError, LaneListener, dial, introduce, socket_path
from logeion.actors.messages import AnyMessage, Append, Appended, Done, Hello, Message, Ping, Pong
from logeion.actors.stream import Frame


def hello(name: str) -> Hello:
    return Hello(actor=name, kind="bench", node=1, pid=os.getpid())


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve(directory: Path) -> None:
    """The far end: answers Append when its payload is here, Ping at once; Done asks for the CPU it has used."""
    sys.setswitchinterval(0.0005)
    introduce(hello("far"))
    loop = asyncio.new_event_loop()

    def on_message(lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        if isinstance(message, Ping):
            lane.reply(request, Pong())
        elif isinstance(message, Append):
            lane.reply(request, Appended(base_offset=len(frame.view), log_start=0))
        else:
            lane.reply(request, Appended(base_offset=int(cpu() * 1e6), log_start=0))

    def on_lane(lane: Lane) -> None:
        lane.on_message = on_message
        lane.on_closed = lambda *_: os._exit(0)

    listener = LaneListener(loop, socket_path(directory, "far"), on_lane)
    loop.run_forever()
    listener.close()


async def far_cpu(lane: Lane) -> float:
    answer = await lane.request(Done(), timeout_s=5)
    assert isinstance(answer, Appended)
    return answer.base_offset / 1e6


async def round_trips(lane: Lane, count: int) -> None:
    times: list[float] = []
    done = asyncio.get_running_loop().create_future()
    began = 0.0

    def ask() -> None:
        nonlocal began
        began = time.perf_counter()
        lane.call(Ping(), on_reply=answered, timeout_s=5)

    def answered(_: AnyMessage | LaneError) -> None:
        times.append(time.perf_counter() - began)
        if len(times) < count:
            ask()
        else:
            done.set_result(None)

    ask()
    await done
    times.sort()
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    print(f"round trip      p50 {p50 * 1e6:.0f} us  p99 {p99 * 1e6:.0f} us  ({count} callbacks)")


async def stream(lane: Lane, megabytes: int, size: int, at_once: int) -> None:
    payload = memoryview(os.urandom(size))
    total = max(at_once, megabytes * 1_000_000 // size)
    message: Message = Append(epoch=1, acks=-1, timeout_ms=1000)
    done = asyncio.get_running_loop().create_future()
    asked = answered_count = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        lane.call(message, (payload,), on_reply=answered, timeout_s=30)

    def answered(reply: AnyMessage | LaneError) -> None:
        nonlocal answered_count
        assert isinstance(reply, Appended) and reply.base_offset == size, reply
        answered_count += 1
        if asked < total:
            ask()
        elif answered_count == total:
            done.set_result(None)

    near, far, began = cpu(), await far_cpu(lane), time.perf_counter()
    for _ in range(at_once):
        ask()
    await done
    took = time.perf_counter() - began
    gigabytes = total * size / 1e9
    near, far = cpu() - near, await far_cpu(lane) - far
    print(
        f"{size:>9} bytes  {total * size / took / 1e6:8.0f} MB/s  {total / took:8.0f} frames/s  "
        f"CPU-s/GB: send {near / gigabytes:.2f} + receive {far / gigabytes:.2f} = {(near + far) / gigabytes:.2f}"
    )


async def measure(directory: Path, options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            lane = await dial(loop, socket_path(directory, "far"))
            break
        except OSError:
            await asyncio.sleep(0.01)
    await round_trips(lane, options.round_trips)
    await stream(lane, options.mb, options.size, 8)
    await stream(lane, max(1, options.mb // 10), 16_000, 64)
    await stream(lane, max(1, options.mb // 200), 100, 256)
    lane.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=2000)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--round-trips", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pid = os.fork()
        if not pid:
            serve(directory)
            os._exit(0)
        sys.setswitchinterval(0.0005)
        introduce(hello("near"))
        asyncio.run(measure(directory, options))
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()

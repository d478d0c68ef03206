"""How many operations a second the history checker judges, and with how much memory.

    python -m bench.checker_bench --operations 1000000

Writes a clean history of four producers and two readers over some partitions, with a final read, the raw logs of three
replicas and the leaders of each epoch, and judges the file as ``python -m tests.checker`` does, in a process of its
own. Half of the operations are sends of one record, half polls. The medians go to bench/results/checker_bench.jsonl.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from bench.report import append

ROOT = Path(__file__).resolve().parent.parent


def write(path: Path, operations: int, keys: int, seed: int = 1) -> None:
    """A history without a fault: acknowledged sends in order, each record polled by one reader soon after."""
    rng = random.Random(seed)
    encode = msgspec.json.encode
    ends = [0] * keys
    logs: list[list[list[int]]] = [[] for _ in range(keys)]
    position = [0] * keys
    t = 0.0
    with path.open("wb") as file:

        def line(**fields: object) -> None:
            file.write(encode(fields) + b"\n")

        for i in range(operations):
            t += 0.0005
            number = rng.randrange(keys)
            key = f"t-{number}"
            log = logs[number]
            if rng.random() < 0.5 or position[number] == len(log):
                value = (1 + number % 4 << 40) | i
                pair = [ends[number], value]
                log.append(pair)
                ends[number] += 1
                head = {"i": i, "proc": number % 4, "f": "send", "type": "ok", "t_inv": t, "t_ret": t + 0.0004}
                line(**head, value=[["send", key, pair]])
            else:
                records = log[position[number] :]
                position[number] = len(log)
                head = {"i": i, "proc": 10 + number % 2, "f": "poll", "type": "ok", "t_inv": t, "t_ret": t + 0.0004}
                line(**head, value=[["poll", {key: records}]])
        began = t + 1
        for number, log in enumerate(logs):
            for at in range(0, len(log), 500):
                t = began + number + at / 1e6
                head = {"i": at, "proc": 100, "f": "poll", "type": "ok", "t_inv": t, "t_ret": t + 1e-7}
                line(**head, value=[["poll", {f"t-{number}": log[at : at + 500]}]])
        spans = {f"t-{number}": [0, end] for number, end in enumerate(ends)}
        line(i=0, proc=100, f="final", type="ok", t_inv=began, t_ret=began + keys + 1, value=spans)
        for key, (_, end) in spans.items():
            # Batches of some records, a new leader every thousand of them.
            batches = [[at, min(end, at + 5) - 1, "0" * 40, at // 5000] for at in range(0, end, 5)]
            for node in (1, 2, 3):
                raw = {"key": key, "replica": node, "start": 0, "hw": end, "batches": batches}
                line(i=node, proc=100, f="replica", type="ok", t_inv=t, t_ret=t, value=raw)
            led = [[epoch, 1 + epoch % 3] for epoch in range(end // 5000 + 1)]
            line(i=4, proc=100, f="epochs", type="ok", t_inv=t, t_ret=t, value={"key": key, "leaders": led, "gone": []})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=16)
    parser.add_argument("--shard-mb", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path, out = Path(directory, "history.jsonl"), Path(directory, "verdict.json")
        write(path, arguments.operations, arguments.keys)
        command = [sys.executable, "-m", "tests.checker", str(path), "--out", str(out)]
        command += ["--shard-mb", str(arguments.shard_mb)]
        rates, cpu_rates = [], []
        for _ in range(arguments.rounds):
            child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            verdict = msgspec.json.decode(out.read_bytes())
            if verdict["valid"] is not True:
                raise SystemExit(f"a clean history was judged {verdict['valid']}: {verdict['found']}")
            rates.append(verdict["operations_per_s"])
            cpu_rates.append(round(verdict["operations"] / (usage.ru_utime + usage.ru_stime)))
        rates.sort()
        cpu_rates.sort()
        result = {
            "operations": verdict["operations"],
            "history_mb": round(path.stat().st_size / 1e6, 1),
            "operations_per_s": rates[len(rates) // 2],
            "rounds": rates,
            "operations_per_cpu_s": cpu_rates[len(rates) // 2],
            "peak_mib": round(usage.ru_maxrss / 1024),
            "load_average": round(os.getloadavg()[0], 1),
        }
        append("checker_bench", vars(arguments), result)
        print(
            f"{verdict['operations']} operations of {path.stat().st_size / 1e6:.0f} MB on {arguments.keys} keys, "
            f"shards of {arguments.shard_mb} MB: median {rates[len(rates) // 2]} operations/s of {rates}, "
            f"{cpu_rates[len(rates) // 2]} a second of processor time with start and report, "
            f"peak {usage.ru_maxrss / 1024:.0f} MB, load {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()

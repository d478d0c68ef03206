"""Faults of whole hosts, one after the other, under load: the cable pulled, pulled and put back, power off, frozen.

    python -m tests.cluster.host_faults --count 40 --seed 11

Needs root (network namespaces). Prints each fault with the seconds until every partition acknowledged again and until
the cluster was whole, then what became of every record; exits with 1 if one was lost, doubled or out of order.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.deployment import NODES, PARTITIONS, TOPIC, Client, Deployment
from tests.cluster.hosts import Hosts

FAULTS = ("cut", "flap", "kill", "stop")
RIDDEN_OUT_S = 60.0
WRONG = ("lost", "misplaced", "doubled", "disordered", "unanswered")


def befall(fault: str, number: int, deployment: Deployment, client: Client) -> float:
    """One fault, and its end; how long it took until every partition had acknowledged again."""
    hosts = deployment.hosts
    if fault == "cut":
        hosts.cut(number)
        gap = client.goes_on(RIDDEN_OUT_S)
        hosts.heal(number)
    elif fault == "flap":
        for _ in range(4):
            hosts.cut(number)
            time.sleep(random.uniform(0.0, 1.2))
            hosts.heal(number)
            time.sleep(random.uniform(0.0, 0.4))
        gap = client.goes_on(RIDDEN_OUT_S)
    elif fault == "stop":
        frozen = hosts.pids(number)
        signalled(frozen, signal.SIGSTOP)
        gap = client.goes_on(RIDDEN_OUT_S)
        signalled(frozen, signal.SIGCONT)
    else:
        deployment.kill(number)
        gap = client.goes_on(RIDDEN_OUT_S)
        deployment.serve(number)
        deployment.await_ready(number)
    return gap


def signalled(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def run(count: int, faults: list[str], folder: Path) -> bool:
    hosts = Hosts(len(NODES))
    hosts.make()
    try:
        deployment = Deployment(hosts, folder)
        for number in NODES:
            deployment.serve(number)
        try:
            deployment.await_ready(*NODES)
            deployment.healthy()
            made = deployment.ask("topic", "create", TOPIC, "--partitions", str(PARTITIONS))
            assert made.returncode == 0, made.stderr
            client = Client(deployment)
            client.goes_on()
            for at in range(count):
                fault, number = random.choice(faults), random.choice(NODES)
                began = time.monotonic()
                gap = befall(fault, number, deployment, client)
                deployment.healthy()
                whole = time.monotonic() - began
                print(f"{at + 1:3} {fault} of host {number}: acknowledged after {gap:.2f} s, whole after {whole:.2f} s")
            report = client.finish()
        finally:
            for number in NODES:
                deployment.kill(number)
    finally:
        hosts.remove()
    print(report)
    return not any(report[wrong] for wrong in WRONG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help="of " + ", ".join(FAULTS))
    options = parser.parse_args()
    faults = options.faults.split(",")
    unknown = set(faults) - set(FAULTS)
    if unknown:
        parser.error(f"no fault is called {', '.join(unknown)}")
    random.seed(options.seed)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="logeion-hosts-") as folder:
        sys.exit(0 if run(options.count, faults, Path(folder)) else 1)


if __name__ == "__main__":
    main()

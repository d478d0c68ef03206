"""Bugs that the simulator must see: each is a test-only patch of the product, and an invariant finds it.

Every one has cost somebody data once (kafka.md, 6.6; the Raft paper; the issue names them). The product's own
assertions do not count: a process that ends of one only dies, the world goes on until a judge objects.

    python -m tests.sim.planted [--only NAME] [--seeds 2000] [--start 0] [--jobs 2]     (the seed that catches each)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import pytest

from tests.sim import cluster_world, group_plants, group_world, plants, raft_world, voter_plants
from tests.sim.engine import Stuck, Violated

SEEDS = 2000


class Plant(msgspec.Struct, frozen=True):
    """``seed`` is one that is known to catch it; ``world`` where: cluster, raft or group."""

    patch: Callable[[pytest.MonkeyPatch], None]
    seed: int
    world: str = "cluster"
    # The class of seeds that it shows in: each so many, from this one on.
    step: int = 1
    first: int = 0


GATEWAYS = {"step": cluster_world.GATEWAYS, "first": cluster_world.GATEWAYS - 1}
GROUPS = {"step": cluster_world.GROUPS, "first": 11}

PLANTS: dict[str, Plant] = {
    "ack before the ISR has it": Plant(plants.ack_early, 0),
    "watermark from unsynced ends": Plant(plants.watermark_unsynced, 5),
    "restart appends in the same epoch": Plant(plants.same_epoch, 4),
    "no epoch check on a fetch reply": Plant(plants.stale_reply, 77),
    "truncation to the watermark": Plant(plants.truncate_to_watermark, 10),
    "watermark raised before truncation": Plant(plants.watermark_first, 21),
    "stale incarnation counted as progress": Plant(plants.stale_incarnation, 137),
    "ISR expanded before the epoch start": Plant(plants.expand_early, 1513),
    "ISR shrunk without the controller": Plant(plants.shrink_alone, 1),
    "lower partition epoch accepted": Plant(plants.lower_partition_epoch, 286),
    "leader elected outside ISR and ELR": Plant(plants.elect_anybody, 70),
    "controller acts on an uncommitted record": Plant(plants.act_uncommitted, 0),
    "watermark forgotten by a restart": Plant(plants.watermark_forgotten, 1),
    "log emptied by a restart": Plant(plants.empties_log, 2),
    "vote not persisted": Plant(plants.vote_not_persisted, 9, "raft"),
    "earlier term's entry committed by count": Plant(plants.commit_by_count, 3, "raft"),
    "committed entries truncated": Plant(plants.truncate_committed, 33, "raft"),
    "snapshot drops its tail": Plant(plants.snapshot_drops_tail, 0, "raft"),
    "duplicate answered before the watermark": Plant(plants.duplicate_early, 1),
    "producers not rebuilt after truncation": Plant(plants.producers_kept, 45),
    "failed fsync retried and acked": Plant(plants.sync_retried, 71),
    "unclean election that nobody has allowed": Plant(plants.unclean_unasked, 103),
    "unclean election while an ELR member lives": Plant(plants.eligible_passed_over, 535),
    "suffix kept after an unclean election": Plant(plants.suffix_kept, 551),
    "other history's suffix not seen by the leader": Plant(plants.suffix_unseen, 311),
    "torn batch kept by recovery": Plant(plants.torn_kept, 23),
    "older metadata snapshot taken by a gateway": Plant(plants.older_snapshot, 3375, **GATEWAYS),
    "produce acked though its lane closed": Plant(plants.success_without_answer, 31, **GATEWAYS),
    "fetch answered above the watermark": Plant(plants.read_to_the_end, 31, **GATEWAYS),
    "log's end told by a gateway that is behind": Plant(plants.never_confirmed, 31, **GATEWAYS),
    "old answer to Metadata told again": Plant(plants.stale_answers, 31, **GATEWAYS),
    "dead Coordinator's late append accepted": Plant(plants.late_append, 3, "group"),
    "commit accepted from an old generation": Plant(plants.old_generation, 0, "group"),
    "voters in force once committed only": Plant(voter_plants.old_set_counts, 115),
    "change of voters while another is under way": Plant(voter_plants.second_change, 99),
    "change of voters answered early": Plant(voter_plants.answered_early, 3),
    "removed voter still counted": Plant(voter_plants.removed_counts, 115),
    "failed fsync of a voter acked": Plant(voter_plants.voter_sync_ignored, 1347),
    "voter without its disk elects": Plant(voter_plants.remembers_nothing_lost, 83),
    # The same two and others, of groups on a whole cluster.
    "late append of a group accepted": Plant(plants.late_append, 171, **GROUPS),
    "old generation's commit accepted": Plant(plants.old_generation, 43, **GROUPS),
    "old member epoch's commit accepted": Plant(group_plants.commit_after_fencing, 347, **GROUPS),
    "partition given before it was let go": Plant(group_plants.given_early, 91, **GROUPS),
    "generation logged with its assignments only": Plant(group_plants.generation_kept_back, 59, **GROUPS),
    "group answers before its records are committed": Plant(group_plants.answers_first, 11, **GROUPS),
    "group loaded to a new leader's watermark": Plant(group_plants.loads_to_watermark, 75, **GROUPS),
    "positions read to a new leader's watermark": Plant(group_plants.index_to_watermark, 1003, **GROUPS),
}


def run(name: str, seed: int, *, planted: bool = True) -> str:
    """Which invariant a judge sees broken at this seed; "" if none.

    Neither a crash nor a world that does not come to rest counts: what is to be seen is the harm itself.
    """
    plant = PLANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        if plant.world == "group":
            plants.real_fence(patch)
        if planted:
            plant.patch(patch)
        try:
            _live(plant.world, seed)
        except Stuck:
            return ""
        except Violated as violation:
            return str(violation)
        except Exception:
            # In these worlds a machine's own assertion ends the world, not a process.
            return ""
    return ""


def _live(kind: str, seed: int) -> None:
    if kind == "raft":
        raft_world.run_seed(seed)
    elif kind == "group":
        group_world.run_seed(seed, protocol="classic")
    else:
        world = cluster_world.ClusterWorld(seed)
        try:
            world.live()
        finally:
            world.close()


def find(name: str, start: int = 0, seeds: int = SEEDS) -> tuple[int, str] | None:
    """The first seed that catches it, and what is said of it; of its class, from the ``start``-th on."""
    plant = PLANTS[name]
    for number in range(start, start + seeds):
        seed = plant.first + number * plant.step
        complaint = run(name, seed)
        if complaint:
            return seed, complaint
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="a part of a bug's name")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    names = [name for name in PLANTS if not options.only or options.only in name]
    missed = 0
    with cluster_world.workers(options.jobs) as spread:
        tasks = [(name, options.start, options.seeds) for name in names]
        for name, found, seconds in spread(_search, tasks):  # type: ignore[operator]
            if found is None:
                missed += 1
                print(f"{name}: {options.seeds} seeds from {options.start} ran clean over it ({seconds:.0f} s)")
            else:
                plant = PLANTS[name]
                needed = (found[0] - plant.first) // plant.step - options.start + 1
                print(f"{name}: caught by seed {found[0]} (of {needed}, {seconds:.0f} s): {found[1].splitlines()[0]}")
            sys.stdout.flush()
    return 1 if missed or not names else 0


def _search(task: tuple[str, int, int]) -> tuple[str, tuple[int, str] | None, float]:
    began = time.monotonic()
    return task[0], find(*task), time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())

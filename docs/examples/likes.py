"""Likes and dislikes, counted exactly, with the user told at once.

A user may change their mind any number of times; what counts is the last vote. Votes are keyed by user, so one user's
votes are in one partition and in order. The counter keeps one byte a user and writes it down together with the offset
up to which it is right: after a crash it reads on from exactly there, so no vote counts twice and none is lost. A user
is told as soon as the vote is acknowledged: from then on no failure can lose it.

    python docs/examples/likes.py [--bootstrap HOST:PORT] [--users 1000000]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

import logeion
import logeion.testing

LIKE, DISLIKE = 1, 2
PARTITIONS = 2


class Vote(msgspec.Struct, array_like=True):
    """``user`` says that they like (1) or dislike (2) it."""

    user: int
    vote: int


def votes_topic(name: str) -> logeion.Topic[bytes, Vote]:
    """Each run counts votes of its own, so that it can be run again with the same broker."""
    return logeion.Topic(name, key=bytes, value=Vote, codec="msgpack")


class Counter:
    """One partition's share of the count, in a file of its own: the offset it is right up to, then a byte a user."""

    def __init__(self, file: Path, users: int) -> None:
        self.file = file
        self.offset = 0
        self.votes = bytearray(users)
        self.counts = [users, 0, 0]
        if file.exists():
            data = file.read_bytes()
            self.offset, self.votes = int.from_bytes(data[:8], "big"), bytearray(data[8:])
            self.counts = [self.votes.count(value) for value in (0, LIKE, DISLIKE)]

    def take(self, offset: int, vote: Vote) -> None:
        """This vote replaces the user's last one."""
        self.counts[self.votes[vote.user]] -= 1
        self.counts[vote.vote] += 1
        self.votes[vote.user] = vote.vote
        self.offset = offset + 1

    def save(self) -> None:
        """Both or neither: the votes and how far they go are one file, which replaces the old one whole."""
        fresh = self.file.with_suffix(".new")
        with fresh.open("wb") as out:
            out.write(self.offset.to_bytes(8, "big") + self.votes)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(self.file)


def count(bootstrap: str, name: str, folder: Path, users: int, die_after: int = 0) -> list[Counter]:
    """Counts what is there; dies after so many votes, if asked to, in the middle of everything."""
    counters = [Counter(folder / f"votes-{partition}", users) for partition in range(PARTITIONS)]
    taken = 0
    topic = votes_topic(name)
    with logeion.connect(bootstrap) as client, client.consume(topic, auto_offset_reset="earliest") as votes:
        for partition, counter in enumerate(counters):
            votes.seek(logeion.TopicPartition(name, partition), counter.offset)
        while (record := votes.poll(2.0)) is not None:
            counters[record.partition].take(record.offset, record.value)
            taken += 1
            if taken == die_after:
                os.kill(os.getpid(), 9)
            if taken % 20_000 == 0:
                counters[record.partition].save()
    for counter in counters:
        counter.save()
    return counters


def main() -> None:
    options = argparse.ArgumentParser(description="Count likes and dislikes exactly.")
    options.add_argument("--bootstrap", help="a Kafka; by default one is started for this run")
    options.add_argument("--users", type=int, default=20_000, help="how many users vote (default: 20000)")
    options.add_argument("--topic", default=f"votes-{secrets.token_hex(4)}", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--die-after", type=int, default=0, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.folder is not None:
        count(chosen.bootstrap, chosen.topic, chosen.folder, chosen.users, chosen.die_after)
        return
    with contextlib.ExitStack() as stack:
        bootstrap = chosen.bootstrap or stack.enter_context(logeion.testing.broker()).bootstrap
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = stack.enter_context(logeion.connect(bootstrap))
        topic = votes_topic(chosen.topic)
        client.admin.create_topic(topic.name, partitions=PARTITIONS)
        stack.callback(client.admin.delete_topic, topic.name)

        # Every user votes, and some change their mind.
        dice, last = random.Random(7), bytearray(chosen.users)
        began = time.monotonic()
        with client.producer() as producer:
            for user in [*range(chosen.users), *dice.choices(range(chosen.users), k=chosen.users // 2)]:
                last[user] = dice.choice((LIKE, DISLIKE))
                told = producer.send(topic, Vote(user, last[user]), user.to_bytes(4, "big"))
            producer.flush()
            took = time.monotonic() - began
            print(f"{chosen.users * 3 // 2} votes acknowledged in {took:.1f} s")
            asked = time.monotonic()
            told = producer.send(topic, Vote(0, LIKE), (0).to_bytes(4, "big"))
            last[0] = LIKE
            producer.flush()
            told.result(10)
            print(f"user 0 was told after {1000 * (time.monotonic() - asked):.1f} ms")

        # The counter dies half way, by a kill that it cannot see coming.
        command = [sys.executable, __file__, "--bootstrap", bootstrap, "--users", str(chosen.users)]
        command += ["--topic", topic.name, "--folder", str(folder), "--die-after", str(chosen.users // 2)]
        print(f"the counter ended with {subprocess.run(command).returncode} after {chosen.users // 2} votes")
        began = time.monotonic()
        counters = count(bootstrap, topic.name, folder, chosen.users)
        print(f"the next one went on where it was right, and was done after {time.monotonic() - began:.1f} s")
        likes, dislikes = (sum(one.counts[vote] for one in counters) for vote in (LIKE, DISLIKE))
        print(f"{likes} like it, {dislikes} do not")
        assert (likes, dislikes) == (last.count(LIKE), last.count(DISLIKE)), "not exact"


if __name__ == "__main__":
    main()

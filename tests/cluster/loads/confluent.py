"""A load of confluent-kafka at its defaults, but idempotent: a thread for each client."""

from __future__ import annotations

import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.cluster.loads.common import COMMIT_S, FUTURE_MS, History, Told, Value, options, read_value, say

OPTIONS = options()
HISTORY = History(Path(OPTIONS.history), OPTIONS.first)
TOLD = Told()
BATCH = 200
# What of an error is sure: nothing was appended, by any attempt. All others leave it open.
REFUSED = {
    KafkaError._QUEUE_FULL,
    KafkaError._PURGE_QUEUE,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_REQUIRED_ACKS,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
}
# Of what a consumer hands to a transaction: the member's generation behind a tag, its group and its id.
MEMBERSHIP = struct.Struct("<7si")


def key(partition: int) -> str:
    return f"{OPTIONS.topic}-{partition}"


class Sender(threading.Thread):
    """A producer; after an answer that leaves a record's fate open it is another process with another producer."""

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self.acked = 0
        self._number = number
        self._begin()

    def _begin(self) -> None:
        self._doubt = False
        self._proc = HISTORY.process()
        self._values = Value(self._proc, OPTIONS.record_bytes)
        self._producer = Producer(self._settings())

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"bootstrap.servers": OPTIONS.bootstrap, "acks": OPTIONS.acks}
        settings["enable.idempotence"] = OPTIONS.acks == "all"
        # Why it took a new epoch is what one asks first when a record is there twice. On standard error.
        settings |= {"debug": "eos", "log_level": 7}
        if OPTIONS.request_ms:
            # The first is the broker's patience with its followers, the second the client's with the broker.
            settings |= {"request.timeout.ms": OPTIONS.request_ms, "socket.timeout.ms": OPTIONS.request_ms}
        return settings

    def run(self) -> None:
        pause = OPTIONS.producers / OPTIONS.per_second
        due = time.monotonic()
        at = self._number
        while not TOLD.stop.is_set():
            self._send(at % OPTIONS.partitions)
            at += 1
            due = max(due + pause, time.monotonic() - 1.0)
            while (left := due - time.monotonic()) > 0 and not TOLD.stop.is_set():
                self._producer.poll(min(left, 0.1))
            if self._doubt:
                self._end()
                self._begin()
        self._end()

    def _send(self, partition: int, **more: Any) -> None:
        value, record = self._values.make()
        proc, began = self._proc, HISTORY.begin(value, partition)

        def failed(error: KafkaError) -> None:
            sure = error.code() in REFUSED
            self._doubt = self._doubt or not sure
            kind = "fail" if sure else "info"
            HISTORY.write("send", kind, proc, began, [["send", key(partition), [None, value]]], why=str(error))

        def answered(error: KafkaError | None, message: Message) -> None:
            offset = message.offset()
            known = None if offset is None or offset < 0 else offset
            if error is None:
                self.acked += 1
                HISTORY.write("send", "ok", proc, began, [["send", key(partition), [known, value]]])
            else:
                failed(error)

        try:
            self._producer.produce(OPTIONS.topic, record, partition=partition, on_delivery=answered, **more)
        except BufferError:
            failed(KafkaError(KafkaError._QUEUE_FULL))
            self._producer.poll(0.05)
        except KafkaException as error:
            failed(error.args[0])

    def _end(self) -> None:
        if self._producer.flush(120):
            say("error", text="records without any answer after 120 s")


class Refused(Sender):
    """Sends what the broker must refuse, each time: a value of it that anybody reads was appended all the same."""

    def _settings(self) -> dict[str, Any]:
        # A refused batch leaves a gap in its producer's sequence, so an idempotent one would begin anew each time.
        return super()._settings() | {"enable.idempotence": False}

    def run(self) -> None:
        at = 0
        while not TOLD.stop.wait(1 / OPTIONS.refused_per_second):
            self._send(at % OPTIONS.partitions, timestamp=int(time.time() * 1000) + FUTURE_MS)
            self._producer.poll(0)
            at += 1
        self._end()


class Reader(threading.Thread):
    """A consumer: what every poll returned, by key."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.proc = HISTORY.process()
        self.positions: dict[int, int] = {}
        self.moved: set[int] = set()

    def settings(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": OPTIONS.bootstrap,
            "group.id": OPTIONS.group or "nobody",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }

    def poll(self, consumer: Consumer) -> None:
        """Poll for what is there; one operation for what came, and one more where the assignment changed between."""
        got: list[Message] = []
        began = time.monotonic()
        wait = 0.1
        while len(got) < BATCH:
            message = consumer.poll(wait)
            wait = 0.0
            if self.moved:
                self._write(began, got, [])
                self._write(began, [message] if message else [], [key(number) for number in sorted(self.moved)])
                self.moved.clear()
                return
            if message is None:
                break
            got.append(message)
        self._write(began, got, [])

    def _write(self, began: float, messages: list[Message], moved: list[str]) -> None:
        polled: dict[str, list[list[Any]]] = {}
        for message in messages:
            if message.error() is not None:
                HISTORY.counts[f"poll error {message.error().name()}"] += 1
                continue
            polled.setdefault(key(message.partition()), []).append([message.offset(), read_value(message.value())])
            self.positions[message.partition()] = message.offset() + 1
        if polled or moved:
            self.write("poll", "ok", began, [["poll", polled]], reb=moved)

    def write(self, f: str, kind: str, began: float, value: Any, **more: Any) -> None:
        HISTORY.write(f, kind, self.proc, began, value, **more)

    def arrived(self) -> bool:
        """Whether everything to the given ends was read."""
        return TOLD.drain.is_set() and all(self.positions.get(n, 0) >= end for n, end in TOLD.ends.items())


class Follower(Reader):
    """Reads all partitions by assignment, from the beginning."""

    def run(self) -> None:
        consumer = Consumer(self.settings())
        self.write("assign", "ok", time.monotonic(), [key(number) for number in range(OPTIONS.partitions)])
        consumer.assign([TopicPartition(OPTIONS.topic, number, 0) for number in range(OPTIONS.partitions)])
        while not self.arrived():
            self.poll(consumer)
        consumer.close()


class Member(Reader):
    """A member of the group, which commits what it has read ten times a second. One that stays for ``stay_s`` leaves
    after that, and is another process with another consumer from then on."""

    def __init__(self, stay_s: float = 0.0) -> None:
        super().__init__()
        self._stay_s = stay_s or float("inf")

    def run(self) -> None:
        while not (TOLD.drain.is_set() and GROUP.arrived()):
            self._live()
            self.proc = HISTORY.process()
            self.positions.clear()
            self.moved.clear()

    def _live(self) -> None:
        self._uncommitted: set[int] = set()
        self._owned: set[int] = set()
        leaves = time.monotonic() + self._stay_s
        # A read is a group's only if the group is named with it.
        consumer = Consumer(self.settings() | {"session.timeout.ms": OPTIONS.session_ms})
        self.write("subscribe", "ok", time.monotonic(), [key(number) for number in range(OPTIONS.partitions)])
        consumer.subscribe([OPTIONS.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        due = 0.0
        while not (GROUP.arrived() if TOLD.drain.is_set() else time.monotonic() > leaves):
            before = dict(self.positions)
            self.poll(consumer)
            self._uncommitted |= {n for n, at in self.positions.items() if before.get(n) != at} & self._owned
            if time.monotonic() >= due:
                self._commit(consumer)
                due = time.monotonic() + COMMIT_S
        consumer.close()
        if self._owned:
            self._lost(consumer, [TopicPartition(OPTIONS.topic, number) for number in self._owned])

    def write(self, f: str, kind: str, began: float, value: Any, **more: Any) -> None:
        super().write(f, kind, began, value, group=OPTIONS.group, member=str(self.proc), **more)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.moved |= {one.partition for one in partitions}
        self._owned = {one.partition for one in partitions}
        self._uncommitted.clear()
        keys = [key(number) for number in sorted(self._owned)]
        self.write("own", "ok", time.monotonic(), keys, gen=generation(consumer))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit(consumer)
        self._lost(consumer, partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.moved |= {one.partition for one in partitions}
        self._owned -= {one.partition for one in partitions}
        self.write("disown", "ok", time.monotonic(), [key(one.partition) for one in partitions])

    def _commit(self, consumer: Consumer) -> None:
        wanted = {number: self.positions[number] for number in self._uncommitted & self._owned}
        if not wanted:
            return
        offsets = [TopicPartition(OPTIONS.topic, number, at) for number, at in wanted.items()]
        began = time.monotonic()
        value = {key(number): at for number, at in wanted.items()}
        before = generation(consumer)
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            self.write("commit", "info", began, value, why=str(error), gen=before)
        else:
            # What the client sent between two generations may have been of either.
            self.write("commit", "ok", began, value, gen=before if before == generation(consumer) else -1)
            GROUP.committed(wanted)
            self._uncommitted -= wanted.keys()


def generation(consumer: Consumer) -> int:
    """Of the member that it is now; -1: none."""
    shown = consumer.consumer_group_metadata()
    if shown is None or not shown.startswith(b"CGMDv2:"):
        return -1
    return int(MEMBERSHIP.unpack_from(shown)[1])


class Group:
    """What the members of this process have committed together."""

    def __init__(self) -> None:
        self._positions: dict[int, int] = {}

    def committed(self, positions: dict[int, int]) -> None:
        for number, at in positions.items():
            self._positions[number] = max(at, self._positions.get(number, 0))

    def arrived(self) -> bool:
        return all(self._positions.get(number, 0) >= end for number, end in TOLD.ends.items())


class Asker(threading.Thread):
    """Asks for the ends of partitions in turn."""

    def run(self) -> None:
        proc = HISTORY.process()
        consumer = Consumer({"bootstrap.servers": OPTIONS.bootstrap, "group.id": "nobody"})
        number = 0
        while not TOLD.stop.wait(1 / OPTIONS.ends_per_second):
            number = (number + 1) % OPTIONS.partitions
            began = time.monotonic()
            try:
                _, end = consumer.get_watermark_offsets(TopicPartition(OPTIONS.topic, number), 5.0)
            except KafkaException as error:
                HISTORY.counts[f"list_end error {error.args[0].name()}"] += 1
                continue
            HISTORY.write("list_end", "ok", proc, began, {key(number): end})
        consumer.close()


GROUP = Group()


def main() -> int:
    senders = [Sender(number) for number in range(OPTIONS.producers)]
    readers: list[Reader] = [Follower() for _ in range(OPTIONS.followers)]
    readers += [Member() for _ in range(OPTIONS.members - 1)]
    # One alone has nobody to leave its partitions to.
    readers += [Member(OPTIONS.churn_s if OPTIONS.members > 1 else 0.0)] * bool(OPTIONS.members)
    askers: list[threading.Thread] = [Asker(daemon=True)] if OPTIONS.ends_per_second else []
    askers += [Refused(0)] if OPTIONS.refused_per_second else []
    for thread in (*senders, *readers, *askers):
        thread.start()
    while not (all(one.acked for one in senders) and all(one.positions for one in readers[: OPTIONS.followers])):
        if TOLD.stop.wait(0.02):
            break
    say("running")
    while not TOLD.stop.wait(1.0):
        say("counts", **HISTORY.counts)
    for thread in (*senders, *askers):
        thread.join()
    say("stopped", **HISTORY.counts)
    TOLD.drain.wait()
    for reader in readers:
        reader.join()
    HISTORY.close()
    say("ended", **HISTORY.counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Errors counted in windows of time; what was too much is mailed as one digest.

Services publish their errors. The watcher counts them a service and a minute, by the time at which they happened and
not at which they were read, waits a while for late ones, and gathers the minutes that had too many. At the end of a
round all of them go out in one mail. Then it notes in a topic which minutes are done, and commits how far it has read:
up to the first event of a minute that is still open, so that the next round counts that one whole. A watcher that dies
before that does the same again, and the mail's id is made of what it says: who gets it twice sees one.

    python docs/examples/alert_digest.py [--bootstrap HOST:PORT] [--smtp HOST:PORT]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import smtplib
from collections import Counter
from email.message import EmailMessage

import msgspec

import logeion
import logeion.testing

WINDOW_MS = 60_000
LATE_MS = 120_000
TOO_MANY = 20


class Failure(msgspec.Struct):
    """A service could not do something."""

    service: str
    reason: str


class Done(msgspec.Struct):
    """Minutes that ended at or before this are mailed, or were not worth it."""

    until_ms: int


FAILURES = logeion.Topic("failures", key=str, value=Failure)
DONE = logeion.Topic("digests", value=Done)


class Windows:
    """Counts by (window, service). A window is closed once an event is newer than its end by LATE_MS."""

    def __init__(self, done_until: int) -> None:
        self.done_until = done_until
        self.open: dict[tuple[int, str], Counter[str]] = {}
        self.first: dict[tuple[int, str], int] = {}

    def take(self, offset: int, at_ms: int, failure: Failure) -> None:
        """Count it, unless its window is closed."""
        start = at_ms - at_ms % WINDOW_MS
        if start < self.done_until:
            return
        self.open.setdefault((start, failure.service), Counter())[failure.reason] += 1
        self.first.setdefault((start, failure.service), offset)
        self.done_until = max(self.done_until, (at_ms - LATE_MS) // WINDOW_MS * WINDOW_MS)

    def closed(self) -> list[tuple[int, str, Counter[str]]]:
        """The windows that are over and had too many; all that are over are forgotten."""
        over = [key for key in sorted(self.open) if key[0] < self.done_until]
        counted = [(*key, self.open.pop(key)) for key in over]
        for key in over:
            del self.first[key]
        return [one for one in counted if one[2].total() >= TOO_MANY]


def digest(alerts: list[tuple[int, str, Counter[str]]]) -> EmailMessage:
    """One mail for all of them; the same alerts make the same Message-ID."""
    lines = []
    for start, service, reasons in alerts:
        worst, times = reasons.most_common(1)[0]
        lines.append(f"minute {start // WINDOW_MS}: {service} failed {reasons.total()} times, {times} of them: {worst}")
    mail = EmailMessage()
    mail["From"], mail["To"] = "watcher@example.com", "operators@example.com"
    mail["Subject"] = f"{len(alerts)} minutes with too many failures"
    mail["Message-ID"] = f"<{hashlib.sha256('|'.join(lines).encode()).hexdigest()[:32]}@watcher.example.com>"
    mail.set_content("\n".join(lines) + "\n")
    return mail


def watch(client: logeion.Client, smtp: str | None) -> int:
    """One round over what is new; returns how many mails it sent."""
    done_until = 0
    with client.consume(DONE, auto_offset_reset="earliest") as rounds:
        while (one := rounds.poll(1.0)) is not None:
            done_until = one.value.until_ms
    windows = Windows(done_until)
    alerts: list[tuple[int, str, Counter[str]]] = []
    where, end = logeion.TopicPartition("failures", 0), 0
    with client.consume(FAILURES, group="watcher", auto_offset_reset="earliest", enable_auto_commit=False) as failures:
        while (record := failures.poll(2.0)) is not None:
            windows.take(record.offset, record.timestamp_ms, record.value)
            alerts += windows.closed()
            end = record.offset + 1
        if alerts:
            send(digest(alerts), smtp)
        if end:
            with client.producer() as producer:
                producer.send(DONE, Done(windows.done_until)).result(10)
            failures.seek(where, min(windows.first.values(), default=end))
            failures.commit()
    return 1 if alerts else 0


def send(mail: EmailMessage, smtp: str | None) -> None:
    """By this server, or onto the terminal."""
    if smtp is None:
        print(mail)
        return
    host, _, port = smtp.rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=10) as server:
        server.send_message(mail)


def simulate(client: logeion.Client) -> None:
    """Ten minutes of failures: two services have a bad one, and some events come late."""
    dice = random.Random(3)
    events = []
    for minute in range(12):
        for service in ("shop", "search", "mail"):
            bad = (minute, service) in ((3, "shop"), (7, "mail"))
            for _ in range(40 if bad else dice.randrange(10)):
                reason = "database away" if bad else dice.choice(("timeout", "bad request"))
                events.append((minute * WINDOW_MS + dice.randrange(WINDOW_MS), Failure(service, reason)))
    events.sort(key=lambda event: event[0] + dice.randrange(LATE_MS // 2))
    with client.producer() as producer:
        for at_ms, failure in events:
            producer.send(FAILURES, failure, failure.service, timestamp_ms=at_ms)
        producer.flush()


def main() -> None:
    options = argparse.ArgumentParser(description="Mail one digest of the minutes with too many failures.")
    options.add_argument("--bootstrap", help="a Kafka; by default one is started for this run")
    options.add_argument("--smtp", help="where to send the mail; by default it is printed")
    chosen = options.parse_args()
    with contextlib.ExitStack() as stack:
        bootstrap = chosen.bootstrap or stack.enter_context(logeion.testing.broker()).bootstrap
        client = stack.enter_context(logeion.connect(bootstrap))
        # One partition: windows close by the newest event that was seen, which must not be one partition's alone.
        for topic in ("failures", "digests"):
            with contextlib.suppress(logeion.errors.TopicAlreadyExistsError):
                client.admin.create_topic(topic, partitions=1)
        simulate(client)
        print(f"{watch(client, chosen.smtp)} mail sent")
        print(f"{watch(client, chosen.smtp)} mails sent when nothing was new")


if __name__ == "__main__":
    main()

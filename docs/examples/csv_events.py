"""A CSV export turned into events, for several readers.

Somebody exports orders as a CSV file, again and again, and each export holds the old rows too. This program publishes
each row once: the log itself says which rows it has, in a header of each event, so there is no state file to lose.
Then three readers that know nothing of each other take from it what they need.

    python docs/examples/csv_events.py [--bootstrap HOST:PORT] [FILE.csv]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

import logeion
import logeion.testing

SAMPLE = """order,customer,product,amount
1,ada,compass,31.50
2,bob,map,12.00
3,ada,lamp,8.25
4,cem,compass,31.50
5,bob,lamp,8.25
"""


class Order(msgspec.Struct):
    """One row of the export."""

    order: int
    customer: str
    product: str
    amount: float


# The customer is the key: one customer's orders keep their order. One that cannot be read is kept for a person to see.
ORDERS = logeion.Topic("orders", key=str, value=Order, on_decode_error="dead-letter:orders-unreadable")


def rows(file: Path) -> Iterator[Order]:
    """The rows, checked against their type: a bad one raises with its line's number."""
    with file.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            try:
                yield msgspec.convert(row, Order, strict=False)
            except msgspec.ValidationError as error:
                raise SystemExit(f"{file}, line {number}: {error}") from error


def published(client: logeion.Client) -> set[int]:
    """The rows that earlier runs have published. All of them: a run that died may have left a gap in one partition."""
    found = set()
    with client.consume("orders", auto_offset_reset="earliest") as events:
        while (event := events.poll(1.0)) is not None:
            found.add(int(dict(event.headers)["row"] or b"0"))
    return found


def export(client: logeion.Client, file: Path) -> int:
    """Publishes the rows that are new; returns how many those were."""
    known = published(client)
    new = 0
    with client.producer() as producer:
        for number, order in enumerate(rows(file), 1):
            if number not in known:
                producer.send(ORDERS, order, order.customer, headers=[("row", b"%d" % number)])
                new += 1
        producer.flush()
    return new


def read(client: logeion.Client, group: str) -> Iterator[logeion.Record[str, Order]]:
    """What this reader has not seen yet; it counts as seen once the loop comes back for the next."""
    with client.consume(ORDERS, group=group, auto_offset_reset="earliest") as events:
        while (event := events.poll(2.0)) is not None:
            yield event


def main() -> None:
    options = argparse.ArgumentParser(description="Turn a CSV export into events.")
    options.add_argument("--bootstrap", help="a Kafka; by default one is started for this run")
    options.add_argument("file", nargs="?", type=Path, help="a CSV file with order,customer,product,amount")
    chosen = options.parse_args()
    with contextlib.ExitStack() as stack:
        bootstrap = chosen.bootstrap or stack.enter_context(logeion.testing.broker()).bootstrap
        client = stack.enter_context(logeion.connect(bootstrap))
        file = chosen.file
        if file is None:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "orders.csv"
            file.write_text(SAMPLE, encoding="utf-8")
        for topic in ("orders", "orders-unreadable"):
            with contextlib.suppress(logeion.errors.TopicAlreadyExistsError):
                client.admin.create_topic(topic, partitions=3 if topic == "orders" else 1)

        print(f"exported {export(client, file)} new orders")
        print(f"exported {export(client, file)} new orders the second time")

        spent: Counter[str] = Counter()
        for event in read(client, "billing"):
            spent[event.value.customer] += round(event.value.amount * 100)
        print("billing:  ", ", ".join(f"{name} owes {cents / 100:.2f}" for name, cents in sorted(spent.items())))

        sold = Counter(event.value.product for event in read(client, "stock"))
        print("stock:    ", ", ".join(f"{count} x {product}" for product, count in sorted(sold.items())))

        for event in read(client, "shipping"):
            print("shipping: ", f"{event.value.product} to {event.value.customer}, order {event.value.order}")


if __name__ == "__main__":
    main()

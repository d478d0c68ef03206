"""A member with Quix Streams (confluent-kafka below it), which commits by itself. Its pins want an environment too."""

from __future__ import annotations

import threading
import time

from quixstreams import Application
from quixstreams.context import message_context

from tests.interop.members.common import Ear, Owned, options, say


def main() -> None:
    wanted = options()
    app = Application(
        broker_address=wanted.bootstrap,
        consumer_group=wanted.group,
        auto_offset_reset="earliest",
        commit_interval=0.2,
        loglevel="WARNING",
        consumer_extra_config={"heartbeat.interval.ms": wanted.heartbeat_ms},
    )
    owned = Owned()

    def take(value: bytes) -> None:
        at = message_context()
        say("record", topic=at.topic, partition=at.partition, offset=at.offset, value=value.decode())

    for name in wanted.topics:
        app.dataframe(app.topic(name, value_deserializer="bytes")).update(take)

    def listen() -> None:
        ear = Ear()
        while ear.heard() != "close":
            owned.now((p.topic, p.partition) for p in app._consumer.assignment())
            time.sleep(0.05)
        app.stop()

    threading.Thread(target=listen, daemon=True).start()
    app.run()
    say("closed")


if __name__ == "__main__":
    main()

"""The metrics page, read by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from logeion.console.metrics import render
from logeion.console.view import Metric


def test_prometheus_reads_every_name_label_and_value() -> None:
    odd = 'a "quoted" \\ back\nslash'
    page = render(
        [
            Metric("kafka_brokers", "gauge", "nodes", [({}, 3)]),
            Metric("left_out", "gauge", "nothing", []),
            Metric("things_total", "counter", "a\nb", [({"topic": odd, "partition": "0"}, 1.5), ({}, 2**40)]),
        ]
    )
    families = {one.name: one for one in text_string_to_metric_families(page)}
    assert set(families) == {"kafka_brokers", "things"}
    [brokers] = families["kafka_brokers"].samples
    assert (brokers.labels, brokers.value, families["kafka_brokers"].type) == ({}, 3.0, "gauge")
    first, second = families["things"].samples
    assert first.labels == {"topic": odd, "partition": "0"} and first.value == 1.5
    assert (second.value, families["things"].type) == (2.0**40, "counter")

"""Apache Kafka's own command-line tools, each run as a person runs it: a fresh JVM, standard input and output."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.interop.conftest import need_java
from tests.interop.peers import java

TOOLS = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
}


@pytest.fixture
def tool(bootstrap: str) -> object:
    need_java()

    def run(name: str, *arguments: str, text: str = "") -> str:
        command = java(TOOLS[name], "--bootstrap-server", bootstrap, *arguments)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=40)
        assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_the_console_tools_make_a_topic_fill_read_change_and_delete_it(tool: object, topic_name: str) -> None:
    assert callable(tool)
    about = ("--topic", topic_name)
    tool("kafka-topics", "--create", *about, "--partitions", "2", "--config", "retention.ms=-1")
    shown = tool("kafka-topics", "--describe", *about)
    assert "PartitionCount: 2" in shown
    assert "retention.ms=-1" in shown

    keyed = ("--reader-property", "parse.key=true", "--reader-property", "key.separator=:")
    tool("kafka-console-producer", *about, "--compression-codec", "zstd", *keyed, text="a:1\nb:2\nc:3\nd:4\n")
    read: list[str] = []
    ends = tool("kafka-get-offsets", *about).split()
    counts = {int(line.split(":")[1]): int(line.split(":")[2]) for line in ends}
    assert sum(counts.values()) == 4
    for partition, count in counts.items():
        if count:
            where = ("--partition", str(partition), "--offset", "earliest", "--max-messages", str(count))
            printed = tool("kafka-console-consumer", *about, *where, "--formatter-property", "print.key=true")
            read += printed.splitlines()
    assert sorted(read) == ["a\t1", "b\t2", "c\t3", "d\t4"]

    entity = ("--entity-type", "topics", "--entity-name", topic_name)
    tool("kafka-configs", "--alter", *entity, "--add-config", "max.message.bytes=2000000")
    assert "max.message.bytes=2000000" in tool("kafka-configs", "--describe", *entity)
    tool("kafka-topics", "--alter", *about, "--partitions", "4")
    assert "PartitionCount: 4" in tool("kafka-topics", "--describe", *about)

    tool("kafka-topics", "--delete", *about)
    deadline = time.monotonic() + 20
    while topic_name in tool("kafka-topics", "--list").split():
        assert time.monotonic() < deadline, f"{topic_name} is still listed"


def test_the_tools_that_look_at_a_broker_get_whole_answers(tool: object) -> None:
    assert callable(tool)
    versions = tool("kafka-broker-api-versions")
    assert "Produce(0): 0 to " in versions
    assert "UNKNOWN" not in versions
    assert '"error":null' in tool("kafka-log-dirs", "--describe")

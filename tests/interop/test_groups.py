"""Consumer groups as every foreign client lives in them: share, commit, leave, come back, and be missed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.broker import until
from tests.interop.clients import Record
from tests.interop.conftest import need_java, need_kcat, need_node
from tests.interop.members.driver import MemberProcess, until_owned, until_told
from tests.interop.peers import KAFKA_LIBS, NODE_MODULES, TOOLS, java
from tests.tools import ROOT, require_file

PARTITIONS = 4
MakeTopic = Callable[..., str]
Start = Callable[..., MemberProcess]


class KcatMember(MemberProcess):
    """kcat -G: it commits by itself, tells what it owns on standard error, and leaves at SIGTERM."""

    def __init__(self, errors: Path, **options: Any) -> None:
        command = ["kcat", "-b", options["bootstrap"], "-G", options["group"], *options["topics"]]
        command += ["-u", "-J", "-X", "auto.offset.reset=earliest"]
        command += ["-X", "heartbeat.interval.ms=300", "-X", "auto.commit.interval.ms=100"]
        super().__init__(command, errors)

    def parse(self, line: str) -> list[dict[str, Any]]:
        shown = json.loads(line)
        return [
            {
                "event": "record",
                "topic": shown["topic"],
                "partition": shown["partition"],
                "offset": shown["offset"],
                "value": shown["payload"],
            }
        ]

    @property
    def owned(self) -> set[tuple[str, int]]:
        lines = [line for line in self.errors.read_text().splitlines() if "rebalanced" in line]
        if not lines or "assigned: " not in lines[-1]:
            return set()
        found = set()
        for part in lines[-1].partition("assigned: ")[2].split(", "):
            topic, _, number = part.partition(" [")
            found.add((topic, int(number.rstrip("]"))))
        return found

    def close(self, seconds: float = 15.0) -> None:
        self.process.terminate()
        until(lambda: self.process.poll() is not None, seconds, self.story())
        self.end()


def in_environment(name: str, errors: Path, **options: Any) -> MemberProcess:
    """A member whose client has an environment of its own."""
    python = require_file(TOOLS / name / "bin/python", "make tools")
    command = [str(python), "-m", f"tests.interop.members.{name}_", json.dumps(options)]
    return MemberProcess(command, errors, {"PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="session")
def java_member(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., MemberProcess]:
    """The Java member, compiled once."""
    classes: list[Path] = []

    def start(errors: Path, **options: Any) -> MemberProcess:
        need_java()
        if not classes:
            folder = tmp_path_factory.mktemp("java")
            program = ROOT / "tests/interop/java/Member.java"
            subprocess.run(["javac", "-cp", f"{KAFKA_LIBS}/*", "-d", str(folder), str(program)], check=True)
            classes.append(folder)
        command = java("Member", json.dumps(options))
        command[command.index("-cp") + 1] += f":{classes[0]}"
        return MemberProcess(command, errors)

    return start


@pytest.fixture
def start(bootstrap: str, tmp_path: Path, java_member: Callable[..., MemberProcess]) -> Iterator[Start]:
    """Start a member of this kind; all are ended with the test."""
    members: list[MemberProcess] = []

    def make(kind: str, **options: Any) -> MemberProcess:
        errors = tmp_path / f"{kind}-{len(members)}.err"
        options["bootstrap"] = bootstrap
        client, _, protocol = kind.partition(" ")
        if protocol == "848":
            options["protocol"] = "consumer"
        match client:
            case "kafkajs":
                need_node()
                program = ROOT / "tests/interop/kafkajs/member.js"
                command = ["node", str(program), json.dumps(options)]
                member = MemberProcess(command, errors, {"NODE_PATH": str(NODE_MODULES)})
            case "java":
                member = java_member(errors, **options)
            case "kcat":
                need_kcat()
                member = KcatMember(errors, **options)
            case "faststream" | "quixstreams":
                member = in_environment(client, errors, **options)
            case _:
                module = {"kafka-python": "kafka_python", "aiokafka": "aiokafka_", "confluent": "confluent"}[client]
                member = MemberProcess.python(module, errors, **options)
        members.append(member)
        return member

    yield make
    for member in members:
        member.end()


ALL = (
    "kafka-python",
    "aiokafka",
    "confluent",
    "confluent 848",
    "kafkajs",
    "kcat",
    "java",
    "java 848",
    "faststream",
    "quixstreams",
)
# These commit by themselves, and cannot be told to.
BY_THEMSELVES = ("kcat", "faststream", "quixstreams")


@pytest.fixture
def produce(client_named: Callable[[str], Any]) -> Callable[[str, int, int], None]:
    """``count`` numbers from ``first`` on, dealt to the partitions."""

    def send(topic: str, first: int, count: int, partitions: int = PARTITIONS) -> None:
        for partition in range(partitions):
            dealt = [Record(value=str(n).encode()) for n in range(first, first + count) if n % partitions == partition]
            client_named("confluent-kafka").produce(topic, partition, dealt)

    return send


def everything(topic: str) -> set[tuple[str, int]]:
    return {(topic, partition) for partition in range(PARTITIONS)}


def until_taken(members: list[MemberProcess], values: range, seconds: float = 20.0) -> None:
    wanted = {str(value) for value in values}
    until_told(lambda: {value for one in members for value in one.values} >= wanted, seconds, members)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_members_share_commit_leave_and_come_back(
    kind: str, start: Start, make_topic: MakeTopic, produce: Callable[..., None]
) -> None:
    topic = make_topic(partitions=PARTITIONS)
    produce(topic, 0, 100)
    options = {"group": f"group-of-{topic}", "topics": [topic]}
    first = start(kind, **options)
    until_owned([first], everything(topic), 25)
    until_taken([first], range(100))
    if kind not in BY_THEMSELVES:
        first.commit()
    second = start(kind, **options)
    until_owned([first, second], everything(topic), 25)
    assert len(first.owned) == len(second.owned) == 2
    produce(topic, 100, 100)
    until_taken([first, second], range(100, 200))
    assert not set(second.values) & {str(n) for n in range(100)} or kind in BY_THEMSELVES, (
        "given again what was committed"
    )
    if kind not in BY_THEMSELVES:
        first.commit()
        second.commit()
    first.close()
    until_owned([second], everything(topic), 25)
    produce(topic, 200, 100)
    until_taken([second], range(200, 300))
    if kind not in BY_THEMSELVES:
        second.commit()
    second.close()
    produce(topic, 300, 100)
    third = start(kind, **options)
    until_taken([third], range(300, 400))
    assert set(third.values) == {str(n) for n in range(300, 400)}, "resumed where the group had stopped"
    third.close()


AT_DEFAULTS = ("kafka-python", "aiokafka", "confluent", "confluent 848", "kafkajs", "java", "java 848")


@pytest.mark.slow
@pytest.mark.parametrize("kind", AT_DEFAULTS)
def test_the_first_record_reaches_a_new_group_within_a_second_at_defaults(
    kind: str, start: Start, make_topic: MakeTopic, produce: Callable[..., None]
) -> None:
    topic = make_topic(partitions=PARTITIONS)
    produce(topic, 0, 10)
    member = start(kind, group=f"first-of-{topic}", topics=[topic], heartbeat_ms=0)
    until_told(lambda: member.records, 20, [member])
    took = member.records[0]["t"] - member.of("subscribing")[0]["t"]
    assert took < 1.0, f"{took:.2f} s from subscribe to the first record\n{member.story()}"


COOPERATIVE = ("kafka-python", "confluent", "java")


@pytest.mark.slow
@pytest.mark.parametrize("kind", (*COOPERATIVE, "confluent 848"))
def test_a_member_keeps_what_it_need_not_give_up(kind: str, start: Start, make_topic: MakeTopic) -> None:
    topic = make_topic(partitions=PARTITIONS)
    options = {"group": f"cooperative-{topic}", "topics": [topic]}
    if kind in COOPERATIVE:
        options["strategy"] = "cooperative-sticky"
    first = start(kind, **options)
    until_owned([first], everything(topic), 25)
    seen = len(first.of("owns"))
    second = start(kind, **options)
    until_owned([first, second], everything(topic), 25)
    kept = first.owned
    for event in first.of("owns")[seen:]:
        assert kept <= {(name, number) for name, number in event["partitions"]}, "gave up what it could have kept"
    second.close()
    until_owned([first], everything(topic), 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("kafka-python", "confluent", "java", "confluent 848"))
def test_a_static_member_that_comes_back_in_time_moves_nobody(kind: str, start: Start, make_topic: MakeTopic) -> None:
    topic = make_topic(partitions=PARTITIONS)
    options = {"group": f"static-{topic}", "topics": [topic], "session_ms": 20_000}
    stays = start(kind, **options, instance="stays")
    goes = start(kind, **options, instance="goes")
    until_owned([stays, goes], everything(topic), 25)
    its = goes.owned
    assigned = len(stays.of("assigning"))
    if kind == "confluent 848":
        goes.close()  # of this protocol a static member says that it leaves for a while
    else:
        goes.kill()
    back = start(kind, **options, instance="goes")
    until_told(lambda: back.owned == its, 25, [back, stays])
    assert len(stays.of("assigning")) == assigned, "the others did not notice"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("kafka-python", "aiokafka", "confluent", "confluent 848", "java", "java 848"))
def test_a_pattern_takes_in_a_topic_that_comes_later(
    kind: str, start: Start, make_topic: MakeTopic, client_named: Callable[[str], Any]
) -> None:
    topic = make_topic(partitions=1)
    member = start(kind, group=f"pattern-{topic}", pattern=f"{topic}.*")
    until_told(lambda: member.owned == {(topic, 0)}, 25, [member])
    maker = client_named("confluent-kafka")
    maker.create_topic(f"{topic}-later", 1, {})
    try:
        until_told(lambda: member.owned == {(topic, 0), (f"{topic}-later", 0)}, 25, [member])
    finally:
        maker.delete_topic(f"{topic}-later")


@pytest.mark.slow
def test_what_a_dead_member_owned_is_owned_again_within_its_session_and_a_second(
    start: Start, make_topic: MakeTopic
) -> None:
    topic = make_topic(partitions=PARTITIONS)
    pairs = []
    for kind in ("aiokafka", "confluent"):
        options = {"group": f"dead-{kind}-{topic}", "topics": [topic], "session_ms": 6_000}
        pairs.append((start(kind, **options), start(kind, **options)))
    for pair in pairs:
        until_owned(list(pair), everything(topic), 25)
    killed = time.monotonic()
    for _, victim in pairs:
        victim.kill()
    for survivor, _ in pairs:
        until_owned([survivor], everything(topic), 15)
    assert time.monotonic() - killed < 6.0 + 1.0

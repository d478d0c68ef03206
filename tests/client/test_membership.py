"""Settings, typed topics, assignors and the membership machine: no sockets."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logeion.client.assignors import (
    Subscription,
    cooperative_assign,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
    range_assign,
    sticky_assign,
)
from logeion.client.membership import Membership
from logeion.client.positions import TopicPartition
from logeion.client.settings import ProducerSettings, StandaloneConsumerSettings, checked
from logeion.client.topics import DecodeError, Topic
from logeion.errors import (
    ConfigError,
    FencedInstanceIdError,
    IllegalGenerationError,
    MemberIdRequiredError,
    NotCoordinatorError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    WireError,
)
from logeion.wire.apis import JoinGroupResponse, JoinGroupResponseMember, SyncGroupResponse
from logeion.wire.records import Record as RawRecord

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


class Order(msgspec.Struct):
    id: int


def test_settings_are_taken_by_their_dotted_names_and_as_text() -> None:
    config = {"bootstrap.servers": "a:1", "group.id": "g", "enable.auto.commit": "false", "fetch.min.bytes": "7"}
    assert checked(StandaloneConsumerSettings, {"client_id": "c"}, config) == {
        "client_id": "c",
        "bootstrap_servers": "a:1",
        "group_id": "g",
        "enable_auto_commit": False,
        "fetch_min_bytes": 7,
    }


@pytest.mark.parametrize(
    ("given_settings", "config", "told"),
    [
        ({"liger_ms": 5}, None, "did you mean linger_ms"),
        ({"zzz": 5}, None, "known are acks"),
        ({"transactional_id": "x"}, None, "transactions"),
        ({"linger_ms": 5}, {"linger.ms": "6"}, "given twice"),
        ({}, {"linger.ms": "soon"}, "not a number"),
        ({}, {"enable.idempotence": "maybe"}, "neither true nor false"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    given_settings: dict[str, object], config: dict[str, str] | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        checked(ProducerSettings, given_settings, config)


@pytest.mark.parametrize(
    ("given_settings", "config", "told"),
    [
        ({"auto_offset_reset": "earlest"}, None, "'earlest': it is one of .* did you mean earliest"),
        ({}, {"auto.offset.reset": "smallest"}, r"auto.offset.reset='smallest': it is one of earliest, latest, none"),
        ({"group_protocol": "clasic"}, None, "did you mean classic"),
        ({"isolation_level": "committed"}, None, "did you mean read_committed"),
        ({"value_deserializer": bytes.decode}, None, "decoding is the topic's"),
        ({"retries": 3}, None, "delivery_timeout_ms"),
        ({"ssl_cafile": "x"}, None, "PLAINTEXT only"),
        ({"sasl_kerberos_name": "x"}, None, "does not authenticate"),
    ],
)
def test_values_of_a_list_and_settings_that_cannot_be_had_are_explained(
    given_settings: dict[str, object], config: dict[str, str] | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        checked(StandaloneConsumerSettings, given_settings, config)


def test_a_list_leaves_room_for_what_else_its_setting_may_be() -> None:
    def mine(key: bytes, count: int) -> int:
        return 0

    for given_settings in ({"partitioner": mine}, {"compression_type": None}, {"acks": 1}, {"acks": -1}):
        assert checked(ProducerSettings, given_settings) == given_settings
    with pytest.raises(ConfigError, match="did you mean murmur2"):
        checked(ProducerSettings, {"partitioner": "murmur"})
    assert checked(ProducerSettings, {}, {"acks": "1"}) == {"acks": 1}


class Model:
    """What pydantic's models look like from outside."""

    def __init__(self, text: str) -> None:
        self.text = text

    def model_dump_json(self) -> str:
        return f'"{self.text}"'

    @classmethod
    def model_validate_json(cls, data: bytes) -> Model:
        return cls(msgspec.json.decode(data, type=str))


def test_topics_say_how_keys_and_values_become_bytes() -> None:
    assert Topic("t", key=int, value=Order).encode(Order(1), 7) == (b'{"id":1}', b"7")
    packed = Topic("t", value=Order, codec="msgpack")
    assert packed.decode_value(packed.encode(Order(3), None)[0]) == Order(3)
    models = Topic("t", key=str, value=Model)
    assert models.encode(Model("a"), "é") == (b'"a"', "é".encode())
    assert models.decode_value(b'"b"').text == "b"
    with pytest.raises(TypeError, match="bytes are needed, not str"):
        Topic("t").encode("text", None)  # type: ignore[arg-type]
    for wrong in ("stop", "dead-letter", "skip:x"):
        with pytest.raises(ConfigError):
            Topic("t", on_decode_error=wrong)


def test_a_decode_error_says_where_and_keeps_the_record() -> None:
    raw = RawRecord(offset=9, key=b"k", value=b'{"id":"x"}')
    with pytest.raises(DecodeError, match=r"t\[1\] offset 9: the value cannot be decoded: .*\$\.id") as caught:
        Topic("t", key=str, value=Order).read(T1, raw)
    assert caught.value.raw is raw and caught.value.where == T1 and "dead-letter" in caught.value.hint
    with pytest.raises(DecodeError, match="tombstone"):
        Topic("t", value=Order).read(T1, RawRecord(value=None))
    assert Topic("t").read(T1, RawRecord(value=None)).value is None


names = st.sampled_from(["a", "b", "c"])
members = st.dictionaries(
    st.sampled_from(["m1", "m2", "m3", "m4"]), st.frozensets(names, min_size=1).map(tuple), min_size=1
)
counts = st.fixed_dictionaries({"a": st.integers(0, 7), "b": st.integers(0, 7), "c": st.integers(0, 7)})


@given(members, counts)
def test_range_gives_each_topic_in_even_runs_in_the_order_of_members(
    topics: dict[str, tuple[str, ...]], sizes: dict[str, int]
) -> None:
    given_ = range_assign({member: Subscription(wanted) for member, wanted in topics.items()}, sizes)
    for topic in {name for wanted in topics.values() for name in wanted}:
        readers = sorted(member for member, wanted in topics.items() if topic in wanted)
        runs = [[tp.partition for tp in given_[member] if tp.topic == topic] for member in readers]
        assert [index for run in runs for index in run] == list(range(sizes[topic]))
        assert sorted((len(run) for run in runs), reverse=True) == [len(run) for run in runs]
        assert max(len(run) for run in runs) - min(len(run) for run in runs) <= 1


@settings(deadline=None)
@given(members, counts, members)
def test_sticky_gives_everything_once_evenly_and_moves_no_more_than_it_must(
    topics: dict[str, tuple[str, ...]], sizes: dict[str, int], later: dict[str, tuple[str, ...]]
) -> None:
    first = sticky_assign({member: Subscription(wanted) for member, wanted in topics.items()}, sizes)
    again = {member: Subscription(wanted, tuple(first[member]), 1) for member, wanted in topics.items()}
    assert {member: sorted(tps) for member, tps in sticky_assign(again, sizes).items()} == first
    joined = {member: Subscription(wanted, tuple(first.get(member, ())), 1) for member, wanted in later.items()}
    second = cooperative_assign(joined, sizes)
    every = [tp for tps in second.values() for tp in tps]
    assert len(every) == len(set(every))
    for member, tps in second.items():
        assert all(tp.topic in later[member] for tp in tps)
        held = {tp for other, one in joined.items() if other != member for tp in one.owned}
        assert not held & set(tps)
    # Once what moved is let go, joining again settles it: everything is given, and nothing moves any more.
    settled = second
    for generation in range(2, 5):
        settled = cooperative_assign(
            {member: Subscription(wanted, tuple(settled[member]), generation) for member, wanted in later.items()},
            sizes,
        )
    wanted_topics = {name for wanted in later.values() for name in wanted}
    assert sum(map(len, settled.values())) == sum(sizes[name] for name in wanted_topics)
    if len(set(later.values())) == 1:
        loads = [len(tps) for tps in settled.values()]
        assert max(loads) - min(loads) <= 1


@given(st.binary(max_size=60))
def test_what_other_members_send_is_read_or_refused(data: bytes) -> None:
    for decode in (decode_subscription, decode_assignment):
        try:
            decode(data)
        except WireError:
            pass


def test_subscriptions_and_assignments_survive_the_way() -> None:
    one = Subscription(("a", "b"), (T0, T1), 5)
    assert decode_subscription(encode_subscription(one)) == one
    assert decode_assignment(encode_assignment([T1, T0])) == [T0, T1]


def answered(member: str, leader: str, generation: int, members_: dict[str, Subscription]) -> JoinGroupResponse:
    rows = [
        JoinGroupResponseMember(member_id=name, metadata=encode_subscription(one)) for name, one in members_.items()
    ]
    return JoinGroupResponse(
        generation_id=generation, protocol_name="cooperative-sticky", leader=leader, member_id=member, members=rows
    )


def test_a_member_gets_its_id_joins_leads_and_follows_what_it_is_told() -> None:
    machine = Membership("g", ["t"], assignors=["cooperative-sticky"])
    assert machine.leave() is None
    assert machine.join().member_id == ""
    assert not machine.joined(JoinGroupResponse(error_code=MemberIdRequiredError.code, member_id="m"))
    assert machine.join().member_id == "m"
    answer = answered("m", "m", 1, {"m": Subscription(("t",))})
    assert machine.joined(answer) and machine.topics_of(answer) == {"t"}
    (own,) = machine.sync(answer, {"t": 2}).assignments
    change = machine.synced(SyncGroupResponse(assignment=bytes(own.assignment)))
    assert (change.revoked, change.added, change.again) == ([], [T0, T1], False)
    # Another member joins: this one keeps reading, announces what it has, and gives up one partition afterwards.
    assert machine.refused(RebalanceInProgressError("")) == "rejoin" and machine.to_revoke() == []
    joining = decode_subscription(bytes(machine.join().protocols[0].metadata))
    assert joining.owned == (T0, T1)
    answer = answered("m", "m", 2, {"m": joining, "n": Subscription(("t",))})
    machine.joined(answer)
    shares = {
        one.member_id: decode_assignment(bytes(one.assignment)) for one in machine.sync(answer, {"t": 2}).assignments
    }
    assert len(shares["m"]) == 1 and shares["n"] == []
    change = machine.synced(SyncGroupResponse(assignment=encode_assignment(shares["m"])))
    assert len(change.revoked) == 1 and change.again


def test_errors_of_the_group_mean_what_kafka_means_by_them() -> None:
    machine = Membership("g", ["t"], instance_id="i")
    machine.member_id, machine.generation, machine.owned = "m", 3, [T0]
    assert machine.to_revoke() == [T0]
    assert machine.refused(NotCoordinatorError("")) == "elsewhere"
    assert machine.refused(FencedInstanceIdError("")) == "fatal"
    assert machine.refused(IllegalGenerationError("")) == "lost"
    assert (machine.member_id, machine.generation, machine.owned) == ("m", -1, [])
    assert machine.refused(UnknownMemberIdError("")) == "lost" and machine.member_id == ""
    assert machine.leave() is None
    with pytest.raises(ConfigError):
        Membership("g", ["t"], assignors=["best"])

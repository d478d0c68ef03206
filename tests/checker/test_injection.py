"""A history as it should be has no anomaly; with one of them injected the checker names exactly that one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checker.history import Op
from tests.checker.judge import judge_ops
from tests.checker.model import AFTER, FINAL, MEMBERS, READERS, Model, build
from tests.checker.verdict import STRICT, Config

models = st.builds(
    build,
    st.just("x"),
    st.lists(st.sampled_from([0, 1]), min_size=8, max_size=20),
    st.integers(min_value=3, max_value=6),
)
# Which record is hit: not the first nor the last two, so that there is something on both sides of it.
places = st.integers(min_value=0, max_value=1000)

Injection = Callable[[Model, int], None]
BEFORE: dict[str, Injection] = {}  # changes what was written
AFTERWARDS: dict[str, Injection] = {}  # changes what was seen


def before(name: str) -> Callable[[Injection], Injection]:
    return lambda injection: BEFORE.setdefault(name, injection)


def afterwards(name: str) -> Callable[[Injection], Injection]:
    return lambda injection: AFTERWARDS.setdefault(name, injection)


def place(model: Model, seed: int) -> int:
    return 1 + seed % (len(model.log) - 4)


def shift(model: Model, at: int) -> None:
    """The acknowledged offsets from here on are one higher: something was put before them."""
    for send in model.sends[at:]:
        send.value[0][2][0] += 1


def swap(model: Model, at: int) -> None:
    """The records of two sends, one after the other, stand the other way round."""
    first, second = model.sends[at].value[0][2], model.sends[at + 1].value[0][2]
    first[0], second[0] = second[0], first[0]
    model.log[at], model.log[at + 1] = model.log[at + 1], model.log[at]


@before("realtime-order")
def _(model: Model, at: int) -> None:
    model.sends[at].proc, model.sends[at + 1].proc = 40, 41
    swap(model, at)


@before("nonmonotonic-send")
def _(model: Model, at: int) -> None:
    model.sends[at + 1].proc = model.sends[at].proc = 40
    model.sends[at].t_ret = model.sends[at + 1].t_ret
    swap(model, at)


@before("int-nonmonotonic-send")
def _(model: Model, at: int) -> None:
    swap(model, at)
    model.sends[at].value += model.sends.pop(at + 1).value


@before("duplicate")
def _(model: Model, at: int) -> None:
    model.log.insert(at + 1, model.log[at])
    shift(model, at + 1)


@before("G1a")
def _(model: Model, at: int) -> None:
    model.sends[at].type = "fail"


@before("phantom")
def _(model: Model, at: int) -> None:
    model.log.insert(at, "never sent")
    shift(model, at)


@before("hole")
def _(model: Model, at: int) -> None:
    model.log.insert(at, None)
    shift(model, at)


@before("ack-rebind")
def _(model: Model, at: int) -> None:
    model.sends[at].value[0][2][0] = 5000


@before("zombie-ack")
def _(model: Model, at: int) -> None:
    t = len(model.log) + 1.0
    value = [["send", "x", [None, "z"]]]
    model.sends.append(Op("send", "ok", 42, t, t + 0.5, value, epoch={"x": 1}, leader={"x": 1}))


@before("zombie-ack (two leaders)")
def _(model: Model, at: int) -> None:
    model.sends[at].leader = {"x": 3}


@before("unseen")
def _(model: Model, at: int) -> None:
    model.log.pop()
    model.vanished = 1


@before("stuck")
def _(model: Model, at: int) -> None:
    t = len(model.log) + 1.0
    model.sends.append(Op("send", "info", 42, t, t + 31, [["send", "x", [None, "z"]]]))


@before("precommitted-read")
def _(model: Model, at: int) -> None:
    offset, value = model.sends[at].value[0][2]
    model.sends[at].value.append(["poll", {"x": [[offset, value]]}])


@before("G1c")
def _(model: Model, at: int) -> None:
    for one, other in ((at, at + 1), (at + 1, at)):
        offset, value = model.sends[other].value[0][2]
        model.sends[one].value.append(["poll", {"x": [[offset, value]]}])
        model.sends[one].proc = 40 + one


@before("G0")
def _(model: Model, at: int) -> None:
    key = "y"
    for one, offset in ((at, 1), (at + 1, 0)):
        model.sends[one].value.append(["send", key, [offset, f"{key}{offset}"]])
        model.sends[one].proc = 40 + one
    # At one time, so that the order of the other key is no matter of time; and that key is read like this one.
    model.sends[at].t_ret = model.sends[at + 1].t_ret
    read = [["poll", {key: [[0, "y0"], [1, "y1"]]}]]
    model.more.append(Op("poll", "ok", FINAL, AFTER + 2000, AFTER + 2001, read))
    model.more.append(Op("final", "ok", FINAL, AFTER + 2000, AFTER + 2900, {key: [0, 2]}))


@afterwards("lost-write")
def _(model: Model, at: int) -> None:
    for polls in model.reads.values():
        for records in polls:
            records[:] = [one for one in records if one[0] != at]


@afterwards("inconsistent-offsets")
def _(model: Model, at: int) -> None:
    model.more.append(Op("send", "info", 42, 0.0, 1.0, [["send", "x", [None, "w"]]]))
    for records in model.reads[READERS[0]]:
        records[:] = [[offset, "w" if offset == at else value] for offset, value in records]


@afterwards("int-poll-skip")
def _(model: Model, at: int) -> None:
    del model.reads[READERS[0]][0][1]


@afterwards("int-nonmonotonic-poll")
def _(model: Model, at: int) -> None:
    records = model.reads[READERS[0]][0]
    records.insert(2, records[1])


@afterwards("poll-skip")
def _(model: Model, at: int) -> None:
    del model.reads[READERS[0]][1][0]


@afterwards("nonmonotonic-poll")
def _(model: Model, at: int) -> None:
    polls = model.reads[READERS[0]]
    polls[1].insert(0, polls[0][-1])


@afterwards("missed-tail")
def _(model: Model, at: int) -> None:
    model.reads[FINAL][-1].pop()


@afterwards("stale-end")
def _(model: Model, at: int) -> None:
    model.more.append(Op("list_end", "ok", 43, AFTER - 1.5, AFTER - 0.5, {"x": at}))


@afterwards("stale-end (goes back)")
def _(model: Model, at: int) -> None:
    model.more.append(Op("list_end", "ok", 43, AFTER - 1.5, AFTER - 0.9, {"x": len(model.log) + 1}))


@afterwards("group-skip")
def _(model: Model, at: int) -> None:
    model.reads[MEMBERS[0]][-1].pop()


@afterwards("over-redelivery")
def _(model: Model, at: int) -> None:
    polls = model.reads
    polls[MEMBERS[1]][0].insert(0, polls[MEMBERS[0]][-1][-1])


@afterwards("group-double-owner")
def _(model: Model, at: int) -> None:
    model.commits.append(model.commit(MEMBERS[0], 1, model.end, AFTER + 902))


@afterwards("group-double-owner (one generation)")
def _(model: Model, at: int) -> None:
    model.commits[0].gen = 2


@afterwards("commit-regress")
def _(model: Model, at: int) -> None:
    model.commits.append(model.commit(MEMBERS[1], 2, model.handover + 1, AFTER + 902))


def split(model: Model, at: int, ops: list[Op]) -> None:
    damaged = next(op for op in ops if op.f == "replica")
    damaged.value["batches"][at] = [at, at, "another"]


def judged(ops: list[Op]) -> tuple[list[str], set[str]]:
    judgement = judge_ops(ops, Config(transactions=True))
    return judgement.findings.roots(), set(judgement.findings.strict)


def beside() -> list[Op]:
    """Another key, as it should be, whose clients must stay out of it."""
    other = build("o", [0, 1] * 5, 4)
    other.polled()
    ops = other.ops()
    for op in ops:
        op.proc = f"o{op.proc}"
    return ops


quick = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)


@quick
@given(models)
def test_a_history_as_it_should_be_has_no_anomaly(model: Model) -> None:
    model.polled()
    judgement = judge_ops([*model.ops(), *beside()])
    assert not judgement.findings.found and judgement.valid


@pytest.mark.parametrize("name", [*BEFORE, *AFTERWARDS, "split-replica"])
def test_one_injected_anomaly_is_named(name: str) -> None:
    anomaly = name.split(" (")[0]

    @quick
    @given(models, places)
    def named(model: Model, seed: int) -> None:
        at = place(model, seed)
        if name in BEFORE:
            BEFORE[name](model, at)
        model.polled()
        if name in AFTERWARDS:
            AFTERWARDS[name](model, at)
        ops = model.ops()
        if name == "split-replica":
            split(model, at, ops)
        roots, faults = judged([*ops, *beside()])
        assert roots == [anomaly]
        assert (anomaly in faults) == (anomaly != "G0")

    named()


def test_every_anomaly_is_injected() -> None:
    """What the specification allows anyway is held against golden vectors only."""
    injected = {name.split(" (")[0] for name in (*BEFORE, *AFTERWARDS, "split-replica")}
    assert STRICT - injected == {"int-send-skip", "G1c-ww"}

"""The golden vectors of the specification: small histories whose anomalies are known, mostly from Jepsen's tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.checker.history import Op
from tests.checker.judge import Judgement, judge_ops
from tests.checker.verdict import JEPSEN, Finding

Micro = list[Any]


def S(key: str, *pairs: tuple[int | None, Any]) -> list[Micro]:
    return [["send", key, list(pair)] for pair in pairs]


def P(key: str, *pairs: tuple[int, Any]) -> list[Micro]:
    return [["poll", {key: [list(pair) for pair in pairs]}]]


def op(kind: str, proc: int, value: Any, f: str = "txn") -> Op:
    return Op(f=f, type=kind, proc=proc, value=value)


def judged(*ops: Op) -> Judgement:
    """One after the other, as they stand."""
    for number, one in enumerate(ops):
        one.t_inv, one.t_ret = float(number), number + 0.5
    return judge_ops(ops)


def found(*ops: Op) -> dict[str, list[Finding]]:
    """Jepsen's anomalies; the sends of these vectors skip as they like."""
    by_class: dict[str, list[Finding]] = {}
    for finding in judged(*ops).findings.kept:
        if finding.anomaly in JEPSEN - {"int-send-skip"}:
            by_class.setdefault(finding.anomaly, []).append(finding)
    return by_class


def values(findings: Iterable[Finding]) -> list[Any]:
    return [value for finding in findings for value in finding.values]


def test_1_a_value_whose_send_failed_is_an_aborted_read() -> None:
    seen = found(op("fail", 0, S("x", (None, 2)) + S("y", (None, 3))), op("ok", 1, P("x", (0, 2))))
    assert list(seen) == ["G1a"] and values(seen["G1a"]) == [2] and seen["G1a"][0].key == "x"


def test_2_writes_below_what_was_read_are_lost() -> None:
    seen = found(
        op("ok", 0, S("x", (0, "a"))),
        op("ok", 0, S("x", (1, "b"), (3, "d"))),
        op("info", 1, S("x", (None, "c"))),
        op("ok", 0, P("x", (2, "c"))),
    )
    assert list(seen) == ["lost-write"] and values(seen["lost-write"]) == ["a", "b"]


def test_3_an_overwritten_value_is_lost_and_its_offset_inconsistent() -> None:
    seen = found(
        op("ok", 0, S("x", (0, "a"))),
        op("ok", 0, S("x", (0, "b"), (2, "c"))),
        op("ok", 0, P("x", (0, "b"), (2, "c"))),
    )
    assert values(seen["lost-write"]) == ["a"]
    assert [(one.key, one.offsets) for one in seen["inconsistent-offsets"]] == [("x", (0,))]


def test_4_a_read_of_one_key_proves_the_other_of_an_unanswered_operation() -> None:
    ops = [
        op("info", 0, S("x", (None, "a")) + S("y", (0, "b"))),
        op("info", 1, S("y", (None, "c"))),
        op("ok", 3, P("y", (1, "c"))),
    ]
    assert found(*ops) == {}
    seen = found(*ops, op("ok", 2, P("x", (0, "a"))))
    assert list(seen) == ["lost-write"] and values(seen["lost-write"]) == ["b"]


def test_5_an_offset_acknowledged_twice_is_inconsistent() -> None:
    seen = found(op("ok", 379, S("11", (537, 641))), op("ok", 363, S("11", (537, 645))))
    assert [(one.offsets, one.values) for one in seen["inconsistent-offsets"]] == [((537,), (641, 645))]


def polls_of_6(*between: Op) -> dict[str, list[Finding]]:
    send = op("info", 3, S("x", *((None, value) for value in "abcd")))
    first, other, last = (
        op("ok", 0, P("x", (1, "a"), (2, "b"))),
        op("ok", 1, P("x", (3, "c"))),
        op("ok", 0, P("x", (4, "d"))),
    )
    return found(send, first, other, *between, last)


def test_6_a_poll_that_jumps_is_a_skip_unless_the_key_was_let_go() -> None:
    assert values(polls_of_6()["poll-skip"]) == ["c"]
    assert polls_of_6(op("ok", 0, ["y"], "subscribe")) == {}
    assert polls_of_6(op("info", 0, ["y"], "assign")) == {}
    assert values(polls_of_6(op("ok", 0, ["x", "y"], "subscribe"))["poll-skip"]) == ["c"]
    assert values(polls_of_6(op("fail", 0, ["y"], "assign"))["poll-skip"]) == ["c"]


def test_7_an_aborted_poll_rewinds() -> None:
    sent = op("ok", 0, S("x", *((n, n) for n in range(6))), "send")
    first = op("ok", 1, P("x", (0, 0)))
    aborted = [op(kind, 1, P("x", (1, 1), (2, 2))) for kind in ("fail", "info", "ok")]
    assert found(sent, first, *aborted) == {}
    forgot = [
        op("fail", 1, P("x", (1, 1), (2, 2))),
        op("fail", 1, P("x", (3, 3), (4, 4))),
        op("ok", 1, P("x", (5, 5))),
    ]
    skips = found(sent, first, *forgot)["poll-skip"]
    assert [one.values for one in skips] == [(1, 2), (1, 2, 3, 4)]


def test_8_polls_that_go_back_are_nonmonotonic() -> None:
    sent = op("ok", 3, S("x", (1, "a"), (2, "b"), (3, "c"), (4, "d")))
    polls = [op("ok", 0, P("x", (1, "a"), (2, "b"), (3, "c"))), op("ok", 0, P("x", (2, "b"), (3, "c"), (4, "d")))]
    (back,) = found(sent, *polls)["nonmonotonic-poll"]
    assert back.note.endswith("delta -1")
    seen = found(sent, op("ok", 0, P("x", (3, "c"), (1, "a"))), op("ok", 1, P("x", (2, "b"))))
    assert seen["int-nonmonotonic-poll"][0].note.endswith("delta -2")


def test_9_sends_that_land_before_earlier_ones_are_nonmonotonic() -> None:
    seen = found(op("ok", 0, S("x", (3, "c"), (4, "d"))), op("ok", 0, S("x", (1, "a"), (2, "b"))))
    assert list(seen) == ["nonmonotonic-send"]
    assert list(found(op("ok", 0, S("x", (3, "c"), (1, "a"))))) == ["int-nonmonotonic-send"]


def test_10_a_value_at_two_offsets_is_a_duplicate() -> None:
    seen = found(op("ok", 0, S("x", (1, "a")) + S("x", (None, "b"))), op("ok", 1, P("x", (2, "b"), (3, "a"))))
    assert [(one.offsets, one.values) for one in seen["duplicate"]] == [((1, 3), ("a",))]
    seen = found(op("ok", 0, S("x", (1, 0))), op("fail", 0, S("x", (2, 1))), op("fail", 1, P("x", (11, 0), (12, 1))))
    assert list(seen) == ["duplicate"] and values(seen["duplicate"]) == [0]


def test_11_cycles_are_told_apart_by_their_edges() -> None:
    crossed = [
        op("ok", 0, S("x", (0, "a")) + S("y", (1, "a"))),
        op("ok", 1, S("x", (1, "b")) + S("y", (0, "b"))),
    ]
    assert "G0" in found(*crossed) and "G1c" not in found(*crossed)
    read = [op("ok", 0, S("x", (0, "a")) + P("y", (0, "b"))), op("ok", 1, S("y", (0, "b")) + P("x", (0, "a")))]
    assert list(found(*read)) == ["G1c"]
    mixed = [
        op("ok", 0, S("x", (0, "a")) + S("y", (2, "c"))),
        op("ok", 1, P("x", (0, "a")) + S("y", (1, "b"))),
    ]
    assert list(found(*mixed)) == ["G1c-ww"]


def test_11_a_circle_may_go_through_a_plain_writer() -> None:
    seen = found(
        op("ok", 0, S("x", (0, "a")) + P("y", (1, "z"))),
        op("ok", 1, S("y", (0, "b")) + P("x", (0, "a"))),
        op("ok", 2, S("y", (1, "z"))),
    )
    assert "G1c-ww" in seen and "G1c" not in seen


def test_11_a_circle_may_close_over_a_session_or_over_time() -> None:
    later = op("ok", 0, S("x", (0, "a")) + S("z", (0, "a")))
    earlier = op("ok", 0, P("x", (0, "a")) + S("y", (0, "b")))
    names = {one.anomaly for one in judged(earlier, later).findings.kept}
    assert "G1c-process" in names and not names & {"G0", "G1c", "G1c-ww"}
    earlier.proc = 1
    assert "G1c-realtime" in {one.anomaly for one in judged(earlier, later).findings.kept}


def test_12_a_transaction_must_not_read_what_it_wrote() -> None:
    assert list(found(op("ok", 0, S("x", (0, "a")) + P("x", (0, "a"))))) == ["precommitted-read"]


def test_13_the_series_of_unseen_values_goes_down_to_none() -> None:
    judgement = judged(
        op("ok", 0, S("x", (0, "a"), (1, "b"))), op("ok", 1, P("x", (0, "a"))), op("ok", 1, P("x", (1, "b")))
    )
    assert [count for _, count in judgement.keys["x"]["unseen"]] == [2, 1, 0]


def test_an_unanswered_send_that_lost_its_offset_to_another_is_no_conflict_until_it_is_proved() -> None:
    ops = [
        op("info", 0, S("x", (0, 1)) + S("y", (None, 1))),
        op("ok", 1, S("x", (0, 2))),
    ]
    assert found(*ops) == {}
    seen = found(*ops, op("ok", 2, P("y", (5, 1))))
    assert [(one.key, one.offsets) for one in seen["inconsistent-offsets"]] == [("x", (0,))]

"""The checker as a whole: reading, shards, the two readings, what it shows, and that it stands alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.checker import gaps, report
from tests.checker.history import SENDS, Fault, HistoryError, Op, no_events
from tests.checker.judge import Judgement, judge_files, judge_ops
from tests.checker.model import MEMBERS, READERS, Model, build
from tests.checker.tables import Tables
from tests.checker.verdict import JEPSEN, STRICT, VARIANTS, Config, Finding, allowed

ROOT = Path(__file__).resolve().parent.parent.parent


def clean(key: str = "x", batch: int = 4) -> Model:
    model = build(key, [0, 1, 1, 0, 0, 1, 0, 1, 0, 1], batch)
    model.polled()
    return model


def write(path: Path, ops: list[Op]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(op) + b"\n" for op in ops))
    return path


def spoiled() -> list[Op]:
    """Ten keys, one of them with a lost record, and an unanswered operation over two that is seen in one only."""
    ops: list[Op] = []
    for number in range(10):
        model = clean(f"k{number}")
        if number == 3:
            for polls in model.reads.values():
                polls[0] = [one for one in polls[0] if one[0] != 2]
        for op in model.ops():
            op.proc = number * 100 + int(op.proc)
            ops.append(op)
    ops.append(Op("send", "info", 7777, 0.0, 1.0, [["send", "k1", [None, "a"]], ["send", "k2", [2, "b"]]]))
    ops.append(Op("poll", "ok", 7778, 5000.0, 5001.0, [["poll", {"k1": [[10, "a"]]}]]))
    return ops


def outcome(judgement: Judgement) -> tuple[object, ...]:
    found = judgement.findings
    kept = sorted((one.anomaly, one.key, one.offsets, one.note) for one in found.kept)
    return found.found, found.strict, found.jepsen, kept, judgement.keys


def test_shards_and_files_do_not_change_the_verdict(tmp_path: Path) -> None:
    ops = spoiled()
    whole = outcome(judge_ops(ops))
    assert whole[1] and {"lost-write", "inconsistent-offsets"} <= set(whole[0])  # type: ignore[call-overload]
    half = len(ops) // 2
    paths = [write(tmp_path / "b.jsonl", ops[half:]), write(tmp_path / "a.jsonl", ops[:half][::-1])]
    assert outcome(judge_files(paths)) == whole
    sharded = judge_files(paths, shard_bytes=4000)
    assert sharded.events.shards > 3
    assert outcome(sharded) == whole


def test_a_history_that_does_not_reach_the_end_is_neither_good_nor_bad() -> None:
    ops = clean().ops()
    assert judge_ops(ops).valid is True
    early = judge_ops([op for op in ops if op.f != "final"])
    assert early.valid is None and early.unfinished == ["x"]


def test_the_two_readings_differ_where_the_specification_says() -> None:
    sure, weak, no_idempotence = Config(), Config(acks="1"), Config(idempotent=False)

    def bad(name: str, config: Config = sure, *traits: str) -> tuple[bool, bool]:
        finding = Finding(name, "x", "", traits=frozenset(traits))
        return not allowed(finding, config, strict=True), not allowed(finding, config, strict=False)

    for name in ("G1a", "inconsistent-offsets", "lost-write", "unseen", "duplicate", "int-poll-skip"):
        assert bad(name) == (True, True), name
    for name in STRICT - JEPSEN:
        assert bad(name) == (True, False), name
    for name in ("int-send-skip", "G0", "G1c-ww", *VARIANTS):
        assert bad(name) == (False, False), name
    assert bad("poll-skip", sure, "subscribe") == (True, False)
    assert bad("poll-skip", sure, "subscribe", "rebalanced") == (False, False)
    assert bad("int-poll-skip", sure, "rebalanced") == (False, False)
    assert bad("nonmonotonic-send", sure, "reassigned") == (True, False)
    for name in ("ack-rebind", "lost-write", "unseen", "missed-tail", "zombie-ack", "realtime-order", "stale-end"):
        assert bad(name, weak) == (False, False), name
    assert bad("duplicate", weak) == (True, True) and bad("duplicate", no_idempotence) == (False, False)
    assert bad("nonmonotonic-send", no_idempotence) == (False, False)
    assert bad("G1c") == (False, False) and bad("G1c", Config(transactions=True)) == (True, True)
    for name in ("G1a", "phantom", "split-replica", "hole", "group-skip"):
        assert bad(name, weak)[0], name


def test_a_jump_of_a_subscriber_counts_only_where_the_key_did_not_change_hands() -> None:
    model = clean(batch=2)
    del model.reads[MEMBERS[1]][1][0]
    ops = model.ops()
    assert set(judge_ops(ops).findings.strict) == {"poll-skip", "group-skip"}
    assert not set(judge_ops(ops).findings.jepsen)
    for op in ops:
        op.reb = ["x"] if op.f == "poll" and op.proc == MEMBERS[1] else op.reb
    assert set(judge_ops(ops).findings.strict) == {"group-skip"}


def test_a_rebalance_told_by_an_empty_poll_counts() -> None:
    model = clean()
    del model.reads[READERS[0]][1][0]
    ops = model.ops()
    assert set(judge_ops(ops).findings.strict) == {"poll-skip"}
    ops.append(Op("poll", "ok", READERS[0], 1001.6, 1001.8, [], reb=["x"]))
    assert not judge_ops(ops).findings.strict


def test_a_seek_lets_the_next_poll_stand_anywhere() -> None:
    model = clean()
    model.reads[READERS[0]].reverse()
    assert set(judge_ops(model.ops()).findings.strict) == {"nonmonotonic-poll"}
    seeks = [Op("seek", "ok", READERS[0], t, t, {"x": 0}) for t in (1001.6, 1002.6)]
    assert not judge_ops([*model.ops(), *seeks]).findings.strict


def own(f: str, member: str, t: float, gen: int = -1) -> Op:
    return Op(f, "ok", member, t, t, ["x"], group="g", member=member, gen=gen)


def test_a_generation_gives_a_key_to_one_member() -> None:
    ops = clean().ops()
    shared = [own("own", "a", 1.0, 3), own("disown", "a", 2.0), own("own", "b", 3.0, 4), own("own", "a", 4.0, 5)]
    assert not judge_ops([*ops, *shared]).findings.found
    assert set(judge_ops([*ops, *shared, own("own", "b", 5.0, 5)]).findings.strict) == {"group-double-owner"}


def test_a_commit_after_one_of_the_next_owner_is_two_owners_also_where_no_generation_is_told() -> None:
    def commit(member: str, t: float) -> Op:
        return Op("commit", "ok", member, t, t + 0.1, {"x": 1}, group="h", member=member)

    def owns(f: str, member: str, t: float) -> Op:
        one = own(f, member, t)
        one.group = "h"
        return one

    read = Op("poll", "ok", "a", 1.0, 2.0, [["poll", {"x": [[0, "x0"]]}]], group="h")
    handed = [read, owns("own", "a", 1.0), commit("a", 3.0), owns("own", "b", 5.0), commit("b", 6.0)]
    ops = [*clean().ops(), *handed]
    # What the first one asked before the second was answered may be accepted later.
    assert not judge_ops([*ops, commit("a", 6.05)]).findings.found
    assert set(judge_ops([*ops, commit("a", 7.0)]).findings.strict) == {"group-double-owner"}
    back = [owns("disown", "b", 6.5), owns("disown", "a", 6.5), owns("own", "a", 6.6), commit("a", 7.0)]
    assert not judge_ops([*ops, *back]).findings.found


def test_a_commit_may_go_back_where_it_was_reset() -> None:
    model = clean()
    back = model.commit(MEMBERS[1], 2, 1, 2500.0)
    model.more.append(back)
    assert set(judge_ops(model.ops()).findings.strict) == {"commit-regress"}
    back.reset = True
    assert not judge_ops(model.ops()).findings.strict


def test_retention_and_explained_gaps_are_no_anomaly() -> None:
    model = clean()
    model.log[4] = None
    model.sends.pop(4)
    model.polled()
    ops = [op for op in model.ops() if op.f != "final"]
    assert set(judge_ops([*ops, Op("final", "ok", 30, 3000, 3900, {"x": [0, 10]})]).findings.strict) >= {"hole"}
    explained = Op("final", "ok", 30, 3000, 3900, {"x": [0, 10, [[4, 4]]]})
    polls = [op for op in ops if op.f == "poll" and op.proc == 30]
    for op in polls:
        op.t_inv, op.t_ret = 3100.0 + op.t_inv / 1e4, 3101.0
    assert not judge_ops([*ops, explained]).findings.strict


def test_gaps_are_waits_for_an_acknowledgement_not_quiet_periods() -> None:
    sends = [
        (0.0, 0, 0, 0.1, 0, "ok", [[0, "a"]], None, None),
        (10.0, 0, 1, 12.0, 0, "info", [[None, "b"]], None, None),
        (11.0, 0, 2, 12.5, 1, "ok", [[1, "c"]], None, None),
        (20.0, 0, 3, 21.0, 1, "fail", [[None, "d"]], None, None),
    ]
    events = no_events()
    events[SENDS].extend(sends)
    found = gaps.gaps(Tables("x", events))
    assert found == [(0.0, 0.1), (10.0, 12.5), (20.0, 21.0)]
    faults = [Fault(9.0, 9.5, "kill", True), Fault(19.0, 30.0, "stop", False)]
    assert gaps.after_faults(found, faults) == {0: 2.5, 1: 1.0}
    assert gaps.percentiles([0.1] * 98 + [0.5, 2.0]) == {
        "count": 100,
        "p50": 100.0,
        "p90": 100.0,
        "p99": 500.0,
        "p100": 2000.0,
    }
    assert [one.note for one in gaps.stuck("x", found, faults, 0.9)] == [
        "no acknowledgement from 10.000 to 12.500 although asked, a majority alive"
    ]


def test_the_report_shows_what_is_around_a_fault(tmp_path: Path) -> None:
    ops = spoiled()
    ops.append(Op("fault", "ok", "nemesis", 3.0, 3.1, {"what": "kill -9 node 2"}))
    path = write(tmp_path / "history.jsonl", ops)
    shown = report.report(judge_files([path]), [path], 1.0)
    assert shown["valid"] is False and "lost-write" in shown["strict"]["anomalies"]
    example = next(one for one in shown["examples"] if one["anomaly"] == "lost-write" and one["key"] == "k3")
    around = example["operations"]
    sent = [op["value"][0][2][0] for op in around if op["f"] == "send"]
    assert sent == [0, 1, 2, 3, 4, 5] and not any("k4" in str(op["value"]) for op in around)
    assert shown["faults"][0]["what"] == "kill -9 node 2" and shown["faults"][0]["gap_ms"]["k0"] == 500.0
    assert set(shown["keys"]["k0"]["gap_ms"]) == {"count", "p50", "p90", "p99", "p100"}
    assert shown["keys"]["k0"]["consume_counts"] == {"1": 10}
    msgspec.json.encode(shown)


def test_a_reader_that_is_behind_shows_its_lag() -> None:
    model = clean()
    lag = judge_ops(model.ops()).keys["x"]["realtime_lag_ms"]
    assert lag["p100"] > 990_000


def test_the_command_says_with_its_exit_code_what_it_found(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", clean().ops())
    bad = write(tmp_path / "bad.jsonl", spoiled())
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"f": "send", "value": [["send"]]}\n')
    codes = []
    for path in (good, bad, broken):
        command = [sys.executable, "-m", "tests.checker", str(path), "--out", str(tmp_path / "verdict.json")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
        codes.append(done.returncode)
    assert codes == [0, 1, 2] and "operation 0" in done.stderr
    assert msgspec.json.decode((tmp_path / "verdict.json").read_bytes())["valid"] is False


def test_a_line_that_is_no_operation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('{"f": "send", "value": [["send", "x", [0, 1]]]}\n{"f": ')
    with pytest.raises(HistoryError, match=r"h\.jsonl:2"):
        judge_files([path])
    with pytest.raises(HistoryError, match="unknown f 'read'"):
        judge_ops([Op("read", "ok")])


def test_the_checker_knows_nothing_of_the_product() -> None:
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[0] in ("logeion", "actors", "client")], path

"""The verdict as JSON: what was found and judged, the operations around each example, faults and pauses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.checker import history
from tests.checker.gaps import percentiles
from tests.checker.judge import Judgement, slice_around
from tests.checker.verdict import Finding

EXAMPLES = 3
SLICE_OPS = 200


def report(judgement: Judgement, paths: list[Path], seconds: float) -> dict[str, Any]:
    """The whole verdict; the files are read once more where there is something to show."""
    findings = judgement.findings
    examples = chosen(judgement)
    shown = slices(examples, paths) if examples else []
    worst = [max(gaps.values()) / 1000 for gaps in judgement.fault_gaps if gaps]
    return {
        "valid": "unknown" if judgement.valid is None else judgement.valid,
        "strict": {"valid": not findings.strict, "anomalies": dict(findings.strict)},
        "jepsen": {"valid": not findings.jepsen, "anomalies": dict(findings.jepsen)},
        "found": dict(findings.found),
        "roots": findings.roots(),
        "not_read_to_the_end": sorted(judgement.unfinished),
        "config": msgspec.to_builtins(findings.config),
        "operations": judgement.events.operations,
        "seconds": round(seconds, 3),
        "operations_per_s": round(judgement.events.operations / seconds) if seconds else None,
        "examples": [
            {**msgspec.to_builtins(finding), "traits": sorted(finding.traits), "operations": around}
            for finding, around in zip(examples, shown, strict=True)
        ],
        "faults": [
            {"t": fault.t, "until": fault.until, "what": fault.what, "majority": fault.majority, "gap_ms": gaps}
            for fault, gaps in zip(judgement.faults, judgement.fault_gaps, strict=True)
        ],
        "fault_gap_ms": percentiles(worst),
        "keys": {key: judgement.keys[key] for key in sorted(judgement.keys)},
    }


def chosen(judgement: Judgement) -> list[Finding]:
    """The first findings of each class, faults before what is allowed."""
    findings = judgement.findings
    by_class: dict[str, list[Finding]] = {}
    for finding in findings.kept:
        by_class.setdefault(finding.anomaly, []).append(finding)
    names = sorted(by_class, key=lambda name: (name not in findings.strict, name))
    return [finding for name in names for finding in by_class[name][:EXAMPLES]]


def slices(findings: list[Finding], paths: list[Path]) -> list[list[dict[str, Any]]]:
    """For each finding the operations around it, from one pass over the files."""
    shown: list[list[dict[str, Any]]] = [[] for _ in findings]
    for numbered in enumerate(history.read(paths)):
        for finding, around in zip(findings, shown, strict=True):
            if len(around) < SLICE_OPS:
                around.extend(slice_around(finding, [numbered]))
    return [sorted(around, key=lambda one: (one["t_inv"], one["op"])) for around in shown]

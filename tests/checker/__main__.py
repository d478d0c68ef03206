"""``python -m tests.checker HISTORY.jsonl…``: judges the files of one run.

Ends with 0 if the strict reading finds no fault, 1 if it does, 2 if the history cannot be read or does not reach the
end of a key (no ``final`` after its last acknowledgement).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from tests.checker.history import SHARD_BYTES, HistoryError
from tests.checker.judge import judge_files
from tests.checker.report import report
from tests.checker.verdict import Config


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.checker", description=__doc__)
    parser.add_argument("histories", nargs="+", type=Path, metavar="HISTORY.jsonl")
    parser.add_argument("--config", metavar="JSON", help='e.g. {"acks": "1"}; otherwise the config lines of the files')
    parser.add_argument("--out", type=Path, help="write the verdict here too, not only its head to standard output")
    parser.add_argument("--shard-mb", type=int, default=SHARD_BYTES >> 20, help="input held in memory at a time")
    arguments = parser.parse_args()
    start = time.perf_counter()
    try:
        config = msgspec.json.decode(arguments.config, type=Config) if arguments.config else None
        judgement = judge_files(arguments.histories, config, shard_bytes=arguments.shard_mb << 20)
        verdict = report(judgement, arguments.histories, time.perf_counter() - start)
    except (HistoryError, OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        print(f"checker: {error}", file=sys.stderr)
        return 2
    whole = msgspec.json.format(msgspec.json.encode(verdict), indent=1)
    if arguments.out:
        arguments.out.write_bytes(whole + b"\n")
        head = {name: part for name, part in verdict.items() if name not in ("examples", "faults", "keys")}
        whole = msgspec.json.format(msgspec.json.encode(head), indent=1)
    print(whole.decode())
    return {True: 0, False: 1, None: 2}[judgement.valid]


if __name__ == "__main__":
    sys.exit(main())

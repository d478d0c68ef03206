"""Checks of the tree that no linter makes: the two room links, links inside the documents, and what the wheel holds.

`python .ci/check_tree.py` prints one line a fault and exits 1 if there is any; `--wheel DIR` only builds the wheel.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-W", "ignore", "-m", "pip", "-qq", "--disable-pip-version-check"]
ROOMS = {"actors": "../actors", "client": "../client"}
IN_WHEEL = [
    "logeion/py.typed",
    "logeion/wire/apis.py",
    "logeion/log/log.py",
    "logeion/actors/messages.py",
    "logeion/actors/partition/__init__.py",
    "logeion/client/__init__.py",
    "logeion/cli/__init__.py",
    "logeion/testing/__init__.py",
]
MARKDOWN_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def tracked_files() -> list[Path]:
    """Files git knows or would know (new, not ignored) that are there: links too, never what lies behind a link."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted(set(listed.stdout.split("\0")) - {""})
    return [Path(name) for name in names if (ROOT / name).is_symlink() or (ROOT / name).exists()]


def link_faults() -> Iterator[str]:
    for room, target in ROOMS.items():
        link = ROOT / "logeion" / room
        if not link.is_symlink() or str(link.readlink()) != target:
            yield f"logeion/{room} must be a symbolic link to {target} (a checkout without links breaks every import)"


def slug(heading: str) -> str:
    """The anchor that forges give a heading: lower case, punctuation dropped, blanks to hyphens."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def document_faults(files: list[Path]) -> Iterator[str]:
    for name in files:
        if name.suffix != ".md":
            continue
        text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
        for target in MARKDOWN_LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            aim = (ROOT / name).parent / path if path else ROOT / name
            if not aim.exists():
                yield f"{name}: link to {target}: no such file"
            elif anchor and aim.suffix == ".md":
                headings = HEADING.findall(FENCE.sub("", aim.read_text(encoding="utf-8")))
                if anchor not in {slug(heading) for heading in headings}:
                    yield f"{name}: link to {target}: no such heading"


def build_wheel(files: list[Path], into: Path) -> Path:
    """Build from a copy of the tracked files, so that neither an old build/ nor a file git does not know gets in."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "tree"
        for name in files:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
        built = Path(scratch) / "wheel"
        subprocess.run(
            [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(copy)],
            check=True,
        )
        (wheel,) = built.glob("*.whl")
        into.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(wheel, into))


def wheel_faults(files: list[Path]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(files, Path(scratch))
        names = set(zipfile.ZipFile(wheel).namelist())
    for name in IN_WHEEL:
        if name not in names:
            yield f"the wheel lacks {name}"
    for name in files:
        if name.parts[0] in ROOMS and name.suffix == ".py" and f"logeion/{name}" not in names:
            yield f"the wheel lacks logeion/{name}"
    for name in sorted(names):
        if not re.match(r"logeion[/-]", name):
            yield f"the wheel would install {name} beside logeion/"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, metavar="DIR", help="only build the wheel, into DIR")
    options = parser.parse_args()
    files = tracked_files()
    if options.wheel:
        print(build_wheel(files, options.wheel))
        return 0
    faults = [*link_faults(), *document_faults(files), *wheel_faults(files)]
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"tree: links, documents and wheel are in order ({len(files)} files)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""The programs of docs/testing.md are run as they stand there."""

from __future__ import annotations

import re

import pytest

from tests.tools import ROOT

pytest_plugins = ["pytester"]


def test_the_guides_programs_pass(pytester: pytest.Pytester) -> None:
    guide = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    (settings,) = re.findall(r"^ *```ini\n(.*?)^ *```", guide, re.MULTILINE | re.DOTALL)
    assert len(programs) == 6
    pytester.makepyfile(**{f"test_{number}": program for number, program in enumerate(programs)})
    pytester.makeini("\n".join(line[2:] for line in settings.splitlines()))
    done = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", timeout=90)
    done.assert_outcomes(passed=6)

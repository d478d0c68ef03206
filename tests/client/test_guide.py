"""The examples of docs/client.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.client.brokers import some_broker

GUIDE = Path(__file__).parents[2] / "docs/client.md"


def test_every_example_of_the_guide_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 5
    with some_broker(tmp_path_factory) as (bootstrap, _):
        for example in examples:
            exec(compile(example, str(GUIDE), "exec"), {"bootstrap": bootstrap, "__name__": "guide"})

"""The examples of docs/client.md and docs/migrating.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.client.brokers import some_broker

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.not_on_tansu("groups wait for half of the default session, and ListOffsets by time finds another record")
@pytest.mark.parametrize(("page", "least"), [("client.md", 5), ("migrating.md", 1)])
def test_every_example_of_the_page_runs(tmp_path_factory: pytest.TempPathFactory, page: str, least: int) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(examples) >= least
    with some_broker(tmp_path_factory) as (bootstrap, _):
        for example in examples:
            exec(compile(example, page, "exec"), {"bootstrap": bootstrap, "__name__": "guide"})

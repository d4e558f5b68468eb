"""The documentation's code runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page", ["docs/guide.md", "docs/search.md", "docs/snapshots.md", "docs/coming-from.md"]
)
def test_a_page_runs_as_it_stands(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    blocks = [(text[: m.start()].count("\n") + 1, m[1]) for m in _BLOCK.finditer(text)]
    assert blocks
    names: dict[str, object] = {"__name__": "page"}
    for line, code in blocks:
        # Line numbers in a traceback are those of the page.
        exec(compile("\n" * line + code, page, "exec"), names)

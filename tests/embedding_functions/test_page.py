"""The code of docs/embedding-functions.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "embedding-functions.md"
_BLOCK = re.compile(r"^```python( model)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(*, with_model: bool) -> str:
    """Run the page's blocks one after the other, and return what the comments promise."""
    text = PAGE.read_text()
    names: dict[str, object] = {"__name__": "page"}
    promised = []
    for block in _BLOCK.finditer(text):
        needs_model, code = block.groups()
        if needs_model and not with_model:
            continue
        # Line numbers in a traceback are those of the page.
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + code, str(PAGE), "exec"), names)
        promised += re.findall(r"^print.*  # (.*)$", code, re.MULTILINE)
    client = names["client"]
    client.close()  # type: ignore[attr-defined]
    return "\n".join(promised)


def check_output(promised: str, printed: str) -> None:
    lines = printed.splitlines()
    for line in promised.splitlines():
        assert line in lines


def test_the_page_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    promised = run(with_model=False)

    printed = capsys.readouterr().out
    check_output(promised, printed)
    assert "has none (embedding_function=None)" in printed
    assert "'letters-of'" in printed
    assert "it cannot become 'xyz'" in printed


@pytest.mark.long
def test_the_page_runs_with_the_model(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_MODEL_DIR", str(weights))

    promised = run(with_model=True)

    check_output(promised, capsys.readouterr().out)
    assert "ferry" in promised

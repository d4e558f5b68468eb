"""Results and collections as people read them: a few lines in a terminal, a table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

MAX_ROWS: Final = 10
MAX_CELL_CHARACTERS: Final = 60


def render_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render the first rows as aligned columns."""
    if not rows:
        return "  (none)"
    header = list(rows[0])
    table = [header, *([_cell(row[key]) for key in header] for row in rows[:MAX_ROWS])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    if len(rows) > MAX_ROWS:
        lines.append(f"  … and {len(rows) - MAX_ROWS:,} more")
    return "\n".join(lines)


def render_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render the first rows as an HTML table."""
    if not rows:
        return "<p>(none)</p>"
    header = list(rows[0])
    head = "".join(f"<th>{html.escape(key)}</th>" for key in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row[key]))}</td>" for key in header) + "</tr>"
        for row in rows[:MAX_ROWS]
    )
    more = f"<p>… and {len(rows) - MAX_ROWS:,} more</p>" if len(rows) > MAX_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def render_fields(title: str, fields: Mapping[str, Any]) -> str:
    """Render one thing's properties as an HTML table."""
    body = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_cell(value))}</td></tr>"
        for name, value in fields.items()
    )
    return f"<p><b>{html.escape(title)}</b></p><table><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        shown = ", ".join(f"{number:.3g}" for number in value[:3])
        return f"[{shown}{', …' if len(value) > 3 else ''}] ({len(value)})"
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_CELL_CHARACTERS else text[: MAX_CELL_CHARACTERS - 1] + "…"

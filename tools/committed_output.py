"""Keep files that are generated and committed equal to what their generator gives.

Both generators say what a tree must hold, as text by path; this module writes it,
or says how the committed tree differs from it. Nothing is written in a check, so
that a check can run beside an editor.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Enough to see what changed; whoever needs the rest runs the generator.
DIFF_LINES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class CommittedOutput:
    """What a generator gives for one tree.

    Attributes:
        root: The repository, which paths in messages are relative to.
        files: The text of each file that must exist.
        found: The generated files that exist now; those not in `files` are obsolete.
    """

    root: Path
    files: Mapping[Path, str]
    found: frozenset[Path]

    def write(self) -> list[Path]:
        """Make the tree so, and return what was changed, relative to the root.

        A file that is right already keeps its time of change, so that nothing
        that depends on it is built again.
        """
        changed = []
        for path, text in self.files.items():
            if _read(path) != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                changed.append(path)
        for path in self._obsolete():
            path.unlink()
            changed.append(path)
        return sorted(path.relative_to(self.root) for path in changed)

    def complaints(self) -> list[str]:
        """Say for each file how the committed tree differs; empty if it does not."""
        complaints = []
        for path, text in sorted(self.files.items()):
            name = path.relative_to(self.root)
            committed = _read(path)
            if committed is None:
                complaints.append(f"{name}: missing")
            elif committed != text:
                complaints.append(f"{name}: stale\n{_difference(committed, text)}")
        complaints += [f"{path.relative_to(self.root)}: obsolete" for path in self._obsolete()]
        return complaints

    def _obsolete(self) -> list[Path]:
        return sorted(self.found - self.files.keys())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _difference(committed: str, generated: str) -> str:
    lines = list(
        difflib.unified_diff(
            committed.splitlines(),
            generated.splitlines(),
            "committed",
            "generated",
            lineterm="",
            n=1,
        )
    )
    shown = [f"    {line[:160]}" for line in lines[:DIFF_LINES_SHOWN]]
    if len(lines) > DIFF_LINES_SHOWN:
        shown.append(f"    … {len(lines) - DIFF_LINES_SHOWN} more lines")
    return "\n".join(shown)

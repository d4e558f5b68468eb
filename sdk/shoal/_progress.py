"""A progress bar, if it is asked for."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from shoal.embedding_functions._extras import import_extra


class Progress:
    """Shows how many records are done, with tqdm; shows nothing unless it is wanted.

    Args:
        wanted: Whether to show anything.
        total: Records in all; None if unknown.
        title: What is going on.
    """

    def __init__(self, wanted: bool, total: int | None, title: str) -> None:
        self._bar: Any = None
        if wanted:
            tqdm = import_extra("tqdm", "progress=True", "pip install 'shoal[progress]'")
            self._bar = tqdm.tqdm(total=total, desc=title, unit=" records", unit_scale=True)

    def expect(self, total: int) -> None:
        """Say how many there are in all, as soon as that is known."""
        if self._bar is not None and total and self._bar.total != total:
            self._bar.total = total
            self._bar.refresh()

    def advance(self, count: int) -> None:
        """Say that so many more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

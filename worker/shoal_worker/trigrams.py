"""What a document must contain to match a filter: trigrams, three bytes of UTF-8 that follow one
another.

A substring occurs in a text only where its bytes occur in the text's bytes, so that a document
which lacks one of its trigrams cannot contain it. A regular expression requires the literals that
every match contains (Cox 2012, "Regular Expression Matching with a Trigram Index"), read off here
from a part of RE2's syntax; what lies beyond that part requires nothing, and is scanned for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "AllOf",
    "AnyOf",
    "Anything",
    "Required",
    "required_by_folded",
    "required_by_regex",
    "required_by_substring",
    "trigrams_of",
]


@dataclass(frozen=True, slots=True)
class Anything:
    """Every document may match."""


@dataclass(frozen=True, slots=True)
class Trigrams:
    """All of these must occur.

    Attributes:
        numbers: Distinct, at least one.
    """

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of these are required."""

    parts: tuple[Required, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these is required."""

    parts: tuple[Required, ...]


Required: TypeAlias = Anything | Trigrams | AllOf | AnyOf

_ANYTHING: Final = Anything()
_LENGTH: Final = 3

_FOLDED_RUN: Final = re.compile(r"[^ksKS\u0080-\U0010ffff]{3,}")
_FOLDED_TRIGRAMS: Final = 4
"""Of each literal without case, trigrams that are asked for: up to eight spellings of each."""


def trigrams_of(encoded: bytes) -> npt.NDArray[np.uint32]:
    """Give the distinct trigrams of a text in UTF-8, ascending, as numbers of 24 bits."""
    if len(encoded) < _LENGTH:
        return np.empty(0, np.uint32)
    numbers = np.frombuffer(encoded, np.uint8).astype(np.uint32)
    joined = (numbers[:-2] << np.uint32(16)) | (numbers[1:-1] << np.uint32(8)) | numbers[2:]
    joined.sort()
    distinct = np.empty(len(joined), np.bool_)
    distinct[0] = True
    np.not_equal(joined[1:], joined[:-1], out=distinct[1:])
    return joined[distinct]


def required_by_substring(text: str) -> Required:
    """Give what a document that contains a text must contain."""
    numbers = trigrams_of(text.encode())
    return Trigrams(tuple(numbers.tolist())) if len(numbers) else _ANYTHING


def required_by_folded(text: str) -> Required:
    """Give what a document that contains a text, in whatever case, must contain.

    Of each trigram every spelling will do. Letters whose other cases have other bytes than their
    own (``k`` is also the sign for Kelvin, ``s`` the long one, and all beyond ASCII) stand for
    anything.
    """
    parts: list[Required] = []
    for run in _FOLDED_RUN.findall(text):
        places = range(len(run) - _LENGTH + 1)
        for place in places[:: -(-len(places) // _FOLDED_TRIGRAMS) or 1]:
            cases = ({c.lower(), c.upper()} for c in run[place : place + _LENGTH])
            spellings = sorted("".join(spelling) for spelling in itertools.product(*cases))
            parts.append(_any_of([required_by_substring(spelling) for spelling in spellings]))
    return _all_of(parts)


def required_by_regex(expression: str) -> Required:
    """Give what a document that an expression matches must contain.

    Args:
        expression: One that RE2 accepts.
    """
    parser = _Parser(expression)
    try:
        required = parser.alternatives()
    except _UnreadError:
        return _ANYTHING
    return required if parser.is_at_end else _ANYTHING


def _any_of(parts: Sequence[Required]) -> Required:
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, Anything) for part in parts):
        return _ANYTHING
    return AnyOf(tuple(parts))


def _all_of(parts: Sequence[Required]) -> Required:
    known = tuple(part for part in parts if not isinstance(part, Anything))
    if len(known) == 1:
        return known[0]
    return AllOf(known) if known else _ANYTHING


class _UnreadError(Exception):
    """The expression is of a part of the syntax that is not read here."""


# RE2's digits and letters are those of ASCII.
_COUNTED: Final = re.compile(r"\{([0-9]+)(?:,[0-9]*)?\}")
_NAMED_GROUP: Final = re.compile(r"\?P?<[A-Za-z0-9_]+>")
_FLAGS: Final = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_CONTROLS: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_CLASSES: Final = frozenset("dwsDWS")
_MAX_DEPTH: Final = 50
"""Groups within groups that are read: each takes three frames of the interpreter's stack."""

_EMPTY: Final = frozenset("bBAz")


class _Parser:
    """Reads an expression from left to right."""

    def __init__(self, expression: str) -> None:
        self._text = expression
        self._at = 0
        self._depth = 0
        self._is_folded = False  # the flag i: whatever case letters have, they match

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._text)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise _UnreadError
        self._at += 1
        return character

    def alternatives(self) -> Required:
        """Read up to the end, or to the end of a group. Flags that are set here end with it."""
        was_folded = self._is_folded
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        self._is_folded = was_folded
        return _any_of(branches)

    def _sequence(self) -> Required:
        parts: list[Required] = []
        literal = ""
        required_of = self._required_of
        while self._peek() not in ("", "|", ")"):
            if self._text.startswith("(?", self._at) and self._flags(")"):
                parts.append(required_of(literal))
                literal, required_of = "", self._required_of
                if self._peek() in set("*+?{"):
                    # RE2 repeats what stands before the flags.
                    raise _UnreadError
                continue
            # A character that stands for itself, or what a part requires that does not.
            character, required = self._atom()
            is_required, is_once = self._repetition()
            if character is not None and is_required:
                literal += character
            if character is None or not is_once:
                parts.append(required_of(literal))
                # Of a character that is repeated, the last one stands before what follows.
                literal = character if character is not None and is_required else ""
            if is_required and required is not None:
                parts.append(required)
        parts.append(required_of(literal))
        return _all_of(parts)

    @property
    def _required_of(self) -> Callable[[str], Required]:
        return required_by_folded if self._is_folded else required_by_substring

    def _flags(self, end: str) -> bool:
        """Read flags that end so, if there are any, and set what they say of the case."""
        found = _FLAGS.match(self._text, self._at + 1)
        if found is None or found[3] != end:
            return False
        self._at = found.end()
        if "i" in found[1]:
            self._is_folded = True
        if found[2] and "i" in found[2]:
            self._is_folded = False
        return True

    def _repetition(self) -> tuple[bool, bool]:
        """Read what follows an atom: whether it must occur, and whether exactly once."""
        is_required = is_once = True
        while (mark := self._peek()) and mark in "*+?{":
            counted = _COUNTED.match(self._text, self._at)
            if mark == "{" and counted is None:
                break
            is_once = False
            if mark in "*?" or (counted is not None and int(counted[1]) == 0):
                is_required = False
            self._at = counted.end() if counted is not None else self._at + 1
            # What is not greedy requires the same.
            if self._peek() == "?":
                self._at += 1
        return is_required, is_once

    def _atom(self) -> tuple[str | None, Required | None]:
        character = self._next()
        match character:
            case "(":
                return None, self._group()
            case "[":
                self._skip_class()
                return None, None
            case "." | "^" | "$":
                return None, None
            case "\\":
                return self._escape()
            case _:
                return character, None

    def _group(self) -> Required:
        was_folded = self._is_folded
        if self._peek() == "?":
            named = _NAMED_GROUP.match(self._text, self._at)
            if named is not None:
                self._at = named.end()
            else:
                self._at -= 1
                if not self._flags(":"):
                    raise _UnreadError
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadError
        required = self.alternatives()
        self._depth -= 1
        self._is_folded = was_folded
        if self._next() != ")":
            raise _UnreadError
        return required

    def _escape(self) -> tuple[str | None, Required | None]:
        character = self._next()
        if character in _CLASSES or character in _EMPTY:
            return None, None
        if character in _CONTROLS:
            return _CONTROLS[character], None
        if character.isalnum() or not character.isascii():
            raise _UnreadError
        return character, None

    def _skip_class(self) -> None:
        if self._peek() == "^":
            self._at += 1
        if self._peek() == "]":
            self._at += 1
        while (character := self._next()) != "]":
            if character == "\\":
                self._next()
            elif character == "[" and self._peek() == ":":
                end = self._text.find(":]", self._at)
                if end < 0:
                    raise _UnreadError
                self._at = end + 2

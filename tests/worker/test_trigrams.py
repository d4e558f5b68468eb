"""What a filter requires of a document is in every document that it matches."""

from __future__ import annotations

import re2
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shoal_worker.trigrams import (
    AllOf,
    AnyOf,
    Anything,
    Required,
    Trigrams,
    required_by_regex,
    required_by_substring,
    trigrams_of,
)

PIECES = st.sampled_from(
    [
        *["a", "b", "abc", "é", " ", ".", "[ab]", "[^a]", "[]a]", "[[:alpha:]]", r"\d", r"\w"],
        *[r"\s", r"\b", "^", "$", r"\.", r"\n", r"\x61", r"\pL", r"\Qab\E", "{", "{,2}"],
        *["(?i)", "(?i:a)", "(?s).", "(?P<n>ab)", "(?<n>ab)", "(?-i)", "(?is)", "(?i-s:abcabc)"],
        *["abcde", "task", "Kelvin", "a{\u0663}bcd"],
    ]
)
REGEXES = st.recursive(
    PIECES,
    lambda part: st.one_of(
        st.lists(part, min_size=1, max_size=5).map("".join),
        st.builds(lambda a, b: f"({a}|{b})", part, part),
        st.builds(
            lambda a, mark: f"(?:{a}){mark}",
            part,
            st.sampled_from(["*", "+", "?", "{2}", "{0,1}", "{1,}", "+?", ""]),
        ),
        st.builds(lambda a, mark: a + mark, part, st.sampled_from(["*", "+", "?", "{2}", "{0}"])),
    ),
    max_leaves=8,
)
WORDS = st.sampled_from(
    [
        *["abc", "ABC", "aBcdE", "abcabc", "task", "TASK", "taſ\u212a", "\u212aelvin", "kelvin"],
        *["KELVIN", "a{\u0663}bcd", "A{\u0663}BCD", "aaabcd", " ", "\n", "é", "É", "b", "."],
    ]
)
TEXTS = st.lists(
    st.text(alphabet="abcA\n é{,2}.", max_size=30) | st.lists(WORDS, max_size=5).map("".join),
    min_size=1,
    max_size=20,
)


def holds(required: Required, present: set[int]) -> bool:
    match required:
        case Anything():
            return True
        case Trigrams(numbers):
            return present.issuperset(numbers)
        case AllOf(parts):
            return all(holds(part, present) for part in parts)
        case AnyOf(parts):
            return any(holds(part, present) for part in parts)


@given(REGEXES, TEXTS)
@example("abca(?-i)*", ["abc"])
@example("a{\u0663}bcd", ["a{\u0663}bcd"])
def test_what_a_regex_requires_is_in_every_match(expression: str, texts: list[str]) -> None:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(expression, options)
    except re2.error:
        assume(False)
    required = required_by_regex(expression)
    for text in texts:
        if compiled.search(text):
            assert holds(required, set(trigrams_of(text.encode()).tolist()))


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_what_a_substring_requires_is_in_every_text_around_it(a: str, b: str, c: str) -> None:
    present = set(trigrams_of((a + b + c).encode()).tolist())
    assert holds(required_by_substring(b), present)


def test_a_regex_requires_its_literals() -> None:
    def literals(*texts: str) -> Required:
        parts = tuple(required_by_substring(text) for text in texts)
        return parts[0] if len(parts) == 1 else AllOf(parts)

    assert required_by_regex("shoal") == literals("shoal")
    assert required_by_regex("^shoal.*worker$") == literals("shoal", "worker")
    assert required_by_regex(r"version \d+\.txt") == literals("version ", ".txt")
    assert required_by_regex("abcd+efg") == literals("abcd", "defg")
    assert required_by_regex("(fish|shoal)s?") == AnyOf(
        (required_by_substring("fish"), required_by_substring("shoal"))
    )
    for unread in ("(fish)?", "(?i)ask", "(fish|.)", "(" * 400 + "fish" + ")" * 400):
        assert required_by_regex(unread) == Anything()


def test_a_regex_without_case_requires_one_spelling_of_each_trigram() -> None:
    def spellings(*texts: str) -> Required:
        return AnyOf(tuple(required_by_substring(text) for text in texts))

    assert required_by_regex("(?i)ab1") == spellings("AB1", "Ab1", "aB1", "ab1")
    # No run of three letters that have their own cases only.
    assert required_by_regex("(?i)askab") == Anything()
    assert required_by_regex("(?i)fi(?-i)shoal") == required_by_substring("shoal")
    assert required_by_regex("shoal(?i)x") == required_by_substring("shoal")
    assert required_by_regex("(?:(?i)x|1)shoal") == required_by_substring("shoal")

"""Generate the blocking client, sdk/shoal/_sync, from the asyncio one, sdk/shoal/_async.

The client is written once. Its blocking twin is the same text without `async` and
`await`, with other names here and there; so the two cannot drift apart, and neither
pays for the other (a blocking client over an event loop in a thread costs a hop
between threads on each call).

What cannot be said by other words (waiting for several calls at once, locks that a
task may hold) belongs in a module of its own that is written by hand for both:
name it in `WRITTEN_TWICE`. Everything else that is asyncio's and has no counterpart
in the tables below is an error here, not a surprise at run time.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.committed_output import CommittedOutput

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("sdk/shoal/_async")
TARGET = Path("sdk/shoal/_sync")

# Modules, relative to the package, that exist in both by hand.
WRITTEN_TWICE = frozenset({"runtime.py"})

# Tokens in a row, in code, docstrings and comments; the longest that fits wins.
# An import that this leaves unused is removed afterwards.
PHRASES = {
    "import asyncio": "import threading\nimport time",
    "import grpc.aio": "import grpc",
    "asyncio.Event": "threading.Event",
    "asyncio.Lock": "threading.Lock",
    "asyncio.sleep": "time.sleep",
    "grpc.aio": "grpc",
    "grpc.aio.AioRpcError": "grpc.RpcError",
}

# Whole identifiers. `Async` within a CamelCase one, and `async_` at its beginning,
# are dropped without being named here: AsyncClient, RecordServiceAsyncStub,
# StopAsyncIteration, AsyncIterator, async_transport.
NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "_async": "_sync",
    "aclose": "close",
    "aclosing": "closing",
    "aiter": "iter",
    "anext": "next",
    "asynccontextmanager": "contextmanager",
}

# Words of docstrings and comments, after the rules above.
PROSE = {
    "an asyncio": "a blocking",
    "An asyncio": "A blocking",
    "an asynchronous": "a blocking",
    "An asynchronous": "A blocking",
    "asyncio": "blocking",
    "asynchronous": "blocking",
    "Asynchronous": "Blocking",
    "coroutine": "function",
    "coroutines": "functions",
}

IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
# In a text, `await` is Python only before a call or within backticks: a sentence
# may tell its reader to await something.
AWAIT_IN_TEXT = re.compile(r"\bawait (?=[A-Za-z_][\w.]*[(\[])|(?<=`)await (?=\w)")
ASYNC_IN_TEXT = re.compile(r"\basync (?=(?:def|for|with)\b)")
# "an AsyncClient" becomes "a Client", but "an AsyncIterator" "an Iterator".
ARTICLE = re.compile(r"\b([Aa])n (?=`?Async[B-DF-HJ-NP-TV-Z])")
LEFT_OVER = re.compile(r"async|^aio$|^await$|^Awaitable$|^Coroutine$", re.IGNORECASE)

# What holds text: a string, and from Python 3.12 on the parts of an f-string.
TEXTS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


class NoCounterpartError(Exception):
    """Something in the asyncio client that no rule makes blocking."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters from `start` to `end` (offsets in the source)."""

    start: int
    end: int
    text: str


def main() -> int:
    parser = argparse.ArgumentParser(description=f"Generate {TARGET} from {SOURCE}.")
    parser.add_argument("--check", action="store_true", help="only fail if a module is stale")
    check = parser.parse_args().check

    try:
        output = CommittedOutput(ROOT, generate(), _committed())
    except NoCounterpartError as error:
        print(error, file=sys.stderr)
        return 2
    if not check:
        for path in output.write():
            print(path)
        return 0
    complaints = output.complaints()
    if complaints:
        print(f"{TARGET} is not that of {SOURCE}; run `make sync`:", file=sys.stderr)
        print("\n".join(complaints), file=sys.stderr)
    return 1 if complaints else 0


def generate() -> dict[Path, str]:
    """Return the text of each module that the blocking client must consist of."""
    files = {}
    for path in sorted((ROOT / SOURCE).rglob("*.py")):
        module = path.relative_to(ROOT / SOURCE)
        if module.as_posix() in WRITTEN_TWICE:
            continue
        name = SOURCE / module
        blocking = to_blocking(path.read_text(encoding="utf-8"), str(name))
        header = f"# Generated from {name} by tools/generate_sync.py; do not edit.\n"
        files[ROOT / TARGET / module] = _tidy(header + blocking, TARGET / module)
    return files


def to_blocking(source: str, name: str) -> str:
    """Turn the asyncio code of a module into blocking code.

    Args:
        source: The module.
        name: What to call it in an error.

    Raises:
        NoCounterpartError: Something of asyncio is left that no rule covers.
    """
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    blocking = source
    # From the end, so that the offsets of what is still to be done stay right.
    for edit in sorted(_edits(tokens, lines, name), key=lambda edit: edit.start, reverse=True):
        blocking = blocking[: edit.start] + edit.text + blocking[edit.end :]
    _refuse_left_overs(blocking, name)
    return blocking


def _edits(tokens: list[tokenize.TokenInfo], lines: list[int], name: str) -> Iterator[Edit]:
    def offset(position: tuple[int, int]) -> int:
        return lines[position[0] - 1] + position[1]

    index = 0
    while index < len(tokens):
        token = tokens[index]
        start, end = offset(token.start), offset(token.end)
        index += 1
        if token.type in TEXTS:
            _refuse_await_in_f_string(token, name)
            yield Edit(start, end, _text(token.string))
        elif token.type != tokenize.NAME:
            continue
        elif token.string in ("async", "await"):
            yield Edit(start, offset(tokens[index].start), "")
        elif token.string == "Awaitable" and tokens[index].string == "[":
            # Awaitable[T] is T.
            yield Edit(start, offset(tokens[index].end), "")
            closing = tokens[_closing_bracket(tokens, index)]
            yield Edit(offset(closing.start), offset(closing.end), "")
            index += 1
        elif (phrase := _phrase_at(tokens, index - 1)) is not None:
            index += _length(phrase) - 1
            yield Edit(start, offset(tokens[index - 1].end), PHRASES[phrase])
        else:
            yield Edit(start, end, _name(token.string))


def _phrase_at(tokens: list[tokenize.TokenInfo], index: int) -> str | None:
    """Find the longest phrase whose tokens begin at `index`."""
    for phrase in sorted(PHRASES, key=_length, reverse=True):
        window = tokens[index : index + _length(phrase)]
        if [token.string for token in window] == _words(phrase):
            return phrase
    return None


def _words(phrase: str) -> list[str]:
    return re.findall(r"\w+|\.", phrase)


def _length(phrase: str) -> int:
    return len(_words(phrase))


def _closing_bracket(tokens: list[tokenize.TokenInfo], opening: int) -> int:
    depth = 0
    for index in range(opening, len(tokens)):
        depth += (tokens[index].string == "[") - (tokens[index].string == "]")
        if depth == 0:
            return index
    raise AssertionError("the tokenizer lets no bracket stay open")


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    return re.sub(r"^(_*)async_(?=\w)", r"\1", re.sub(r"Async(?=[A-Z])", "", name))


def _text(text: str) -> str:
    text = ARTICLE.sub(r"\1 ", ASYNC_IN_TEXT.sub("", AWAIT_IN_TEXT.sub("", text)))
    for phrase in sorted(PHRASES, key=_length, reverse=True):
        # What would become several lines is an import, which a text does not hold.
        if "\n" not in PHRASES[phrase]:
            text = re.sub(rf"\b{re.escape(phrase)}\b", PHRASES[phrase], text)
    text = IDENTIFIER.sub(lambda match: _name(match.group()), text)
    for words in sorted(PROSE, key=len, reverse=True):
        text = re.sub(rf"\b{words}\b", PROSE[words], text)
    return text


def _refuse_await_in_f_string(token: tokenize.TokenInfo, name: str) -> None:
    # Before Python 3.12 an f-string is one token, so that this could not be found
    # to be code there; what is generated must not depend on the version.
    if re.match(r"(?i)\w*f\w*['\"]", token.string) and re.search(r"\{[^}]*\bawait\b", token.string):
        raise NoCounterpartError(
            f"{name}:{token.start[0]}: an f-string awaits; give the value a name before"
        )


def _refuse_left_overs(blocking: str, name: str) -> None:
    imports = {
        line
        for node in ast.walk(ast.parse(blocking, name))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for token in tokenize.generate_tokens(io.StringIO(blocking).readline):
        # `Awaitable` may still be imported, where its uses are gone.
        if token.type == tokenize.NAME and LEFT_OVER.search(token.string):
            if token.string in ("Awaitable", "Coroutine") and token.start[0] in imports:
                continue
            raise NoCounterpartError(
                f"{name}: `{token.string}` has no blocking counterpart, in: {token.line.strip()}\n"
                "add it to a table of tools/generate_sync.py, or move it to a module of "
                "WRITTEN_TWICE"
            )


def _tidy(text: str, name: Path) -> str:
    """Remove the imports that became unused, sort the rest, and format."""
    for arguments in (
        ["check", "--fix-only", "--exit-zero", "--quiet", "--select", "F401,I001,UP034"],
        ["format", "--quiet"],
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(name), "-"],
            cwd=ROOT,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            raise NoCounterpartError(f"{name}: ruff cannot read what was generated: {ran.stderr}")
        text = ran.stdout
    return text


def _committed() -> frozenset[Path]:
    return frozenset(
        path
        for path in (ROOT / TARGET).rglob("*.py")
        if path.relative_to(ROOT / TARGET).as_posix() not in WRITTEN_TWICE
    )


if __name__ == "__main__":
    sys.exit(main())

"""The blocking client is the asyncio one in other words: the rules, one by one."""

import pytest

from tools.generate_sync import NoCounterpartError, to_blocking


@pytest.mark.parametrize(
    ("asyncio_code", "blocking_code"),
    [
        ("async def get(): return await f()", "def get(): return f()"),
        ("async with a, b: pass", "with a, b: pass"),
        ("[x async for x in y]", "[x for x in y]"),
        ("(\n    await first\n)", "(\n    first\n)"),
        ("def __aenter__(self): self.aclose()", "def __enter__(self): self.close()"),
        ("AsyncClient(async_transport)", "Client(transport)"),
        ("stub: RecordServiceAsyncStub", "stub: RecordServiceStub"),
        ("raise StopAsyncIteration", "raise StopIteration"),
        ("from shoal._async.client import AsyncClient", "from shoal._sync.client import Client"),
        ("asyncio.sleep(1)", "time.sleep(1)"),
        ("import asyncio", "import threading\nimport time"),
        ("grpc.aio.insecure_channel(a)", "grpc.insecure_channel(a)"),
        ("except_(grpc.aio.AioRpcError)", "except_(grpc.RpcError)"),
        ("f: Callable[[], Awaitable[list[int]]]", "f: Callable[[], list[int]]"),
        ("from collections.abc import Awaitable", "from collections.abc import Awaitable"),
        ("row = matrix[0]  # no word of it", "row = matrix[0]  # no word of it"),
    ],
)
def test_code_loses_its_asyncio(asyncio_code: str, blocking_code: str) -> None:
    assert to_blocking(asyncio_code + "\n", "module.py") == blocking_code + "\n"


@pytest.mark.parametrize(
    ("text", "blocking_text"),
    [
        ("Call `await client.close()`, or aclose.", "Call `client.close()`, or close."),
        (">>> async with AsyncClient() as client:", ">>> with Client() as client:"),
        ("...     await client.get(ids)", "...     client.get(ids)"),
        ("An AsyncClient in an asyncio program", "A Client in a blocking program"),
        ("an AsyncIterator", "an Iterator"),
        ("Await the answer; await it twice", "Await the answer; await it twice"),
    ],
)
@pytest.mark.parametrize("form", ['"""{}"""\n', "# {}\n", "say('{}')\n"])
def test_texts_follow_the_code(form: str, text: str, blocking_text: str) -> None:
    assert to_blocking(form.format(text), "module.py") == form.format(blocking_text)


@pytest.mark.parametrize(
    "code",
    [
        "asyncio.gather(a, b)",
        "from grpc import aio",
        "f: Coroutine[None, None, int]",
        "is_async = 1",
    ],
)
def test_what_has_no_counterpart_is_an_error_that_names_it(code: str) -> None:
    with pytest.raises(NoCounterpartError, match=r"^client\.py: `\w+` has no blocking counterpart"):
        to_blocking(code + "\n", "client.py")


def test_an_f_string_that_awaits_is_an_error() -> None:
    with pytest.raises(NoCounterpartError, match=r"client\.py:1: an f-string awaits"):
        to_blocking("name = f'{await get()}'\n", "client.py")

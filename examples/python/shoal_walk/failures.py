"""What an error says: switch on the reason, never on the message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def error_info(error: grpc.Call) -> error_details_pb2.ErrorInfo | None:
    """Give the google.rpc.ErrorInfo of a failed call, if it comes from Shoal."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == "shoal":
            return info
    return None


@contextmanager
def refused(*facts: str) -> Iterator[None]:
    """Print the reason for which the call in this block is refused, and some of its facts."""
    try:
        yield
    except grpc.RpcError as error:
        call: Any = error  # what a stub raises is an RpcError and a Call in one
        info = error_info(call)
        if info is None:
            raise
        stated = "".join(f", {fact} {info.metadata[fact]}" for fact in facts)
        print(f"refused: {info.reason} (code {call.code().value[0]}){stated}")
        return
    raise AssertionError("the call should have been refused")

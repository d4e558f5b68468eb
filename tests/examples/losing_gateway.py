"""A gateway that loses every first answer, to see whether a client asks again.

It stands before a real one and passes calls on. Of every two calls of a method that
protos/service_config.json repeats, the first is carried out, and answered with UNAVAILABLE: what a
client meets when a gateway dies after its work and before its answer. A client that did not repeat
would fail, and one that repeated writes without write IDs would see other counts.
"""

from __future__ import annotations

import collections
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Final

import grpc

SERVICE_CONFIG: Final = Path(__file__).parents[2] / "protos" / "service_config.json"
_TIMEOUT_S: Final = 60.0


def repeated_methods() -> set[tuple[str, str | None]]:
    """Give the services and methods that are repeated; None stands for all of a service."""
    config = json.loads(SERVICE_CONFIG.read_text(encoding="utf-8"))
    return {
        (name["service"], name.get("method"))
        for method in config["methodConfig"]
        if "retryPolicy" in method
        for name in method["name"]
    }


class LosingGateway(grpc.GenericRpcHandler):
    """Passes calls on, and loses every first answer.

    Args:
        channel: To the real gateway.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._repeated = repeated_methods()
        self._lock = threading.Lock()
        # By method: how many calls came. Guarded by `_lock`.
        self.call_counts: collections.Counter[str] = collections.Counter()
        self.lost_count = 0

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any]:
        path: str = handler_call_details.method
        forward: Any = self._channel.unary_unary(path)
        return grpc.unary_unary_rpc_method_handler(self._pass_on(path, forward))

    def _pass_on(self, path: str, forward: Any) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                answer: bytes = forward(request, timeout=_TIMEOUT_S)
            except grpc.RpcError as error:
                failed: Any = error
                context.set_trailing_metadata(tuple(failed.trailing_metadata()))
                context.abort(failed.code(), failed.details())
            if self._is_lost(path):
                context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
            return answer

        return handle

    def _is_lost(self, path: str) -> bool:
        _, service, method = path.split("/")
        with self._lock:
            self.call_counts[path] += 1
            lost = self.call_counts[path] % 2 == 1 and bool(
                {(service, None), (service, method)} & self._repeated
            )
            self.lost_count += lost
            return lost


@contextlib.contextmanager
def losing_gateway(address: str) -> Iterator[tuple[str, LosingGateway]]:
    """Serve one before the gateway at `address`; gives its own address."""
    with grpc.insecure_channel(address) as channel:
        handler = LosingGateway(channel)
        server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", handler
        finally:
            server.stop(None).wait()

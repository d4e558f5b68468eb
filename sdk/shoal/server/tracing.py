"""Traces: a span for each call, on both of its ends, joined over processes by W3C `traceparent`.

Off unless an endpoint is configured: until then a call pays one comparison. OpenTelemetry comes
with the extra ``shoal[tracing]``; its contributed gRPC interceptors are not used, because the
asyncio one breaks streams that are not async generators, health watching first of all, and calls
within a process pass no interceptor. So spans begin and end where calls are counted, named and
labelled as OpenTelemetry's semantic conventions for RPC have it. Streams and health have none: they
last.

A batch of queries of several callers works in the trace of its first one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from shoal.errors import InvalidArgumentError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

__all__ = ["Tracing", "active", "adopt", "begin", "end"]

_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server's span an error; the others are the caller's, as the conventions say."""

_EXPORT_TIMEOUT_S: Final = 5.0

_current: Final[ContextVar[Any]] = ContextVar("shoal_span", default=None)

_active: Tracing | None = None


def active() -> Tracing | None:
    """Give this process's tracing; None while it is off."""
    return _active


@dataclass(frozen=True, slots=True)
class Begun:
    """A span that has begun, and what it took the place of."""

    span: Span
    token: Token[Any] | None


class Tracing:
    """Makes spans.

    Args:
        role: Names the service, ``shoal-<role>``.
        exporter: Where spans go.
        ratio: Of the traces that begin here, how many are kept; of those that begin elsewhere, what
            was decided there holds.
    """

    def __init__(self, role: str, exporter: SpanExporter, ratio: float = 1.0) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        version = metadata.version("shoal")
        self._provider: TracerProvider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create({"service.name": f"shoal-{role}", "service.version": version}),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("shoal", version)
        self._propagator = TraceContextTextMapPropagator()
        self._in_context: Callable[[Span], Any] = set_span_in_context
        self._server, self._client = SpanKind.SERVER, SpanKind.CLIENT
        self._error = StatusCode.ERROR

    def of_call(self, method: str, headers: Mapping[str, str], request_id: str) -> Begun:
        """Begin the span of a call that is answered here.

        Args:
            method: Its full name, ``package.Service/Method``.
            headers: The caller's metadata.
            request_id: The call's.
        """
        parent: Any = None
        if "traceparent" in headers:
            parent = self._propagator.extract(headers)
        elif _current.get() is not None:  # a call within the process
            parent = self._in_context(_current.get())
        span = self._tracer.start_span(
            method,
            context=parent,
            kind=self._server,
            attributes={**_attributes(method), "shoal.request_id": request_id},
        )
        return Begun(span, _current.set(span))

    def of_request(self, method: str, address: str) -> tuple[Begun, Sequence[tuple[str, str]]]:
        """Begin the span of a call that is made here.

        Returns:
            The span, and the metadata by which the other side joins it.
        """
        current = _current.get()
        span = self._tracer.start_span(
            method,
            context=None if current is None else self._in_context(current),
            kind=self._client,
            attributes={**_attributes(method), "server.address": address},
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._in_context(span))
        return Begun(span, None), tuple(carrier.items())

    def finish(self, begun: Begun, code: str, reason: str | None) -> None:
        """End a span with its call's code, and why if that is an error."""
        span = begun.span
        span.set_attribute("rpc.response.status_code", code)
        if reason is not None:
            span.set_attribute("error.type", reason)
            if begun.token is None or code in _FAULTS:
                span.set_status(self._error)
        span.end()
        if begun.token is not None:
            _current.reset(begun.token)

    def flush(self) -> None:
        """Send what is there, for a bounded while."""
        self._provider.force_flush(int(_EXPORT_TIMEOUT_S * 1000))

    def close(self) -> None:
        """Send what is left, for a bounded while."""
        self.flush()
        self._provider.shutdown()


def _attributes(method: str) -> dict[str, str]:
    return {"rpc.system.name": "grpc", "rpc.method": method}


def adopt(span: object) -> None:
    """Let this task work in the trace of a span, or in none."""
    if _active is not None:
        _current.set(span)


def current() -> object:
    """Give the span in whose trace this task works."""
    return _current.get()


def begin(role: str, endpoint: str, ratio: float) -> None:
    """Switch tracing on for this process.

    Args:
        role: Of the process.
        endpoint: Of a receiver of OTLP over gRPC; ``http://`` or no scheme for plaintext,
            ``https://`` for TLS. OpenTelemetry's variables (``OTEL_EXPORTER_OTLP_HEADERS``, …) hold
            besides.
        ratio: See `Tracing`.

    Raises:
        InvalidArgumentError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise InvalidArgumentError(
            f"setting tracing_endpoint is {endpoint!r}, and OpenTelemetry is not installed "
            f"({error}): pip install 'shoal[tracing]'"
        ) from None
    exporter = OTLPSpanExporter(
        endpoint=endpoint,
        insecure=not endpoint.startswith("https://"),
        timeout=_EXPORT_TIMEOUT_S,
    )
    switch(Tracing(role, exporter, ratio))


def switch(tracing: Tracing | None) -> None:
    """Put another tracing in the place of this process's; for tests, and for `begin`."""
    global _active
    _active = tracing


def end() -> None:
    """Switch tracing off, and send what is left."""
    tracing = _active
    if tracing is not None:
        switch(None)
        tracing.close()

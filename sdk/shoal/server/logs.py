"""Logs: events with a name and fields, as lines for people or as JSON.

An event is a past-tense name and its facts (``worker_registered worker_id=…``), logged once, where
it is handled; INFO says that a state changed, never that a request came. Loggers are structlog's:
``structlog.get_logger("shoal.worker")``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import structlog

__all__ = ["configure", "configure_embedded"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_SHARED: Final[list[Any]] = [
    structlog.processors.add_log_level,
    structlog.processors.StackInfoRenderer(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

_GRPC: Final = "grpc._cython.cygrpc"

_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(
    *, role: str, level: str = "info", form: Literal["console", "json"] = "console"
) -> None:
    """Let this process log to stderr. For processes of Shoal's own.

    Args:
        role: Named in every event.
        level: Least severe level: debug, info, warning or error.
        form: Lines for people, or one JSON object a line.
    """
    # Tracebacks without local variables: these hold users' data, and keys.
    render: list[Any] = (
        [_TRACEBACKS, structlog.processors.JSONRenderer()]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )

    def named(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        event["role"] = role
        return event

    structlog.configure(
        processors=[*_SHARED, named, *render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # What libraries say (grpc, asyncio, warnings) goes the same way, and looks the same.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name, named],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=_LEVELS[level], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger(_GRPC).addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leave out what any stranger could fill the log with, each time with a traceback: metadata
    that is no text (gRPC gives it to us as bytes, and nobody here reads those), and answers to
    somebody who has gone.
    """
    return not str(record.msg).startswith(("Invalid encoding on", "ExecuteBatchError raised"))


def configure_embedded() -> None:
    """Let Shoal's events go to the program that embeds it, by the standard library's logging.

    A program that has set up structlog itself is left alone.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.format_exc_info,
            # The event's name first, then its facts: the host's handlers show one message.
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )

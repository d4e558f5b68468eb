"""Logs: events with a name and fields, as lines for people or as JSON.

An event is a past-tense name and its facts (``worker_registered worker_id=…``), logged once, where
it is handled; INFO says that a state changed, never that a request came.

Structlog renders them. Importing it takes 50 ms where rich is installed, which it looks for: a
seventh of what an embedded store takes to open. So it comes with the first event that somebody
reads; in a program that embeds Shoal there is hardly ever one.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, Final, Literal

__all__ = ["Logger", "configure", "get_logger"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_GRPC: Final = "grpc._cython.cygrpc"


class Logger:
    """Tells events of one subject.

    A process of Shoal's own is set up by `configure`. A program that embeds Shoal gets them by the
    standard library's logging, unless it has set up structlog itself.

    Args:
        name: For example ``shoal.worker``.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **facts: Any) -> None:
        """Tell what helps to find a mistake."""
        self._tell("debug", logging.DEBUG, event, facts)

    def info(self, event: str, **facts: Any) -> None:
        """Tell that a state has changed."""
        self._tell("info", logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Tell what somebody should know of, though it was treated."""
        self._tell("warning", logging.WARNING, event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Tell what could not be treated."""
        self._tell("error", logging.ERROR, event, facts)

    def critical(self, event: str, **facts: Any) -> None:
        """Tell what ends the process."""
        self._tell("critical", logging.CRITICAL, event, facts)

    def exception(self, event: str, **facts: Any) -> None:
        """Tell the same of the exception that is being handled, with its traceback."""
        self._tell("exception", logging.ERROR, event, facts)

    def _tell(self, method: str, level: int, event: str, facts: dict[str, Any]) -> None:
        if "structlog" not in sys.modules and not logging.getLogger(self._name).isEnabledFor(level):
            return
        import structlog

        if not structlog.is_configured():
            _hand_to_the_program()
        getattr(structlog.get_logger(self._name), method)(event, **facts)


def get_logger(name: str) -> Logger:
    """Give what tells events of this subject."""
    return Logger(name)


def configure(
    *, role: str, level: str = "info", form: Literal["console", "json"] = "console"
) -> None:
    """Let this process log to stderr. For processes of Shoal's own.

    Args:
        role: Named in every event.
        level: Least severe level: debug, info, warning or error.
        form: Lines for people, or one JSON object a line.
    """
    with _without_rich():
        import structlog

    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without local variables: these hold users' data, and keys.
    render: list[Any] = (
        [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
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
        processors=[*shared, named, *render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # What libraries say (grpc, asyncio, warnings) goes the same way, and looks the same.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, named],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=_LEVELS[level], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger(_GRPC).addFilter(_is_worth_a_line)


@contextlib.contextmanager
def _without_rich() -> Iterator[None]:
    """Hide rich, which structlog imports where it finds it: 40 ms, for what nobody uses here."""
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # as the import system has it
    try:
        yield
    finally:
        del sys.modules["rich"]


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Leave out what any stranger could fill the log with, each time with a traceback: metadata
    that is no text (gRPC gives it to us as bytes, and nobody here reads those), and answers to
    somebody who has gone.
    """
    return not str(record.msg).startswith(("Invalid encoding on", "ExecuteBatchError raised"))


def _hand_to_the_program() -> None:
    """Let events go to the standard library's logging."""
    import structlog

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

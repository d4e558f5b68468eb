"""Post JSON to a service that embeds, and turn its refusals into Shoal's errors.

With the standard library alone: it is one POST at a time, and one more dependency would be
everybody's. A request is repeated where that can help, as often and as long as the bounds here say.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final
from urllib.parse import urlsplit

from shoal import errors

__all__ = ["JsonService", "check_url", "refusal"]

ATTEMPTS: Final = 5

_FIRST_BACKOFF_S: Final = 0.5
"""Doubled with each attempt: without being asked to wait, a call sleeps at most 7.5 s in all."""

MAX_WAIT_S: Final = 30.0
"""A service that asks for a longer pause gets none: the caller is told, and decides."""

_MAX_ANSWER_BYTES: Final = 512 << 20
"""2,048 vectors of 16,384 numbers, as text."""

_MAX_SHOWN: Final = 500

_USER_AGENT: Final = f"shoal/{metadata.version('shoal')}"
"""Some services refuse what calls itself Python-urllib."""

_WORTH_REPEATING: Final = frozenset({408, 429, 500, 502, 503, 504})


def check_url(argument: str, url: str) -> str:
    """Check the base URL of a service, and return it without a slash at its end.

    Raises:
        InvalidArgumentError: It is not one of HTTP, or holds a password, which would be stored.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.InvalidArgumentError(f"{argument} must be an HTTP URL, got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        # What it holds stays out of the message.
        raise errors.InvalidArgumentError(
            f"{argument} for {parts.hostname} must be a URL without a user, password, query or "
            f"fragment: it is stored in the open"
        )
    return url.rstrip("/")


class JsonService:
    """One URL that is posted to.

    Args:
        url: Of the service.
        timeout_s: For a connection, and for each wait for more of an answer.
        key_hint: Where its key comes from, for the message of a refusal.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float,
        key_hint: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._key_hint = key_hint
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """Post a JSON object, and return the answer's JSON.

        Raises:
            ShoalError: It cannot be reached, refuses, or does not answer with JSON.
        """
        encoded = json.dumps(body).encode()
        for attempt in range(ATTEMPTS):
            try:
                return self._post_once(encoded, headers)
            except (errors.OverloadedError, errors.UnavailableError) as error:
                wait_s = error.retry_after_s
                if wait_s is None:
                    wait_s = _FIRST_BACKOFF_S * 2**attempt * random.uniform(0.5, 1.0)
                if attempt == ATTEMPTS - 1 or wait_s > MAX_WAIT_S:
                    raise
            self._sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _post_once(self, body: bytes, headers: Mapping[str, str]) -> Any:
        common = {"Content-Type": "application/json", "User-Agent": _USER_AGENT}
        request = urllib.request.Request(self._url, body, {**common, **headers})
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                answer = response.read(_MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(_MAX_SHOWN * 4).decode(errors="replace")
            retry_after_s = _retry_after_s(error.headers.get("Retry-After"))
            who = f"the embedding service at {self._url}"
            raise refusal(who, error.code, text, self._key_hint, retry_after_s) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if len(answer) > _MAX_ANSWER_BYTES:
            raise errors.InvalidArgumentError(
                f"the embedding service at {self._url} answers with more than "
                f"{_MAX_ANSWER_BYTES} bytes; use a smaller batch_size"
            )
        try:
            return json.loads(answer)
        except ValueError as error:
            raise errors.InternalError(
                f"the embedding service at {self._url} does not answer with JSON: {error}"
            ) from error

    def _unreachable(self, error: Exception) -> errors.ShoalError:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        facts = {"address": self._url}
        if isinstance(cause, TimeoutError):
            # Not repeated: who waited so long once should not wait five times as long.
            return errors.DeadlineExceededError(
                f"the embedding service at {self._url} did not answer within {self._timeout_s} s",
                metadata=facts,
            )
        return errors.UnavailableError(
            f"the embedding service at {self._url} cannot be reached: {cause}", metadata=facts
        )


def refusal(
    who: str, status: int, text: str, key_hint: str = "", retry_after_s: float | None = None
) -> errors.ShoalError:
    """Make the error for an HTTP status that is not 200.

    Args:
        who: What refused.
        status: The status.
        text: The answer, in which OpenAI's services say more.
        key_hint: Where the key comes from.
        retry_after_s: How long the service asks to wait.
    """
    said, code = _explanation(text)
    message = f"{who} refused with {status}: {said}"
    facts = {"http_status": str(status)}
    if status in (401, 403):
        kind = errors.UnauthenticatedError if status == 401 else errors.PermissionDeniedError
        return kind(f"{message} ({key_hint})" if key_hint else message, metadata=facts)
    if status == 429 and code == "insufficient_quota":
        return errors.QuotaExceededError(message, metadata=facts)
    if status == 429:
        return errors.OverloadedError(message, metadata=facts, retry_after_s=retry_after_s)
    if status in _WORTH_REPEATING:
        return errors.UnavailableError(message, metadata=facts, retry_after_s=retry_after_s)
    if status >= 500:
        return errors.InternalError(message, metadata=facts)
    return errors.InvalidArgumentError(message, metadata=facts)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect a refusal: urllib would repeat it as a GET, with the key, to any host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none."""


def _explanation(text: str) -> tuple[str, str | None]:
    """Return what an answer says, and the code in it; the whole text if it is not OpenAI's."""
    try:
        error = json.loads(text)["error"]
        said, code = (
            (error["message"], error.get("code")) if isinstance(error, dict) else (error, None)
        )
    except (ValueError, KeyError, TypeError):
        said, code = text.strip(), None
    return str(said)[:_MAX_SHOWN] or "(no text)", code if isinstance(code, str) else None


def _retry_after_s(header: str | None) -> float | None:
    """Read ``Retry-After``: seconds, or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(
            0.0, (email.utils.parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError):  # No date either, or one without a zone.
        return None

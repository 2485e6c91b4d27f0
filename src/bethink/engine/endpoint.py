"""The wire to an OpenAI-compatible endpoint: requests, retries, and errors a user can act on.

Retried, with exponential back-off and jitter, or after what `Retry-After` says: 408, 409, 425, 429, 5xx, time-outs and broken
connections. Not retried: what will not mend itself (401, 403, 404, other 4xx). Knows nothing of questions or thinking.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from bethink.core.errors import ConfigError, EndpointError

_RETRIED = {408, 409, 425, 429}
_LONGEST_WAIT = 120.0
_SHOWN_CHARS = 300

Json = dict[str, Any]
T = TypeVar("T")


class Endpoint:
    """One endpoint. Safe to use from several threads.

    url: with or without /v1 or /chat/completions at its end; api_key_env: the environment variable that holds the key (none is sent when
    it is unset); timeout: seconds without a byte before a request counts as failed; retries: further tries after the first;
    back_off: seconds before the second try, doubled for each further one.
    """

    def __init__(
        self, url: str, *, api_key_env: str, timeout: float, retries: int, back_off: float, connections: int
    ) -> None:
        self.url = _base(url)
        self._api_key_env = api_key_env
        self._retries = retries
        self._back_off = back_off
        self._reached = False
        key = os.environ.get(api_key_env, "").strip()
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 20.0)),
            limits=httpx.Limits(max_connections=connections),
        )

    def get(self, path: str) -> Json:
        """GET; raises EndpointError when it cannot be had."""
        return self._tried(lambda: _document(self._checked(self._client.get(f"{self.url}/{path}"))))

    def post(self, path: str, body: Json, given_up: threading.Event) -> Json:
        """POST a JSON object and get one back; raises EndpointError when it cannot be had. Not tried again once `given_up` is set."""
        return self._tried(
            lambda: _document(self._checked(self._client.post(f"{self.url}/{path}", json=body))), given_up
        )

    def stream(self, path: str, body: Json, given_up: threading.Event) -> Iterator[Json]:
        """POST and yield the server-sent events of the answer; retried only as long as none has come."""
        opened = self._tried(lambda: self._open_stream(path, body), given_up)
        try:
            for line in opened.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise EndpointError(
                        f"the endpoint broke off: {_message_of(event) or event}", where=self.url
                    )
                yield event
        except (httpx.TransportError, json.JSONDecodeError) as error:
            raise EndpointError(f"the stream broke off: {error}", where=self.url, fix="try again") from error
        finally:
            opened.close()

    def _open_stream(self, path: str, body: Json) -> httpx.Response:
        request = self._client.build_request("POST", f"{self.url}/{path}", json=body)
        response = self._client.send(request, stream=True)
        if response.status_code >= 400:
            response.read()
        return self._checked(response)

    def _checked(self, response: httpx.Response) -> httpx.Response:
        """The response if it is one; raises _RetryError or EndpointError otherwise."""
        self._reached = True
        status = response.status_code
        if status < 400:
            return response
        if status in _RETRIED or status >= 500:
            raise _RetryError(f"HTTP {status}: {_shown(response)}", _retry_after(response))
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> EndpointError:
        status = response.status_code
        fix = "check the model's name and the request's limits"
        if status in (401, 403):
            is_set = bool(os.environ.get(self._api_key_env, "").strip())
            fix = (
                f"the key in the environment variable {self._api_key_env} is not accepted"
                if is_set
                else f"put the key into the environment variable {self._api_key_env}"
            )
        elif status == 404:
            fix = "check the URL (it usually ends in /v1) and the model's name"
        return EndpointError(
            f"the endpoint answered HTTP {status}: {_shown(response)}", where=str(response.url), fix=fix
        )

    def _tried(self, attempt: Callable[[], T], given_up: threading.Event | None = None) -> T:
        """The result of `attempt`, tried as often as its failures and `retries` allow."""
        given_up = given_up or threading.Event()
        retries = self._retries
        for number in itertools.count():
            wait = None
            try:
                return attempt()
            except _RetryError as error:
                problem, wait = str(error), error.wait
                retries = min(retries, error.retries)
            except httpx.TimeoutException as error:
                problem = f"no answer in time ({type(error).__name__})"
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
                if not self._reached:
                    raise EndpointError(
                        f"the endpoint cannot be reached: {problem}",
                        where=self.url,
                        fix="check the URL and that the server is running",
                    ) from error
            if number >= retries or given_up.is_set():
                break
            jittered = self._back_off * 2**number * random.uniform(0.75, 1.25)
            given_up.wait(min(jittered if wait is None else wait, _LONGEST_WAIT))
        raise EndpointError(
            f"the endpoint failed {number + 1} times, last with: {problem}",
            where=self.url,
            fix="try again later, or with fewer requests at a time",
        )


class _RetryError(Exception):
    """A failure that may mend itself. wait: seconds the server asked for, or None; retries: how many more tries it is worth."""

    def __init__(self, problem: str, wait: float | None = None, retries: int = 1000) -> None:
        super().__init__(problem)
        self.wait = wait
        self.retries = retries


def _base(url: str) -> str:
    parsed = httpx.URL(url.strip())
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"not a URL: {url!r}", fix="pass one like http://localhost:8000/v1")
    base = str(parsed).rstrip("/").removesuffix("/chat/completions")
    return base if httpx.URL(base).path.strip("/") else base.rstrip("/") + "/v1"


def _document(response: httpx.Response) -> Json:
    try:
        document = response.json()
    except ValueError:
        raise _RetryError(f"not JSON: {_shown(response)}", retries=1) from None
    if not isinstance(document, dict):
        raise _RetryError(f"not a JSON object: {_shown(response)}", retries=1)
    return document


def _shown(response: httpx.Response) -> str:
    try:
        message = _message_of(response.json())
    except ValueError:
        message = None
    text = message or response.text.strip() or response.reason_phrase
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _message_of(document: Any) -> str | None:
    """The human's part of an error document: {"error": {"message": …}} or one of its simpler cousins."""
    error = document.get("error", document) if isinstance(document, dict) else None
    message = error if isinstance(error, str) else error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None


def _retry_after(response: httpx.Response) -> float | None:
    """What the Retry-After header says, in seconds from now: it holds seconds or a date."""
    value = response.headers.get("retry-after", "").strip()
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return max((when - datetime.now(when.tzinfo or UTC)).total_seconds(), 0.0)

"""What a key may use in a minute and a day, and the charge of each request. Pure: time comes in.

A minute's limits are a sliding window in this process; a day's are counted in the store (see
`ledger`), so that they hold over restarts and several gateways.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from starlette.types import Message, Send

from fastchat.errors import ForbiddenError, QuotaError, RateLimitError

if TYPE_CHECKING:
    from fastchat.store.keys import ApiKey

WINDOW_S = 60
DAY_S = 86400
BYTES_PER_TOKEN = 4
"""Of a prompt, where nobody has counted yet: English text and JSON are near it."""

Headers = list[tuple[bytes, bytes]]


class Window:
    """An amount that may be used within any 60 seconds, kept in seconds."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._parts: deque[list[int]] = deque()  # [second, amount], oldest first

    def add(self, amount: int, now: float) -> None:
        """Counts `amount` as used now."""
        second = int(now)
        if not self._parts or self._parts[-1][0] != second:
            self._parts.append([second, 0])
        self._parts[-1][1] += amount
        self.used += amount

    def give_back(self, amount: int, since: float) -> None:
        """Takes back what was counted at `since` and not used, unless that is past."""
        for part in reversed(self._parts):
            if part[0] == int(since):
                part[1] -= amount
                self.used -= amount

    def look(self, now: float) -> None:
        """Forgets what is older than the window.

        A second is dropped when all of it is past, so that the limit holds in every window.
        """
        while self._parts and self._parts[0][0] + WINDOW_S + 1 <= now:
            self.used -= self._parts.popleft()[1]

    def wait_s(self, amount: int, now: float) -> float:
        """How long until `amount` more fits; until all is free when it never does."""
        over = self.used + amount - self.limit
        for second, part in self._parts:
            if over <= 0:
                break
            over -= part
            ends = second + WINDOW_S + 1 - now
            if over <= 0:
                return ends
        return self.reset_s(now) if over > 0 else 0.0

    def reset_s(self, now: float) -> float:
        """How long until nothing of the window is used any more."""
        return max(0.0, self._parts[-1][0] + WINDOW_S + 1 - now) if self._parts else 0.0


class Counted(Protocol):
    """Where the use of a day is counted, and where used tokens are written down."""

    def today(self, key_id: str) -> tuple[int, int]:
        """Requests and tokens of the present UTC day."""
        ...

    def add(
        self,
        key_id: str,
        model: str,
        *,
        requests: int,
        prompt: int,
        completion: int,
        is_estimated: bool,
    ) -> None:
        """Counts what was used."""
        ...


class Account:
    """The limits of one key, and what stands against them now.

    Args:
        now: a clock that only goes forward, in seconds.
        wall: UTC seconds.
    """

    def __init__(
        self, key: "ApiKey", ledger: Counted, *, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self.key = key
        self._ledger = ledger
        self._now = now
        self._wall = wall
        self._requests: Window | None = None
        self._tokens: Window | None = None
        self._open_requests = 0
        self._open_tokens = 0
        self._n_open = 0
        self._take_limits()

    @property
    def is_busy(self) -> bool:
        """Whether a request of the key is under way."""
        return self._n_open > 0

    def change(self, key: "ApiKey") -> None:
        """Takes the key's new limits; what is used stays used."""
        if key != self.key:
            self.key = key
            self._take_limits()

    def admit(self, model: str, *, tokens: int, counts: bool = True) -> "Charge":
        """The charge of a request that may need so many tokens.

        Args:
            counts: whether it is a request of its own, or a part of one that was counted.

        Raises:
            ForbiddenError: the key may not use this model.
            RateLimitError: a minute's limit is reached; says when to come again.
            QuotaError: a day's limit is reached.
        """
        if model:
            self.need_model(model)
        now = self._now()
        n = 1 if counts else 0
        self._check_day(n)
        for window, amount, what in (
            (self._requests, n, "requests"),
            (self._tokens, tokens, "tokens"),
        ):
            if window is not None:
                window.look(now)
                # What exceeds the limit alone may go when nothing else is under way.
                if window.used + min(amount, window.limit) > window.limit or (
                    amount and not window.limit
                ):
                    raise _too_much(window, amount, what, now)
        if self._requests is not None:
            self._requests.add(n, now)
        if self._tokens is not None:
            self._tokens.add(tokens, now)
        self._open_requests += n
        self._open_tokens += tokens
        self._n_open += 1
        return Charge(self, model, requests=n, tokens=tokens, since=now)

    def need_model(self, model: str) -> None:
        """
        Raises:
            ForbiddenError: the key may not use this model.
        """
        if not self.key.allows(model):
            raise ForbiddenError(
                "This API key may not use this model; GET /v1/models lists those it may.",
                param="model",
            )

    def headers(self) -> Headers:
        """The `x-ratelimit-*` headers of a reply sent now; none without limits."""
        limits = self.key.limits
        requests, tokens = self._ledger.today(self.key.id)
        day_s = DAY_S - self._wall() % DAY_S
        now = self._now()
        result: Headers = []
        for name, window, per_day, used in (
            (b"requests", self._requests, limits.requests_per_day, requests + self._open_requests),
            (b"tokens", self._tokens, limits.tokens_per_day, tokens + self._open_tokens),
        ):
            states: list[tuple[int, int, float]] = []
            if window is not None:
                window.look(now)
                states.append((window.limit - window.used, window.limit, window.reset_s(now)))
            if per_day is not None:
                states.append((per_day - used, per_day, day_s))
            if states:
                left, limit, reset_s = min(states)  # the one that will be felt first
                result += [
                    (b"x-ratelimit-limit-" + name, b"%d" % limit),
                    (b"x-ratelimit-remaining-" + name, b"%d" % max(0, left)),
                    (b"x-ratelimit-reset-" + name, duration(reset_s)),
                ]
        return result

    def settle(self, charge: "Charge", *, prompt: int, completion: int, is_estimated: bool) -> None:
        """Puts what was used in the place of what was expected."""
        self._close(charge)
        if self._tokens is not None:
            used = prompt + completion
            if used < charge.tokens:
                self._tokens.give_back(charge.tokens - used, charge.since)
            else:
                self._tokens.add(used - charge.tokens, self._now())
        self._ledger.add(
            self.key.id,
            charge.model,
            requests=charge.requests,
            prompt=prompt,
            completion=completion,
            is_estimated=is_estimated,
        )

    def cancel(self, charge: "Charge") -> None:
        """Takes back the tokens of a request that used none; it stays a request."""
        self._close(charge)
        if self._tokens is not None:
            self._tokens.give_back(charge.tokens, charge.since)

    def _close(self, charge: "Charge") -> None:
        self._open_requests -= charge.requests
        self._open_tokens -= charge.tokens
        self._n_open -= 1

    def _take_limits(self) -> None:
        limits = self.key.limits
        self._requests = _window(self._requests, limits.requests_per_minute)
        self._tokens = _window(self._tokens, limits.tokens_per_minute)

    def _check_day(self, n: int) -> None:
        limits = self.key.limits
        requests, tokens = self._ledger.today(self.key.id)
        for limit, used, what in (
            (limits.requests_per_day, requests + self._open_requests + n - 1, "requests"),
            (limits.tokens_per_day, tokens + self._open_tokens, "tokens"),
        ):
            if limit is not None and used >= limit:
                error = QuotaError(
                    f"This API key has used up its {limit} {what} of this day (UTC); "
                    "ask its issuer for more, or come again tomorrow."
                )
                error.retry_after_s = math.ceil(DAY_S - self._wall() % DAY_S)
                raise error


class Charge:
    """What one admitted request is expected to use, until it is known; closed exactly once."""

    __slots__ = ("_account", "model", "requests", "since", "tokens")

    def __init__(
        self, account: Account, model: str, *, requests: int, tokens: int, since: float
    ) -> None:
        self._account: Account | None = account
        self.model = model
        self.requests = requests
        self.tokens = tokens
        self.since = since

    def settle(self, *, prompt: int, completion: int, is_estimated: bool = False) -> None:
        """The request used so many tokens."""
        if (account := self._account) is not None:
            self._account = None
            account.settle(self, prompt=prompt, completion=completion, is_estimated=is_estimated)

    def cancel(self) -> None:
        """The request was not answered and used nothing."""
        if (account := self._account) is not None:
            self._account = None
            account.cancel(self)


class Caller:
    """The key behind one request. However often that asks an endpoint, it is one request."""

    __slots__ = ("_is_counted", "account")

    def __init__(self, account: Account) -> None:
        self.account = account
        self._is_counted = False

    @property
    def key_id(self) -> str:
        return self.account.key.id

    def allows(self, model: str) -> bool:
        """Whether the key may use this model."""
        return self.account.key.allows(model)

    def need_model(self, model: str) -> None:
        """See `Account.need_model`."""
        self.account.need_model(model)

    def admit(self, model: str, *, tokens: int) -> Charge:
        """See `Account.admit`."""
        charge = self.account.admit(model, tokens=tokens, counts=not self._is_counted)
        self._is_counted = True
        return charge

    def charge(self, model: str, *, prompt_tokens: int, completion_tokens: int) -> None:
        """Charges use that did not go through the forwarder, which charges what it sends.

        Args:
            model: empty for what no single model did.

        Raises:
            FastChatError: see `Account.admit`; then the work should not be done.
        """
        self.admit(model, tokens=0).settle(prompt=prompt_tokens, completion=completion_tokens)


def with_limits(caller: Caller, send: Send) -> Send:
    """`send`, with the key's limits among the headers of the reply."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and (more := caller.account.headers()):
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending if caller.account.key.limits.has_any else send


def expected_tokens(n_bytes: int, completion: int) -> int:
    """What a request of so many bytes may use, with the completion it asks for."""
    return -(-n_bytes // BYTES_PER_TOKEN) + completion


def duration(seconds: float) -> bytes:
    """A time as OpenAI's headers write it: `6m0s`, `17s`, `250ms`."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000) if seconds > 0 else b"0s"
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if whole >= 60 else ""
    return f"{text}{whole % 60}s".encode()


def _window(before: Window | None, limit: int | None) -> Window | None:
    if limit is None:
        return None
    window = before or Window(limit)
    window.limit = limit
    return window


def _too_much(window: Window, amount: int, what: str, now: float) -> RateLimitError:
    error = RateLimitError(
        f"This API key may use {window.limit} {what} a minute, and has used {window.used}; "
        f"this request needs {amount}. Try again later."
    )
    error.retry_after_s = max(1, math.ceil(window.wait_s(min(amount, window.limit), now)))
    return error

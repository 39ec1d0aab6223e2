"""Every exception of the language model client, as a tree.

    LlmError
    ├── LlmConfigurationError     key, address, `.env` or arguments cannot be used     (also ValueError)
    ├── BudgetExceeded            the caller's own budget is used up
    ├── QueueFull                 more calls wait for the limiter than may
    ├── DeadlineExceeded          no answer within the call's own limit                (also TimeoutError)
    └── EndpointError             what one attempt came to; `status` is the HTTP status, or 0
        ├── EndpointUnreachable   no connection, or it was cut                         (also ConnectionError)
        ├── EndpointSilent        no whole answer within the limit of an attempt       (also TimeoutError)
        ├── RateLimited           429: too many requests or tokens; `retry_after_s`
        ├── ServerFailed          5xx, 408: its own fault
        ├── MalformedReply        success, it says, and what it sent is no chat completion
        ├── QuotaExhausted        the account has no credit left
        └── RequestRejected       any other 4xx: the request is at fault
            ├── KeyRejected       401, 403
            └── ContextTooLong    the messages do not fit into the model's context

The first five kinds of `EndpointError` are worth another attempt, and a `ChatClient` makes it. No error holds the key,
nor what aiohttp raised, for that refers to the headers of the request.
"""

from __future__ import annotations

from typing import ClassVar


class LlmError(Exception):
    """Root of everything that this package raises on purpose."""


class LlmConfigurationError(LlmError, ValueError):
    """Key, address, `.env` or arguments cannot be used; the message says which, and what to do."""


class BudgetExceeded(LlmError):
    """The budget that the caller set is used up, or what is left of it does not do for this call."""


class QueueFull(LlmError):
    """More calls wait for the limiter than it was told to let wait."""


class DeadlineExceeded(LlmError, TimeoutError):
    """No answer came within the limit of the call, waiting and further attempts included."""


class EndpointError(LlmError):
    """What one attempt to get an answer came to."""

    is_retried: ClassVar[bool] = False
    """Whether another attempt may go better."""

    def __init__(self, message: str, *, status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        """How long the endpoint asks to wait, if it does."""


class EndpointUnreachable(EndpointError, ConnectionError):
    """No connection to the endpoint, or it was cut before the answer was whole."""

    is_retried = True


class EndpointSilent(EndpointError, TimeoutError):
    """No whole answer within the limit of one attempt."""

    is_retried = True


class RateLimited(EndpointError):
    """The endpoint gets too many requests or tokens from this account."""

    is_retried = True


class ServerFailed(EndpointError):
    """The endpoint or something in front of it failed."""

    is_retried = True


class MalformedReply(EndpointError):
    """The endpoint says that it succeeded, and what it sent is no chat completion."""

    is_retried = True


class QuotaExhausted(EndpointError):
    """The account has no credit left: waiting does not help."""


class RequestRejected(EndpointError):
    """The endpoint does not take the request as it is."""


class KeyRejected(RequestRejected):
    """The key is missing, wrong, or not allowed to use the model."""


class ContextTooLong(RequestRejected):
    """The messages, or they and the answer asked for, do not fit into the model's context."""


__all__ = [
    "BudgetExceeded",
    "ContextTooLong",
    "DeadlineExceeded",
    "EndpointError",
    "EndpointSilent",
    "EndpointUnreachable",
    "KeyRejected",
    "LlmConfigurationError",
    "LlmError",
    "MalformedReply",
    "QueueFull",
    "QuotaExhausted",
    "RateLimited",
    "RequestRejected",
    "ServerFailed",
]

"""An asynchronous client of language models behind OpenAI-compatible endpoints.

    async with ChatClient(Endpoint.find(model="gpt-5-mini"), limiter=RateLimits(requests_per_minute=500)) as client:
        reply = await client.chat([Message("user", "Say hello.")])

Hundreds of episodes share one client: its limiter lets them take turns, its budget bounds what they spend together, and
with a cache a run that was ended goes on where it was.
"""

from codecraft_async.llm.budget import Budget, BudgetStats, Prices
from codecraft_async.llm.cache import DiskCache, cache_key
from codecraft_async.llm.client import ChatClient, ClientStats
from codecraft_async.llm.endpoint import Endpoint, Secret, read_dotenv
from codecraft_async.llm.errors import (
    BudgetExceeded,
    ContextTooLong,
    DeadlineExceeded,
    EndpointError,
    EndpointSilent,
    EndpointUnreachable,
    KeyRejected,
    LlmConfigurationError,
    LlmError,
    MalformedReply,
    QueueFull,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    ServerFailed,
)
from codecraft_async.llm.limiter import Limiter, LimiterStats, RateLimits
from codecraft_async.llm.messages import (
    ChatModel,
    ChatOptions,
    ChatReply,
    MalformedArguments,
    Message,
    Sampling,
    Tool,
    ToolCall,
    Usage,
    estimate_tokens,
)
from codecraft_async.llm.retrying import RetryPolicy

__all__ = [
    "Budget",
    "BudgetExceeded",
    "BudgetStats",
    "ChatClient",
    "ChatModel",
    "ChatOptions",
    "ChatReply",
    "ClientStats",
    "ContextTooLong",
    "DeadlineExceeded",
    "DiskCache",
    "Endpoint",
    "EndpointError",
    "EndpointSilent",
    "EndpointUnreachable",
    "KeyRejected",
    "Limiter",
    "LimiterStats",
    "LlmConfigurationError",
    "LlmError",
    "MalformedArguments",
    "MalformedReply",
    "Message",
    "Prices",
    "QueueFull",
    "QuotaExhausted",
    "RateLimited",
    "RateLimits",
    "RequestRejected",
    "RetryPolicy",
    "Sampling",
    "Secret",
    "ServerFailed",
    "Tool",
    "ToolCall",
    "Usage",
    "cache_key",
    "estimate_tokens",
    "read_dotenv",
]

"""What the tests of agents share: a client of a loopback server, and what that server was told."""

from __future__ import annotations

from typing import Any

from codecraft_async.llm import ChatClient, Endpoint, RetryPolicy, Secret
from tests.llm.openai_server import KEY, MODEL, OpenAIServer


def client_of(server: OpenAIServer, **options: Any) -> ChatClient:
    """A client that tries again at once."""
    defaults: dict[str, Any] = {"retry": RetryPolicy(first_wait_s=0.0, max_attempts=3)}
    return ChatClient(Endpoint(MODEL, server.base_url, Secret(KEY)), **(defaults | options))


def told(server: OpenAIServer, request: int = -1) -> list[tuple[str, str]]:
    """Roles and texts of the messages of a request."""
    return [(message["role"], message["content"] or "") for message in server.asked[request]["messages"]]


def sh(command: str) -> str:
    """An answer with a command in a fenced block."""
    return f"I think:\n```sh\n{command}\n```"

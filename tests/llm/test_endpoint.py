"""Where the endpoint and its key come from, and that the key goes nowhere else."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
from pathlib import Path

import pytest

from codecraft_async.llm import Endpoint, LlmConfigurationError, Secret, read_dotenv
from codecraft_async.llm.wire import wait_of

FILE = """
# a comment
OPENAI_API_KEY = sk-from-file   # and why
export OPENAI_MODEL="file \\"model\\"\\tx"
OPENAI_BASE_URL='http://127.0.0.1:9/v1'  # here
EMPTY=
HASH=a#b
"""


def test_a_file_of_variables(tmp_path: Path) -> None:
    """Comments, quotes, escapes and `export` as other programs read them; nothing is expanded."""
    path = tmp_path / ".env"
    path.write_text(FILE + "SHELL_LIKE=$(touch x) $HOME\n")
    expected = {
        "OPENAI_API_KEY": "sk-from-file",
        "OPENAI_MODEL": 'file "model"\tx',
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "EMPTY": "",
        "HASH": "a#b",
        "SHELL_LIKE": "$(touch x) $HOME",
    }
    assert expected == read_dotenv(path)
    assert {} == read_dotenv(tmp_path / "missing")


@pytest.mark.parametrize("line", ["sk-secret", "OPENAI_API_KEY='sk-secret", 'A="sk-secret" b', "1A=sk-secret"])
def test_a_line_that_is_none_is_named_and_not_quoted(line: str, tmp_path: Path) -> None:
    """What stands there may be a key."""
    path = tmp_path / ".env"
    path.write_text(f"A=1\n{line}\n")
    with pytest.raises(LlmConfigurationError, match="line 2: ") as caught:
        read_dotenv(path)
    assert "sk-secret" not in str(caught.value)


def test_a_file_that_is_no_such_file(tmp_path: Path) -> None:
    """A directory, something huge, and a pipe, which nobody waits for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LlmConfigurationError, match="pipe is no file with lines in it, but a pipe or a device"):
        read_dotenv(tmp_path / "pipe")
    with pytest.raises(LlmConfigurationError, match="cannot be read: Is a directory"):
        read_dotenv(tmp_path)
    (tmp_path / "huge").write_bytes(b"A=1\n" * 20_000)
    with pytest.raises(LlmConfigurationError, match="more than 65536 bytes"):
        read_dotenv(tmp_path / "huge")


def test_arguments_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    """Each of the three is looked for by itself."""
    path = tmp_path / ".env"
    path.write_text(FILE)
    found = Endpoint.find(dotenv=path, environ={})
    assert ('file "model"\tx', "http://127.0.0.1:9/v1/chat/completions") == (found.model, found.url)
    assert "sk-from-file" == found.key.reveal()
    environ = {"OPENAI_API_KEY": "sk-env", "OPENAI_BASE_URL": "https://example.org/v1/", "OPENAI_MODEL": "env"}
    found = Endpoint.find(dotenv=path, environ=environ)
    assert ("env", "https://example.org/v1/chat/completions") == (found.model, found.url)
    assert "sk-env" == found.key.reveal()
    assert "arg" == Endpoint.find(model="arg", dotenv=None, environ=environ).model


def test_a_file_does_not_decide_who_gets_the_environments_key(tmp_path: Path) -> None:
    """A `.env` in a cloned directory could name any address."""
    path = tmp_path / ".env"
    path.write_text("OPENAI_BASE_URL=http://127.0.0.1:9/v1\n")
    with pytest.raises(LlmConfigurationError, match="gives the address and the environment the key"):
        Endpoint.find(model="m", dotenv=path, environ={"OPENAI_API_KEY": "sk-env"})
    given = Endpoint.find(
        model="m", base_url="http://127.0.0.1:8/v1", dotenv=path, environ={"OPENAI_API_KEY": "sk-env"}
    )
    assert "http://127.0.0.1:8/v1" == given.base_url


def test_what_is_missing_is_named() -> None:
    """A key, unless a server of one's own is named; and a model."""
    with pytest.raises(LlmConfigurationError, match=r"no key: set OPENAI_API_KEY in the environment or in \.env"):
        Endpoint.find(model="m", dotenv=None, environ={})
    with pytest.raises(LlmConfigurationError, match="no model is named: give one, or set OPENAI_MODEL"):
        Endpoint.find(dotenv=None, environ={"OPENAI_API_KEY": "sk-env"})
    assert not Endpoint.find(model="m", base_url="http://127.0.0.1:8/v1", dotenv=None, environ={}).key


@pytest.mark.parametrize("url", ["", "example.org/v1", "ftp://example.org", "http://", "http://[::1", "http://h:99999"])
def test_addresses_that_are_none(url: str) -> None:
    """The error shows one that is."""
    with pytest.raises(LlmConfigurationError, match=r"no http or https address: give one like https://api\.openai"):
        Endpoint("m", url)


def test_an_address_with_a_password_is_refused_and_not_shown() -> None:
    """It would be in every error."""
    for url in ("https://user:hunter2@example.org/v1", "https://example.org/v1?key=hunter2"):
        with pytest.raises(LlmConfigurationError, match="without user, password or query") as caught:
            Endpoint("m", url)
        assert "hunter2" not in str(caught.value)


def test_a_key_is_not_shown_copied_into_text_or_pickled() -> None:
    """Whoever prints, formats, dumps or sends its owner does not send it."""
    endpoint = Endpoint("m", key=Secret("sk-secret"))
    assert "sk-secret" not in f"{endpoint!r} {endpoint.key} {dataclasses.asdict(endpoint)} {copy.deepcopy(endpoint)}"
    with pytest.raises(TypeError, match="a key is not pickled"):
        pickle.dumps(endpoint)


@pytest.mark.parametrize("key", ["sk secret", "sk-\nsecret", "sk-sécret", "sk-\0secret"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    """It is refused, without being quoted."""
    with pytest.raises(LlmConfigurationError, match="copy it again") as caught:
        Secret(key)
    assert "secret" not in str(caught.value) and "sécret" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "2.5", "Retry-After-Ms": "40"}, 0.04),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], wait_s: float | None) -> None:
    """In milliseconds, seconds or as a date; what is neither is nothing."""
    assert wait_s == (None if (waits := wait_of(headers, now=lambda: 10.0)) is None else pytest.approx(waits))

"""The login that is sent along with a pull."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from codecraft_pool import registry_login
from codecraft_pool.registry_login import login_header

pytestmark = pytest.mark.anyio
AUTH = base64.b64encode(b"me:secret: with colon").decode()
LOGIN = {"username": "me", "password": "secret: with colon"}
HUB = "https://index.docker.io/v1/"


async def sent(folder: Path, registry: str, config: object) -> dict[str, Any]:
    """What a daemon is given for a pull from *registry*; empty if nothing."""
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    header = await login_header(registry, {"DOCKER_CONFIG": str(folder), "PATH": str(folder)})
    if not header:
        return {}
    login: dict[str, Any] = json.loads(base64.urlsafe_b64decode(header["X-Registry-Auth"]))
    return login


@pytest.mark.parametrize(
    ("registry", "key"),
    [("r.local:5000", "r.local:5000"), ("r.local", "https://r.local"), ("docker.io", HUB), ("docker.io", "docker.io")],
)
async def test_a_stored_login(tmp_path: Path, registry: str, key: str) -> None:
    """It is found under the names that Docker stores it under, and under no other registry's."""
    config = {"auths": {key: {"auth": AUTH}, "other.local": {"auth": "eDp5"}}}
    server = HUB if registry == "docker.io" else registry
    assert {**LOGIN, "serveraddress": server} == await sent(tmp_path, registry, config)


async def test_an_identity_token(tmp_path: Path) -> None:
    """A token that a registry gave goes instead of a password."""
    config = {"auths": {"r.local": {"auth": AUTH, "identitytoken": "t"}}}
    assert {"identitytoken": "t", "serveraddress": "r.local"} == await sent(tmp_path, "r.local", config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        "no json",
        {"auths": 3},
        {"auths": {"r.local": 3}},
        {"auths": {"r.local": {}}},
        {"auths": {"r.local": {"auth": "%%%"}}},
        {"auths": {"r.local": {"auth": base64.b64encode(b"no colon").decode()}}},
        {"auths": {"other.local": {"auth": AUTH}}},
        {"credsStore": "missing"},
        {"credsStore": "../../bin/sh"},
        {"credHelpers": {"other.local": "try"}},
    ],
)
async def test_no_login(tmp_path: Path, config: object) -> None:
    """What is not there or makes no sense is no login; the registry then says what it wants."""
    assert {} == await sent(tmp_path, "r.local", config)


async def test_without_a_configuration(tmp_path: Path) -> None:
    """Who never logged in has none."""
    assert {} == await login_header("r.local", {"HOME": str(tmp_path)})
    assert {} == await login_header("r.local", {})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('/bin/cat >/dev/null; echo \'{"Username": "<token>", "Secret": "t"}\'', {"identitytoken": "t"}),
        ('echo \'{"Username": "me", "Secret": "x"}\'', {"username": "me", "password": "x"}),
        ('echo \'{"Username": "me", "Secret": "x"}\'; exit 1', {}),
        ("echo credentials not found in native keychain; exit 1", {}),
        ("echo '[]'", {}),
        ("exec /bin/sleep 60", {}),
    ],
)
async def test_a_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: dict[str, str]) -> None:
    """What a helper knows is used; one that fails, hangs or talks nonsense is no login."""
    monkeypatch.setattr(registry_login, "HELPER_LIMIT_S", 1.0 if "sleep" in script else 15.0)
    helper = tmp_path / "docker-credential-try"
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    login = await sent(tmp_path, "r.local", {"credHelpers": {"r.local": "try"}})
    assert ({**expected, "serveraddress": "r.local"} if expected else {}) == login

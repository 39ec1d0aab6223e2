"""The credentials that `docker login` has stored for this user, in the form in which a daemon wants them for a pull.

A daemon keeps no credentials; whoever asks it to pull sends them along. They are read for the one registry that is
asked, when it is asked, and shown nowhere.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from codecraft_pool.image_names import DEFAULT_REGISTRY

HELPER_LIMIT_S: Final = 15.0
_HUB_KEY: Final = "https://index.docker.io/v1/"
_TOKEN_USER: Final = "<token>"  # a helper's way to say that the secret is an identity token
_HELPER_NAME: Final = re.compile(r"[\w.-]+", re.ASCII)


async def login_header(registry: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header for a call that makes the daemon ask *registry*; empty where nobody is logged in to it.

    What cannot be read counts as not logged in: the registry's answer then says what is missing.
    """
    config = await asyncio.to_thread(_read_config, environ)
    keys = [_HUB_KEY, DEFAULT_REGISTRY] if registry == DEFAULT_REGISTRY else [registry, f"https://{registry}"]
    keys += [] if registry == DEFAULT_REGISTRY else [f"http://{registry}"]
    helper = next((name for key in keys if (name := _table(config, "credHelpers").get(key))), config.get("credsStore"))
    login = await _ask_helper(str(helper), keys[0], environ) if helper else None
    login = login or next((found for key in keys if (found := _stored(_table(config, "auths").get(key)))), None)
    if login is None:
        return {}
    text = json.dumps({**login, "serveraddress": keys[0]})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(text.encode()).decode()}


def _read_config(environ: Mapping[str, str]) -> dict[str, Any]:
    folder = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME") or "/nonexistent", ".docker")
    try:
        content: Any = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = config.get(name)
    return table if isinstance(table, dict) else {}


def _stored(entry: Any) -> dict[str, str] | None:
    """The login in one entry of `auths`; empty entries are what a login with a helper leaves there."""
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return {"identitytoken": str(token)}
    try:
        user, colon, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return {"username": user, "password": password.strip("\0")} if colon else None


async def _ask_helper(helper: str, key: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    """What a credential helper (`docker-credential-<helper> get`) knows of a registry."""
    if not _HELPER_NAME.fullmatch(helper):
        return None
    pipe = asyncio.subprocess.PIPE
    question = os.memfd_create("registry")  # a pipe could break: some helpers answer before they have read
    try:
        os.pwrite(question, f"{key}\n".encode(), 0)
        process = await asyncio.create_subprocess_exec(
            f"docker-credential-{helper}", "get", stdin=question, stdout=pipe, stderr=pipe, env=dict(environ)
        )
    except OSError:
        return None
    finally:
        os.close(question)
    try:
        async with asyncio.timeout(HELPER_LIMIT_S):
            output, _ = await process.communicate()
        answer: Any = json.loads(output)
    except (TimeoutError, ValueError):
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not isinstance(answer, dict) or process.returncode or not answer.get("Secret"):
        return None
    user, secret = str(answer.get("Username") or ""), str(answer["Secret"])
    return {"identitytoken": secret} if user == _TOKEN_USER else {"username": user, "password": secret}


__all__ = ["login_header"]

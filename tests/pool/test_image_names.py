"""What is an image's name, and what stands for it on a site."""

from __future__ import annotations

from pathlib import Path

import pytest

from codecraft_pool.errors import ImageUnavailable
from codecraft_pool.image_names import ALIASES_VARIABLE, Aliases, full_reference, registry_of, site_aliases


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("debian", "debian:latest"),
        ("python:3.12-alpine", "python:3.12-alpine"),
        ("registry.local:5000/a/b", "registry.local:5000/a/b:latest"),
        ("a/b@sha256:" + "0" * 64, "a/b@sha256:" + "0" * 64),
        ("a/b:t@sha256:" + "0" * 64, "a/b:t@sha256:" + "0" * 64),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
    ],
)
def test_full_reference(reference: str, full: str) -> None:
    """A reference gets `:latest` where it has neither tag nor digest."""
    assert full == full_reference(reference)


@pytest.mark.parametrize(
    "reference", ["", "Upper", "a b", "../containers/json", "a?x=1", "a#b", "a:", "a\nb", "/a", "a//b", "a" * 600, "é"]
)
def test_no_reference(reference: str) -> None:
    """What is no image reference is refused in one line before it gets into a URL."""
    with pytest.raises(ImageUnavailable, match="is not an image reference") as caught:
        full_reference(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("debian:latest", "docker.io"),
        ("team/tool:1", "docker.io"),
        ("registry.local/tool:1", "registry.local"),
        ("localhost/tool:1", "localhost"),
        ("box:5000/tool:1", "box:5000"),
        ("[::1]:5000/tool:1", "[::1]:5000"),
    ],
)
def test_registries(reference: str, registry: str) -> None:
    """The first part of a reference is a registry if it looks like a host."""
    assert registry == registry_of(reference)


@pytest.mark.parametrize(
    ("reference", "used"),
    [
        ("python:3.12-alpine", "registry.local/python:latest"),
        ("docker.io/library/python:3.12-alpine", "registry.local/python:latest"),
        ("python:3.11", "site.local/hub/python:3.11"),
        ("team/tool", "site.local/team/tool:latest"),
        ("ghcr.io/team/tool:2", "site.local/ghcr/team/tool:2"),
        ("ghcr.io/own/tool:2", "own.local/tool:2"),
        ("quay.io/team/tool:2", "quay.io/team/tool:2"),
        ("codecraft/base", "codecraft/base:latest"),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
    ],
)
def test_what_is_used(reference: str, used: str) -> None:
    """A name goes before a pattern, a longer pattern before a shorter one, and what is used is not looked up again."""
    aliases = Aliases.of(
        {
            "python:3.12-alpine": "registry.local/python",
            "registry.local/python": "never/twice",
            "docker.io/*": "site.local/*",
            "docker.io/library/*": "site.local/hub/*",
            "ghcr.io/*": "site.local/ghcr/*",
            "ghcr.io/own/*": "own.local/*",
        }
    )
    assert used == aliases.resolve(reference)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"python:*": "registry.local/python:3"}, r"image alias python:\*=registry.local/python:3: either both end"),
        ({"Python": "registry.local/python:3"}, "'Python' is not an image reference"),
        ({"python": "registry local"}, "'registry local' is not an image reference"),
        ({"docker.io/*": "Registry Local/*"}, "'Registry Local/x' is not an image reference"),
    ],
)
def test_aliases_that_make_no_sense(pairs: dict[str, str], said: str) -> None:
    """They are refused when they are given, with their own words."""
    with pytest.raises(ImageUnavailable, match=said):
        Aliases.of(pairs)


def test_aliases_in_the_environment(tmp_path: Path) -> None:
    """They are pairs, or the name of a file that has them."""
    file = tmp_path / "images.toml"
    file.write_text('[aliases]\n"python:3" = "registry.local/python:3"\n"docker.io/*" = "registry.local/*"\n')
    expected = {"python:3": "registry.local/python:3", "docker.io/*": "registry.local/*"}
    assert expected == site_aliases({ALIASES_VARIABLE: str(file)})
    assert expected == site_aliases(
        {ALIASES_VARIABLE: "python:3=registry.local/python:3, docker.io/*=registry.local/*,"}
    )
    assert {} == site_aliases({}) == site_aliases({ALIASES_VARIABLE: " "})


@pytest.mark.parametrize("content", [None, "aliases = 3", "[aliases]\nx = 1", "[aliases", "\xff"])
def test_a_file_of_aliases_that_makes_no_sense(tmp_path: Path, content: str | None) -> None:
    """The file and the variable are named."""
    file = tmp_path / "images.toml"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    with pytest.raises(ImageUnavailable, match=rf"{file} \({ALIASES_VARIABLE}\)"):
        site_aliases({ALIASES_VARIABLE: str(file)})

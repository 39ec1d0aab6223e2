"""What of a directory is sent to be built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codecraft_pool import build_context
from codecraft_pool.build_context import is_ignored, parse_ignore, read_context
from codecraft_pool.errors import ImageUnavailable
from codecraft_pool.recipes import DockerfileRecipe


@pytest.mark.parametrize(
    ("lines", "out", "kept"),
    [  # the examples of Docker's documentation of .dockerignore, and its corners
        ("# comment\n*/temp*", ["somedir/temporary.txt", "somedir/temp"], ["temp", "a/b/temp", "comment"]),
        ("*/*/temp*", ["somedir/subdir/temporary.txt"], ["somedir/temp", "temp"]),
        ("temp?", ["tempa", "tempb", "tempa/below"], ["temp", "tempab", "a/tempb"]),
        ("**/*.go", ["a.go", "b/a.go", "b/c/a.go"], ["a.gox", "go"]),
        ("*.md\n!README.md", ["notes.md"], ["README.md", "docs/notes.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md", "x.md"], ["README.md", "README-b.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README.md", "README-secret.md"]),
        ("/foo/bar/", ["foo/bar", "foo/bar/baz"], ["bar", "x/foo/bar"]),
        ("foo//./bar", ["foo/bar"], ["foo"]),
        ("docs\n!docs/README.md", ["docs", "docs/x"], ["docs/README.md"]),
        ("*\n!src", ["x", "y/z"], ["src", "src/a/b"]),
        ("**", ["a", "a/b"], []),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["b", "a/xb"]),
        ("a+b.c$", ["a+b.c$"], ["aab.c$", "a+bxc$"]),
        ("  spaced  \n\n.\n", ["spaced"], ["other"]),
        ("\ufeffbom", ["bom"], ["x"]),
    ],
)
def test_what_is_ignored(lines: str, out: list[str], kept: list[str]) -> None:
    """Patterns mean what Docker's documentation says."""
    rules = parse_ignore(lines)
    assert (out, kept) == ([p for p in out if is_ignored(p, rules)], [p for p in kept if not is_ignored(p, rules)])


@pytest.mark.parametrize("line", ["[ab].txt", "a\\*b", "!", "!  "])
def test_what_is_not_understood(line: str) -> None:
    """A line that would have to be guessed at is refused, and named, with what to do."""
    with pytest.raises(ImageUnavailable, match=r"is not understood.*docker build") as caught:
        parse_ignore(f"fine\n{line}\n")
    assert repr(line) in str(caught.value)


def _folder(root: Path) -> Path:
    (root / "src" / "empty").mkdir(parents=True)
    (root / "src" / "run.sh").write_text("#!/bin/sh\n")
    (root / "src" / "run.sh").chmod(0o755)
    (root / "src" / "link").symlink_to("run.sh")
    (root / ".git").mkdir()
    (root / ".git" / "index").write_bytes(os.urandom(8))
    (root / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")
    (root / ".dockerignore").write_text(".git\nDockerfile\n")
    return root


def test_a_directory(tmp_path: Path) -> None:
    """Files, modes, links and empty directories are sent, and the Dockerfile even where it is ignored."""
    files = read_context(_folder(tmp_path))
    assert {".dockerignore", "Dockerfile", "src", "src/empty", "src/link", "src/run.sh"} == set(files)
    assert (0o755, b"#!/bin/sh\n") == (files["src/run.sh"].mode, files["src/run.sh"].data)
    assert ("link", b"run.sh", "dir") == (files["src/link"].kind, files["src/link"].data, files["src/empty"].kind)


def test_the_tag_follows_the_content(tmp_path: Path) -> None:
    """The same files give the same tag whenever they were written; another file, mode, argument or stage another."""
    folder = _folder(tmp_path)

    def digest(**options: str) -> str:
        arguments = {"A": options["a"]} if "a" in options else {}
        return DockerfileRecipe.from_directory(
            "team/x", folder, build_args=arguments, target=options.get("target", "")
        ).digest()

    first = digest()
    os.utime(folder / "src" / "run.sh", (1, 1))
    (folder / ".git" / "index").write_bytes(b"other")
    assert first == digest()
    changed = {first, digest(a="1"), digest(a="2"), digest(target="t")}
    (folder / "src" / "run.sh").chmod(0o700)
    changed.add(digest())
    (folder / "src" / "new").write_text("")
    changed.add(digest())
    assert 6 == len(changed)


@pytest.mark.parametrize("name", ["none", "../Dockerfile", "src"])
def test_no_dockerfile(tmp_path: Path, name: str) -> None:
    """A directory without the Dockerfile that is asked for is no context."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(ImageUnavailable, match=f"has no file {name}"):
        read_context(_folder(tmp_path / "context"), dockerfile=name)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that is too large is refused before it is read, with what to do."""
    monkeypatch.setattr(build_context, "MAX_CONTEXT_BYTES", 1 << 20)
    with (_folder(tmp_path) / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageUnavailable, match=r"more than 1 MiB: name what the build does not need in .*dockerignore"):
        read_context(tmp_path)


def test_what_no_context_can_hold(tmp_path: Path) -> None:
    """A socket or a pipe among the files is named."""
    os.mkfifo(_folder(tmp_path) / "pipe")
    with pytest.raises(ImageUnavailable, match="pipe is neither file nor directory nor symbolic link"):
        read_context(tmp_path)

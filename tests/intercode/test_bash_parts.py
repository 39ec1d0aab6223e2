"""What the bash environment is made of: similarity, quoting, paths, git's view of changes, rewards, file trees."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from codecraft_async.intercode import FileTree
from codecraft_async.intercode.bash_rewards import effects, published_reward, strict_reward
from codecraft_async.intercode.compat import change_of_directory, mangle, simplify
from codecraft_async.intercode.git_view import GitView, is_watched
from codecraft_async.intercode.similarity import similarity
from codecraft_async.intercode.terminal import CUT
from codecraft_async.intercode.volatile import explain, volatile
from codecraft_curriculum import TaskFileError
from codecraft_pool import DigestEntry


def entry(kind: Any = "file", content: str = "x", mode: int = 0o644, **others: Any) -> DigestEntry:
    """An entry of root's, made long ago."""
    fields: dict[str, Any] = {"uid": 0, "gid": 0, "size": 1, "mtime_ns": 10**18, "links": 1, "several": 0}
    fields |= {"attributes": "", "target": b"", **others}
    return DigestEntry(kind=kind, mode=mode, content=content if kind == "file" else "", **fields)


FIRST = {
    "/testbed": entry("dir"),
    "/testbed/a.txt": entry(),
    "/testbed/run": entry("dir"),
    "/testbed/run/hidden": entry(),
    "/testbed/sub": entry("dir"),
    "/testbed/sub/b.py": entry(mode=0o755),
    "/testbed/empty": entry("dir"),
}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "", 1.0),
        ("a", "b", 0.0),
        ("a", "a", 1.0),
        ("word", "", 0.0),
        ("Word two", "word TWO", 1.0),
        ("apple", "pear", 0.0),
        ("apple pear", "apple", 0.5797386715376657),  # what scikit-learn's TfidfVectorizer says
    ],
)
def test_similarity(one: str, other: str, expected: float) -> None:
    """It is the cosine of the TF-IDF vectors, or equality where there is no word."""
    assert pytest.approx(expected, abs=1e-12) == similarity(one, other)
    assert pytest.approx(expected, abs=1e-12) == similarity(other, one)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('echo "hello world"', ["echo hello", "world"]),
        ('p "q\\n r" s', ["p qn", "r s"]),
        ('a \\"b\\" c', ['a "b" c']),
        ("  ls 'a b'  ", ["ls 'a b'"]),
    ],
)
def test_quoting_as_recorded(command: str, words: list[str]) -> None:
    """Double quotes of a command toggle those that it is put between."""
    assert ["/bin/bash", "-c", *words] == mangle(command)


def test_quotes_that_do_not_pair() -> None:
    """There is nothing to execute."""
    assert mangle('echo "') is None


def test_paths_as_recorded() -> None:
    """They are simplified by their text."""
    cases = {("/", "../.."): "/", ("/home/x", "."): "/home/x", ("/home/x", "../y/.."): "/home"}
    cases |= {("/home/x", "../.."): "/", ("/home/x", "///"): "/", ("/", "a && ls"): "/a && ls"}
    assert cases == {case: simplify(*case) for case in cases}
    assert ["/testbed/", None] == [change_of_directory("cd  /testbed/ "), change_of_directory("cd")]


def test_gits_view() -> None:
    """Modified, deleted, replaced and new entries; ignored names at any depth are not seen, new directories are one."""
    changes = {
        "/testbed/a.txt": entry(content="y"),
        "/testbed/sub/b.py": entry(mode=0o644),
        "/testbed/run/hidden": None,
        "/testbed/new": entry("dir"),
        "/testbed/new/deep": entry("dir"),
        "/testbed/new/deep/file": entry(),
        "/testbed/void": entry("dir"),
        "/testbed/sub/c": entry(),
        "/testbed/empty/x": entry(),
        "/etc/passwd": entry(),
        "/top": entry("link", target=b"testbed"),
        "/workspace/x": entry(),
        "/tmp/t": entry(),
    }
    lines = GitView(FIRST, changes).status().splitlines()
    assert [" M testbed/a.txt", " M testbed/sub/b.py"] == lines[:2]
    assert ["?? testbed/empty/", "?? testbed/new/", "?? testbed/sub/c", "?? tmp/", "?? top"] == lines[2:]


def test_gits_view_of_what_is_gone() -> None:
    """A directory that is removed loses each of its files; a file in its place is new; one of another type is so."""
    view = GitView(FIRST, {"/testbed/sub": entry(), "/testbed/a.txt": entry("link", target=b"x")})
    assert {("testbed/a.txt", "T"), ("testbed/sub/b.py", "D"), ("testbed/sub", "??")} == view.pairs()
    assert {("testbed/a.txt", "D"), ("testbed/sub/b.py", "D")} == GitView(FIRST, {"/testbed": None}).pairs()
    assert not is_watched("/testbed/var/x") and is_watched("/mnt/x")


def test_what_a_git_reset_writes_anew() -> None:
    """What was changed or removed, and the directories where anything was; no new files, nothing that is ignored."""
    changes = {
        "/testbed/sub": None,
        "/testbed/a.txt": entry(content="y"),
        "/testbed/empty/new": entry(),
        "/etc/x": entry(),
    }
    expected = {"/testbed/sub/b.py", "/testbed/a.txt", "/testbed", "/testbed/sub", "/testbed/empty"}
    assert expected == GitView(FIRST, changes).rewritten()
    assert set() == GitView(FIRST, {"/testbed/sub": entry("dir")}).rewritten()


def test_names_with_blanks() -> None:
    """They are quoted as git does, which InterCode splits at the blank: the odd word is left out."""
    view = GitView(FIRST, {"/testbed/a b": entry()})
    assert '?? "testbed/a b"\n' == view.status()
    assert {('"testbed/a', "??")} == view.pairs()


def test_the_published_formula() -> None:
    """Nothing done on a read-only task pays 0.67; a perfect answer exactly 1; a wrong file some of the second part."""
    same = GitView(FIRST, {})
    outcome = "one two\n"
    assert (0.67, {"file_diff": 0.33, "file_changes": 0.33, "answer_similarity": 0.0}) == (
        (result := published_reward(same, same, "", outcome))[0],
        result[1]["reward"],
    )
    assert 1.0 == published_reward(same, same, "one two\n", outcome)[0]
    mine = GitView(FIRST, {"/testbed/n.txt": entry(content="y")})
    gold = GitView(FIRST, {"/testbed/n.txt": entry(content="z")})
    reward, info = published_reward(mine, gold, "one two\n", outcome)
    assert pytest.approx(0.67) == reward
    assert {"files": ["testbed/n.txt"], "correct": 0, "total": 1} == info["diff_same"]
    reward, info = published_reward(same, gold, "one two\n", outcome)
    assert ([("testbed/n.txt", "??")], [], 0.05) == (
        *(info["diff_miss"], info["diff_extra"], info["reward"]["file_diff"]),
    )
    assert pytest.approx(0.01 + 0.33 + 0.33 + 0.33) == published_reward(same, same, "q", "q")[0]
    assert 0.67 == published_reward(same, same, "q", None)[0]


def strict(mine: dict[str, Any], gold: dict[str, Any], observation: str, expected: str, **more: Any) -> float:
    """The strict reward."""
    arguments: dict[str, Any] = {"command": "find x", "actions": ["true"], **more}
    return strict_reward(mine, gold, observation, expected, **arguments)[0]


def test_the_strict_reward() -> None:
    """Only what the gold does pays: its output, its changes, or both; what nobody asked for costs half."""
    assert [1.0, 0.0, 0.5] == [
        strict({}, {}, "a\nb\n", "a \nb"),
        strict({}, {}, "", "a"),
        strict({"/x": 1}, {}, "a", "a"),
    ]
    assert 1.0 == strict({}, {}, "b\na", "a\nb")
    assert 0.5 == strict({}, {}, "b\na", "a\nb", command="find x | sort")
    assert 0 < strict({}, {}, "one two", "one three") < 0.5
    assert [1.0, 0.0, 0.5] == [strict(mine, {"/x": 1}, "noise", "") for mine in ({"/x": 1}, {}, {"/x": 1, "/y": 2})]
    assert 1.0 == strict({"/x": 1}, {"/x": 1}, "noise", "")


def test_what_differs_anyway() -> None:
    """Numbers of processes in paths, and listings of the system's own directories, are the same everywhere."""
    ours = "total 4\n0 dr-xr-xr-x  99 root root   0 Nov 20 18:59 proc\n4 drwxr-xr-x   2 root root 4096 May 25 2023 t"
    theirs = ours.replace(" 99", "101").replace("18:59", "19:00")
    assert [1.0, 1.0] == [strict({}, {}, ours, theirs), strict({}, {}, "proc/7/mem: x", "proc/19/mem: x")]
    assert 1.0 > strict({}, {}, ours, theirs.replace("4096", "4097"))
    assert 1.0 > strict({}, {}, ours.replace("dr-x", "drwx"), theirs)
    assert 1.0 > strict({}, {}, ours.replace("root root   0", "root sys   0"), theirs)


def test_golds_that_the_limit_cuts_off() -> None:
    """Who is cut off as well must have printed the same until then; a quarter of it is enough."""
    lines = [f"grep: file {number}" for number in range(8)]
    cut = f"\n/bin/bash: line 1:    7 Killed    grep -r x\n{CUT}10 s]"
    gold = "\n".join(lines) + cut
    assert [1.0, 1.0] == [strict({}, {}, "\n".join(lines[:count]) + cut, gold) for count in (3, 8)]
    for wrong in ("\n".join(lines[:1]) + cut, "\n".join(lines[1:]) + cut, "\n".join(lines), cut):
        assert 0.6 > strict({}, {}, wrong, gold)


def test_golds_that_show_nothing() -> None:
    """Where a gold neither prints nor changes anything, an action must at least name its programs."""
    assert 0.0 == strict({}, {}, "", "", command="find / -perm 553 | sort")
    assert 1.0 == strict({}, {}, "", "", command="find / -perm 553 | sort", actions=["find /a | sort -u"])
    assert 0.5 == strict({}, {}, "", "", command="find / -perm 553 | sort", actions=["find /a"])
    assert 0.0 == strict({}, {}, "noise", "", command="find / -perm 553", actions=["find /"])


def test_effects_of_commands() -> None:
    """What is as it was is none; the time of the run is the same at any time, one that was chosen is not."""
    first = {"/a": entry(), "/b": entry(), "/d": entry("dir"), "/p": entry()}
    began_s = 2e9
    now = entry(mtime_ns=int((began_s + 5) * 1e9))
    changes = {
        "/a": entry(),
        "/b": now,
        "/d": entry("dir", mtime_ns=5),
        "/gone": None,
        "/n": entry(mtime_ns=7),
        "/p": now,
    }
    found = effects(changes, {**first, "/gone": None, "/n": None}, began_s, {"/p"})
    assert ["/b", "/n", "/p"] == sorted(found)
    later = entry(mtime_ns=int((began_s + 900) * 1e9))
    assert found["/b"] == effects({"/b": later}, first, began_s, ())["/b"]
    assert found["/n"] != effects({"/n": entry(mtime_ns=8)}, {"/n": None}, began_s, ())["/n"]
    assert {"/a": None} == effects({"/a": None}, first, began_s, ())


def test_volatile_commands() -> None:
    """What a command reads besides files is told by its text."""
    cases = {
        "ls -R": (),
        "find /t -mtime +7": ("clock",),
        "df . | ps": ("disk", "processes"),
        "echo $$": ("processes",),
    }
    cases |= {"dig x": ("network",), "env": ("environment",), "uname -a": ("kernel",), "echo $RANDOM": ("random",)}
    cases |= {
        "wc -w x": (),
        "find /t -name x": (),
        "grep -r x /t": (),
        "du -sh /t": ("disk",),
        "ls -ls": ("clock", "disk"),
    }
    walks = (
        "find -name x",
        "find . -type f",
        "find ${D} -type f",
        "find /t / -name x",
        "grep -rl x .",
        "grep -r x * | wc",
    )
    cases |= dict.fromkeys((*walks, "tree /"), ("kernel",))
    assert cases == {command: volatile(command) for command in cases}


@pytest.mark.parametrize("part", ["ls -a ", "grep -r a ", "find ", "tree -a"])
def test_an_endless_action_is_soon_read(part: str) -> None:
    """What repeats itself, as models do, takes no time that grows with its square: this would take minutes."""
    assert volatile(part * (500_000 // len(part)) + "!") in {(), ("kernel",)}


def test_why_an_action_is_paid_otherwise() -> None:
    """By what gold and actions read; by what tools say in other words; by nothing where only files are read."""
    quote = "x: -c: line 1: unexpected EOF while looking for matching `)'"
    assert ("tool version",) == explain(["ls", 'cd "$(a)"'], f"{quote}\nx: syntax error", quote)
    assert ("tool version",) == explain(["bind -P"], '"\\M-b"', '"\\eb"')
    assert ("clock", "network") == explain(["date", "dig x"], "a", "b")
    assert ("network", "tool version") == explain(["hostname", "find / -name x"], "a", "a")
    assert () == explain(["ls /t", "cat /t/f"], "a", "b")


ENTRIES: list[dict[str, Any]] = [
    {"path": "/t", "type": "dir", "mode": "0755", "mtime": 5, "uid": 0, "gid": 0},
    {"path": "/t/empty", "type": "dir", "mode": "0755", "mtime": 5, "uid": 0, "gid": 0},
    {"path": "/t/f", "type": "file", "mode": "0640", "mtime": 7, "uid": 3, "gid": 4, "content_b64": "eA=="},
    {"path": "/t/l", "type": "symlink", "mode": "0777", "mtime": 7, "uid": 0, "gid": 0, "target": "f"},
]


def listed(tree: FileTree) -> list[str]:
    """The names in the archive."""
    with tarfile.open(fileobj=io.BytesIO(tree.archive)) as archive:
        return archive.getnames()


def test_file_trees(tmp_path: Path) -> None:
    """A list of entries becomes an archive; the image's name changes with it; InterCode's has no empty directories."""
    file = tmp_path / "tree_1.json"
    file.write_text(json.dumps(ENTRIES))
    tree = FileTree.read(file)
    assert ["t", "t/empty", "t/f", "t/l"] == listed(tree)
    with tarfile.open(fileobj=io.BytesIO(tree.archive)) as archive:
        info = archive.getmember("t/f")
        assert (0o640, 7, 3, 4, b"x") == (
            *(info.mode, info.mtime, info.uid, info.gid),
            archive.extractfile(info).read(),  # type: ignore[union-attr]  # it is a file
        )
    compat = FileTree.read(file, compat=True)
    found = listed(compat)
    assert ["t", "t/f", "t/l", ".gitignore", ".git/HEAD", "setup_nl2b_fs_1.sh", "var/log", "var/log/apt"] == found[:8]
    assert "var/log/dpkg.log" in found
    assert f"codecraft/nl2bash-files-{tree.digest()}" == tree.name != compat.name


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"path": "t"}, "entry 0.path: 't' is no absolute path"),
        ({"path": "/a/../b"}, "without '..'"),
        ({"type": "pipe"}, "'pipe' is not allowed; allowed: file, dir, symlink"),
        ({"mode": "rwx"}, "entry 0.mode: 'rwx' is no octal number"),
        ({"type": "file"}, "missing field 'content_b64' in entry 0"),
        ({"type": "file", "content_b64": "?"}, "entry 0.content_b64: is no base64"),
        ({"odd": 1}, "unknown field 'odd'"),
    ],
)
def test_wrong_file_trees(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    """The entry and the field are named."""
    file = tmp_path / "tree.json"
    file.write_text(json.dumps([{**ENTRIES[0], **change}]))
    with pytest.raises(TaskFileError) as caught:
        FileTree.read(file)
    assert problem in str(caught.value)

"""The command line of bubblewrap: what of the machine is visible inside of a local sandbox, and how.

Everything that is visible is on a list: the machine's /usr and a few files of its /etc, or a directory that holds a
whole root file system.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from codecraft_pool.errors import BackendUnavailable
from codecraft_pool.spec import HOME, HOSTS, STORE, WORKSPACE, SandboxSpec, writable_trees

# What the guest needs: become another user, own and open files whatever their mode, kill, and give the rest away.
_CAPABILITIES: Final = ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETPCAP")
# Without root: what the one user is called inside. Not 0, to which /proc gives files of the guest.
_ALONE_UID: Final = 1000
_HOST_FILES: Final = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/mime.types",
    "/etc/magic",
)
_READ_ONLY_PROC: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
_HIDDEN_PROC: Final = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/kallsyms",
    "/proc/kmsg",
)
# Of the guest's own files in /proc, those by which a process of the guest's own user could change it: no restore would
# bring that back, and all later commands would inherit it.
_GUEST_PROC: Final = ("autogroup", "coredump_filter", "oom_adj", "oom_score_adj")
_PIPE_BYTES: Final = 32 << 10  # a file is handed over in a pipe, which must take all of it at once
# Of a root file system, what the sandbox has of its own instead.
_OWN: Final = ("proc", "sys", "dev", "tmp", "run", "home", "workspace", "etc", STORE.lstrip("/"))


@dataclass(frozen=True, slots=True)
class Source:
    """What a sandbox is made of: the two programs, the directory of snapshots, and a root file system (None: /usr)."""

    bwrap: str
    guest: Path
    snapshots: Path
    root: Path | None = None


def bubblewrap_command(source: Source, spec: SandboxSpec, uid: int | None) -> tuple[list[str], dict[str, bytes]]:
    """Return bubblewrap's command line, and the small files that are to be added to it by path.

    *uid* is the agent's; None in a user namespace of one user, for whoever is not root.
    """
    words = [source.bwrap, "--die-with-parent", "--as-pid-1", "--new-session", "--clearenv", "--hostname", "sandbox"]
    words += ["--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    # Without root they count within the user namespace only, for the files of its one user.
    alone = ["--unshare-user", "--uid", f"{_ALONE_UID}", "--gid", f"{_ALONE_UID}"]
    words += alone if uid is None else ["--cap-drop", "ALL"]
    for capability in _CAPABILITIES:
        words += ["--cap-add", f"CAP_{capability}"]
    words += _this_machine() if source.root is None else _root_file_system(source.root)
    words += _mounts(source, spec)
    if uid is None:
        words += _guards()
    agent = "self" if uid is None else f"{uid}:{uid}"
    guest = [f"{STORE}/guest", "--agent", agent, "--max-processes", str(spec.max_processes), "--seccomp"]
    return [*words, "--", *guest], _etc_files(_ALONE_UID if uid is None else uid, source.root)


def check_root(root: Path) -> Path:
    """Return *root*, resolved, if sandboxes can be made of it.

    Raises:
        BackendUnavailable: It has no programs, or no directory where a sandbox needs one.
    """
    for name, why in (
        ("bin/sh", "no shell"),
        ("etc", "no /etc"),
        ("var/tmp", "no /var/tmp for a tree to be mounted on"),
    ):
        # Links in it are those of another root: followed, they would be looked up on this machine.
        place = root / name
        if not os.path.lexists(place) and not os.path.lexists(root / "usr" / name):
            raise BackendUnavailable(f"{root} holds no root file system that sandboxes can use: it has {why}")
    if (root / "etc").is_symlink():
        raise BackendUnavailable(f"{root} holds no root file system that sandboxes can use: its /etc is a link")
    return root.resolve()


def _this_machine() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        link = Path("/") / name
        if link.is_symlink():
            words += ["--symlink", os.readlink(link), str(link)]
        elif link.is_dir():
            words += ["--ro-bind", str(link), str(link)]
    for path in own_packages(Path(str(files("codecraft_pool"))).parent):
        words += ["--perms", "0700", "--tmpfs", path]
    words += ["--perms", "0755", "--dir", "/etc"]
    for path in _HOST_FILES:
        words += ["--ro-bind-try", path, path]
    return words


def _root_file_system(root: Path) -> list[str]:
    """Each entry by itself, in a directory of the sandbox's own, in which there is room for what the other lacks."""
    words = ["--perms", "0755", "--dir", "/etc"]
    for folder, skipped in ((root, _OWN), (root / "etc", ("passwd", "group", "hosts", "nsswitch.conf"))):
        for entry in sorted(folder.iterdir()):
            place = f"/{entry.relative_to(root)}"
            if entry.name in skipped:
                continue
            if entry.is_symlink():
                words += ["--symlink", os.readlink(entry), place]
            elif entry.is_dir() or entry.is_file():
                words += ["--ro-bind", str(entry), place]
    return words


def _mounts(source: Source, spec: SandboxSpec) -> list[str]:
    words = ["--proc", "/proc"]
    for path in _READ_ONLY_PROC:
        words += ["--ro-bind-try", path, path]
    for path in _HIDDEN_PROC:
        words += ["--ro-bind", "/dev/null", path] if os.path.exists(path) else []
    words += ["--dev", "/dev"]
    for tree in writable_trees():
        words += ["--perms", "0755", "--size", str(spec.tree_limit_bytes(tree.tree)), "--tmpfs", tree.tree]
    words += ["--remount-ro", "/dev"]  # the directory only: not the devices, nor what is mounted below
    words += ["--perms", "0700", "--dir", STORE, "--ro-bind", str(source.snapshots), f"{STORE}/snapshots"]
    return [*words, "--ro-bind", str(source.guest), f"{STORE}/guest", "--chdir", WORKSPACE]


def own_packages(home: Path) -> list[str]:
    """Return this project's packages in *home* if that is below /usr: their tasks say how they are graded."""
    return [str(path) for path in home.resolve().glob("codecraft_*") if path.is_dir() and path.is_relative_to("/usr")]


def _guards() -> list[str]:
    """Return bubblewrap's words that close files of the guest's in /proc, those that this kernel has."""
    words: list[str] = []
    for own, guests in (("/proc/self", "/proc/1"), (f"/proc/self/task/{os.getpid()}", "/proc/1/task/1")):
        for name in _GUEST_PROC:
            if os.path.exists(f"{own}/{name}"):
                words += ["--ro-bind", "/dev/null", f"{guests}/{name}"]
    return words


def _etc_files(uid: int, root: Path | None) -> dict[str, bytes]:
    """Return the files of /etc that must not be the machine's: its users, and how names are looked up.

    A root file system keeps its own users, but for those whose names or numbers the sandbox's have.
    """
    users = [
        "root:x:0:0:root:/root:/bin/sh",
        f"agent:x:{uid}:{uid}:agent:{HOME}:/bin/sh",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    ]
    groups = ["root:x:0:", f"agent:x:{uid}:", "nogroup:x:65534:"]
    return {
        "/etc/passwd": _lines(users, root, "passwd"),
        "/etc/group": _lines(groups, root, "group"),
        "/etc/hosts": HOSTS,
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
    }


def _lines(ours: list[str], root: Path | None, name: str) -> bytes:
    names = {line.split(":")[0] for line in ours}
    numbers = {line.split(":")[2] for line in ours}
    theirs: list[str] = []
    if root is not None and (place := root / "etc" / name).is_file() and not place.is_symlink():
        theirs = place.read_text("utf-8", "surrogateescape").splitlines()
    for line in theirs:
        fields = line.split(":")
        if len(fields) > 2 and fields[0] not in names and fields[2] not in numbers:
            ours.append(line)
    return "".join(f"{line}\n" for line in ours).encode("utf-8", "surrogateescape")[:_PIPE_BYTES]

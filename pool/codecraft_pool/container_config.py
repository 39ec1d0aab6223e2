"""What a sandbox's container is given, and above all what not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from codecraft_pool.spec import STORE, SandboxSpec, root_options, writable_trees

# What the guest needs: become another user, own and open files whatever their mode, kill, and give the rest away.
_CAPABILITIES: Final = ("SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETPCAP")
# What it needs for a root of its own: mount, enter, and for the kernel to copy any file up into the layer in its name.
# Where nothing can change in that root, the guest gives these up before the first command.
_MOUNTING_CAPABILITIES: Final = ("SYS_ADMIN", "SYS_CHROOT", "FSETID", "MKNOD", "SETFCAP")


def container_config(
    image: str, labels: dict[str, str], spec: SandboxSpec, uid: int, *, options: Sequence[str] = (), apparmor: str = ""
) -> dict[str, Any]:
    """Return a container's configuration: nothing it does not need. Its agent is the user *uid*.

    *options* are further words for the guest about the root file system that commands get, where it is not the image's
    own; *apparmor* is then the profile, where it is not the daemon's default.
    """
    words = options or (root_options(spec, "/") if spec.reset == "overlay" else ())
    tmpfs = f"rw,exec,nosuid,nodev,mode=0755,nr_inodes={spec.tree_files}"
    return {
        "Image": image,
        "Entrypoint": [f"{STORE}/guest"],
        # Docker's own filter lets a command undo what keeps its orphans below it, and set limits of the guest.
        "Cmd": ["--agent", f"{uid}:{uid}", "--seccomp", *words],
        "User": "0:0",
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "Labels": labels,
        "OpenStdin": True,
        "StdinOnce": True,  # the daemon closes standard input when our end goes, and the guest ends with it
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",  # the guest hears no other, and a daemon that stops would wait 10 s for it
        # A network namespace with a loopback and nothing else, made by the runtime. NetworkMode "none" means the same
        # but goes through the daemon's network code, where Engine 20.10 deadlocks for good when many containers end at
        # once (libnetwork: processEndpointDelete and getSvcRecords take two locks in opposite order). The price is that
        # the daemon writes no hosts file, so the volume has one.
        "NetworkDisabled": True,
        "HostConfig": {
            "AutoRemove": True,
            "NetworkMode": "none",  # for a daemon that does not know NetworkDisabled
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": [*_CAPABILITIES, *(_MOUNTING_CAPABILITIES if words else ())],
            "SecurityOpt": ["no-new-privileges", *([f"apparmor={apparmor}"] if words and apparmor else [])],
            # A connection's ghost would keep its port from the next episode for a minute (per network namespace since
            # Linux 4.10).
            "Sysctls": {"net.ipv4.tcp_max_tw_buckets": "0"},
            "PidsLimit": spec.max_processes,
            "Memory": spec.memory_bytes,
            "MemorySwap": spec.memory_bytes,
            "NanoCpus": int(spec.cpus * 1e9),
            "Tmpfs": {tree.tree: f"{tmpfs},size={spec.tree_limit_bytes(tree.tree)}" for tree in writable_trees()},
            "LogConfig": {"Type": "none"},
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        },
    }


def mount(config: dict[str, Any], source: str, target: str) -> None:
    """Have *source*, on the daemon's machine, at *target*, read-only; the daemon refuses one that is not there."""
    # Not "Binds", for which a daemon makes an empty directory of what is not there.
    each = {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
    config["HostConfig"].setdefault("Mounts", []).append(each)


def connect_to(config: dict[str, Any], folder: str, target: str, socket: str) -> None:
    """Have the guest connect to *socket* in *folder*, which is mounted at *target*; nothing is attached to it."""
    mount(config, folder, target)
    config["Cmd"] = [*config["Cmd"], "--connect", socket]


def detached(config: dict[str, Any]) -> None:
    """Give the guest no standard input: should it find nobody at its socket, it ends."""
    for name in ("OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr"):
        config[name] = False

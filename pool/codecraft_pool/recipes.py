"""Images that are made here: bootstrapped from Debian packages, or built from a Dockerfile.

A recipe's image is tagged `name:<digest of the recipe>`, so a recipe that changed gives another image, and one that
did not is not built twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import posixpath
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from codecraft_pool._debian_sources import DEBIAN_KEYRING, machine_sources, machine_suite, package_tool_is_apt
from codecraft_pool._image_progress import ImageProgress, relay
from codecraft_pool._program import Program, run_program, run_to_end
from codecraft_pool.build_context import read_context
from codecraft_pool.docker_daemon import DockerDaemon, one_line
from codecraft_pool.errors import ImageUnavailable, SnapshotError
from codecraft_pool.owner import Owner
from codecraft_pool.snapshot import Entry, Snapshot

RECIPE_LABEL = "io.codecraft.recipe"
SCRATCH_PREFIX = "codecraft-image-"
BUILD_LIMIT_S = 1800.0
APT_LIMIT_S = 600.0
PROBE_LIMIT_S = 10.0

# What no program needs at run time; licences stay.
_EXCLUDED_PATHS = ("doc", "man", "info", "locale", "lintian", "bug")
# /etc is read-only in a sandbox, so the agent's user must be in the image; /workspace and the home are mount points.
_CUSTOMIZE = " && ".join(
    (
        'chroot "$1" groupadd --gid 1000 agent',
        'chroot "$1" useradd --uid 1000 --gid 1000 --create-home --home-dir /home/agent --shell /bin/bash agent',
        'mkdir -p "$1/workspace"',
        'chown 1000:1000 "$1/workspace"',
        ': > "$1/etc/hostname"',
        ': > "$1/etc/resolv.conf"',
        'rm -rf "$1"/var/cache/apt/* "$1"/var/log/* "$1"/var/cache/debconf/*-old',
    )
)
# What the commands of the NL2Bash tasks use.
_NL2BASH_PACKAGES = (
    *("bash", "bsdmainutils", "coreutils", "cpio", "cron", "curl", "dnsutils", "git", "hashdeep", "imagemagick"),
    *("iputils-ping", "jq", "net-tools", "netbase", "procps", "psmisc", "python3", "tree"),
)
# The server and its client without what a machine's init system needs of them; Python relays where nothing else can.
_SQL_PACKAGES = ("mariadb-client-core", "mariadb-server-core", "python3")
_CHANGES = (
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    "WORKDIR /workspace",
    'CMD ["/bin/sh"]',
)


class Recipe(Protocol):
    """How one image is made."""

    @property
    def name(self) -> str:
        """The image's name, without a tag."""
        ...

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with the recipe."""
        ...

    async def build(self, daemon: DockerDaemon, *, progress: ImageProgress) -> None:
        """`name:digest` exists at the daemon, whole.

        Raises:
            ImageUnavailable: it cannot be made here, and why; nothing half-made is kept.
            LaunchError: the daemon refused it or went away.
        """
        ...


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class DockerfileRecipe:
    """An image built by the daemon from a Dockerfile and the files that it copies, by name in the build context.

    Files are given as content (mode 644) or as `Entry`. `build_args` are those of ``ARG``; they can be seen in the
    image's history, so they are no place for secrets. `network` is that of ``RUN``: "" (the daemon's default), "none"
    or "host".
    """

    name: str
    dockerfile: str
    files: Mapping[str, bytes | Entry] = field(default_factory=dict[str, "bytes | Entry"])
    build_args: Mapping[str, str] = field(default_factory=dict[str, str])
    target: str = ""
    """The stage to build; the last one if empty."""
    network: Literal["", "none", "host"] = ""
    dockerfile_name: str = "Dockerfile"

    @classmethod
    def from_directory(
        cls,
        name: str,
        folder: Path | str,
        *,
        dockerfile: str = "Dockerfile",
        build_args: Mapping[str, str] | None = None,
        target: str = "",
        network: Literal["", "none", "host"] = "",
    ) -> DockerfileRecipe:
        """Return the recipe of a directory as it is now, but for what its .dockerignore leaves out. Blocking.

        Raises:
            ImageUnavailable: It has no Dockerfile, is too large, or its .dockerignore is not understood.
            OSError: Some of it cannot be read.
        """
        files = read_context(Path(folder), dockerfile=dockerfile)
        name_in_context = posixpath.normpath(dockerfile)
        text = files.pop(name_in_context).data.decode("utf-8", "surrogateescape")
        return cls(name, text, files, dict(build_args or {}), target, network, name_in_context)

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with the recipe."""
        contents = {
            name: (entry.kind, entry.mode, hashlib.sha256(entry.data).hexdigest())
            for name, entry in self._entries().items()
        }
        options = (dict(self.build_args), self.target, self.network, self.dockerfile_name)
        return _digest("dockerfile", self.name, contents, options)

    async def build(self, daemon: DockerDaemon, *, progress: ImageProgress) -> None:
        """See `Recipe.build`."""
        what = f"build image {self.name}"
        digest, context = await asyncio.to_thread(lambda: (self.digest(), self._context()))
        params = [
            ("t", f"{self.name}:{digest}"),
            ("dockerfile", self.dockerfile_name),
            ("rm", "1"),
            ("forcerm", "1"),
            ("buildargs", json.dumps(dict(self.build_args))),
            ("labels", json.dumps({RECIPE_LABEL: digest})),
        ]
        params += [("target", self.target)] if self.target else []
        params += [("networkmode", self.network)] if self.network else []
        headers = {"Content-Type": "application/x-tar"}
        async with daemon.lane("pull"):
            with daemon.explained(what, limit_s=BUILD_LIMIT_S):
                async with (
                    asyncio.timeout(BUILD_LIMIT_S),
                    daemon.messages("build", what=what, params=params, data=context, headers=headers) as messages,
                ):
                    async for message in messages:
                        relay(message, progress)

    def _entries(self) -> dict[str, Entry]:
        files: dict[str, bytes | Entry] = {**self.files, self.dockerfile_name: self._dockerfile()}
        return {name: Entry("file", data) if isinstance(data, bytes) else data for name, data in files.items()}

    def _dockerfile(self) -> bytes:
        return self.dockerfile.encode("utf-8", "surrogateescape")

    def _context(self) -> bytes:
        try:
            return Snapshot(self._entries()).tar()
        except SnapshotError as error:
            raise ImageUnavailable(f"cannot build image {self.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class DebianRecipe:
    """An image bootstrapped from Debian packages with mmdebstrap, for machines that reach no image registry."""

    name: str
    suite: str
    packages: tuple[str, ...]

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with the recipe."""
        return _digest("debian", self.name, self.suite, self.packages, _EXCLUDED_PATHS, _CUSTOMIZE, _CHANGES)

    async def build(self, daemon: DockerDaemon, *, progress: ImageProgress) -> None:
        """See `Recipe.build`. The archive goes from mmdebstrap's standard output to the daemon, through no file."""
        _require_same_machine(daemon, self.name)
        await _require_mmdebstrap(self.name, progress)
        mirrors = await asyncio.to_thread(machine_sources, self.suite)
        is_root = os.geteuid() == 0
        prefix = await _containment() if is_root else []
        argv = [*prefix, *self._mmdebstrap(mirrors)]
        progress.line(f"building {self.name} from Debian packages ({self.suite}: {', '.join(self.packages)})")
        async with _scratch(is_root) as environ, run_program(argv, on_line=progress.line, environ=environ) as program:
            try:
                await self._import(daemon, program, progress)
            except Exception as error:
                # A failing mmdebstrap breaks the upload, but the upload's error does not say why.
                if problem := _bootstrap_problem(program):
                    raise ImageUnavailable(f"cannot build image {self.name}: {problem}") from error
                raise

    def _mmdebstrap(self, mirrors: list[str]) -> list[str]:
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in _EXCLUDED_PATHS]
        return [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(self.packages)}",
            '--aptopt=Acquire::Languages "none"',
            *excluded,
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            f"--customize-hook={_CUSTOMIZE}",
            self.suite,
            "-",
            *mirrors,
        ]

    async def _import(self, daemon: DockerDaemon, program: Program, progress: ImageProgress) -> None:
        what = f"import image {self.name}"
        changes = [*_CHANGES, f"LABEL {RECIPE_LABEL}={self.digest()}"]
        params = [("fromSrc", "-"), ("repo", self.name), ("tag", self.digest())]
        params += [("changes", change) for change in changes]
        headers = {"Content-Type": "application/x-tar"}
        async with daemon.lane("pull"):
            with daemon.explained(what, limit_s=BUILD_LIMIT_S):
                async with (
                    asyncio.timeout(BUILD_LIMIT_S),
                    daemon.messages(
                        "images/create", what=what, params=params, data=_archive(program, progress), headers=headers
                    ) as messages,
                ):
                    async for _ in messages:  # only the id; an error among them is raised
                        pass


async def _archive(program: Program, progress: ImageProgress) -> AsyncGenerator[bytes]:
    """The program's output; its end is only given if the program ended well, so that half an image is never whole."""
    sent = 0
    while data := await program.read():
        yield data
        sent += len(data)
        progress.layer("archive", "Importing", sent, None)
    if status := await program.wait():
        raise ChildProcessError(f"mmdebstrap ended with status {status}")


def _bootstrap_problem(program: Program) -> str | None:
    if not program.status:
        return None
    errors = [line for line in program.last_lines if line.startswith("E:")] or list(program.last_lines)
    reason = one_line("; ".join(errors[:3])) or "it said nothing"
    return (
        f"mmdebstrap ended with status {program.status} ({reason}); check that this machine reaches a Debian mirror, "
        "or bring the image with `docker load`"
    )


def _require_same_machine(daemon: DockerDaemon, name: str) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    if daemon.info.arch not in (machine, "?"):
        raise ImageUnavailable(
            f"cannot build image {name}: the container daemon {daemon.info.address} is {daemon.info.arch} and this "
            f"machine {machine}; build it there and bring it with `docker load`"
        )


async def _require_mmdebstrap(name: str, progress: ImageProgress) -> None:
    """mmdebstrap and Debian's keys are installed; root on a Debian-like machine has them installed, and is told so."""
    missing = await asyncio.to_thread(_missing_packages)
    if not missing:
        return
    wanted = " ".join(missing)
    if os.geteuid() != 0 or not await asyncio.to_thread(package_tool_is_apt):
        raise ImageUnavailable(
            f"cannot build image {name}: {wanted} is not installed; install it (`apt-get install {wanted}` as root on "
            "Debian), or bring the image with `docker load`"
        )
    progress.line(f"installing {wanted} with apt-get")
    install = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "--no-install-recommends", *missing]
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    lines: list[str] = []
    for argv in (install, ["apt-get", "update"], install):
        try:
            status, lines = await run_to_end(argv, limit_s=APT_LIMIT_S, on_line=progress.line, environ=environ)
        except (TimeoutError, OSError) as error:
            raise ImageUnavailable(f"cannot build image {name}: `{' '.join(argv)}` failed: {error!r}") from error
        if status == 0 and argv is install:
            return
    reason = one_line("; ".join(lines[-3:]))
    raise ImageUnavailable(f"cannot build image {name}: `{' '.join(install)}` failed: {reason}")


def _missing_packages() -> list[str]:
    missing = [] if shutil.which("mmdebstrap") else ["mmdebstrap"]
    return missing if DEBIAN_KEYRING.exists() else [*missing, "debian-archive-keyring"]


async def _containment() -> list[str]:
    """A prefix that gives root's mmdebstrap namespaces of its own, where they can be had.

    As root it mounts into its tree on the host; killed, it would leave those mounts, and its helpers, behind.
    """
    prefix = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        status, _ = await run_to_end([*prefix, "true"], limit_s=PROBE_LIMIT_S)
    except (TimeoutError, OSError):
        return []
    return prefix if status == 0 else []


@asynccontextmanager
async def _scratch(is_root: bool) -> AsyncGenerator[dict[str, str]]:
    """An environment with a temporary directory that is gone afterwards; a user's stays as it is.

    A user's mmdebstrap works as other user ids, which could neither enter such a directory nor leave it removable;
    it removes its own.
    """
    environ = dict(os.environ)
    if not is_root:
        yield environ
        return
    directory = await asyncio.to_thread(tempfile.mkdtemp, prefix=f"{SCRATCH_PREFIX}{Owner.current()}-")
    try:
        await asyncio.to_thread(os.chmod, directory, 0o755)  # apt downloads as a user of its own
        yield {**environ, "TMPDIR": directory}
    finally:
        await asyncio.to_thread(_remove_tree, directory)


def _remove_tree(directory: str) -> None:
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    if f" {directory}/" not in mounts:  # never through a mount that a killed helper left: it may show the host
        shutil.rmtree(directory, ignore_errors=True)


def builtin_recipes() -> dict[str, Recipe]:
    """The recipes that come with the package, by image name; reads what Debian release this machine is."""
    suite = machine_suite()
    packages = ("git", "python3")
    base = DebianRecipe(name="codecraft/base", suite=suite, packages=packages)
    with_c = DebianRecipe(name="codecraft/c", suite=suite, packages=("gcc", *packages, "libc6-dev", "make"))
    nl2bash = DebianRecipe(name="codecraft/nl2bash", suite=suite, packages=_NL2BASH_PACKAGES)
    sql = DebianRecipe(name="codecraft/sql", suite=suite, packages=_SQL_PACKAGES)
    return {recipe.name: recipe for recipe in (base, with_c, nl2bash, sql)}


__all__ = ["RECIPE_LABEL", "DebianRecipe", "DockerfileRecipe", "Recipe", "builtin_recipes"]

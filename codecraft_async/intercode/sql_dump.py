"""Images with databases: a dump of SQL becomes a recipe, whose image holds the server's files with all of it loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from codecraft_curriculum import TaskFileError
from codecraft_pool import DockerDaemon, DockerfileRecipe, ImageProgress, Images
from codecraft_pool.recipes import builtin_recipes

__all__ = ["SERVER_FOLDER", "SqlDump"]

SERVER_FOLDER: Final = "/srv/codecraft-sql"
"""Where an image has the server's options, the programs that start it, and its files."""

_BASE: Final = "codecraft/sql"
_PARTS: Final = ("server.cnf", "load.sh", "start.sh")
_MAX_DUMP_BYTES: Final = 1 << 30
_DOCKERFILE: Final = f"""FROM {_BASE}
COPY {" ".join(_PARTS)} dump.sql {SERVER_FOLDER}/
RUN sh {SERVER_FOLDER}/load.sh {SERVER_FOLDER}
"""


@dataclass(frozen=True, slots=True)
class SqlDump:
    """A recipe: the image `codecraft/sql` with the databases of a dump, as `mysqldump` and `mariadb-dump` write them.

    Give it as `image_name`: the image is made when it is first needed, and used from then on. Table names are in lower
    case, the user ``admin`` has the password ``admin``.
    """

    text: bytes = field(default=b"", repr=False)
    base_digest: str = ""
    """That of the recipe of the base: another base makes another image."""

    @classmethod
    def read(cls, path: Path | str) -> SqlDump:
        """Return the recipe of a dump (blocking).

        Raises:
            TaskFileError: The file cannot be read, or has more than 1 GiB.
        """
        file = Path(path)
        try:
            if file.stat().st_size > _MAX_DUMP_BYTES:
                raise TaskFileError(file, f"a dump may have at most {_MAX_DUMP_BYTES} bytes")
            text = file.read_bytes()
        except OSError as error:
            raise TaskFileError(file, f"cannot be read: {error.strerror}") from error
        return cls(text, builtin_recipes()[_BASE].digest())

    @property
    def name(self) -> str:
        """The image's name, which says what is in it."""
        return f"{_BASE}-dump-{self.digest()}"

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with the dump, and with how it is loaded."""
        parts = self._files()
        known = hashlib.sha256(f"{self.base_digest}\0{_DOCKERFILE}\0".encode())
        for name in sorted(parts):
            known.update(f"{name}\0{len(parts[name])}\0".encode() + parts[name])
        return known.hexdigest()[:12]

    async def build(self, daemon: DockerDaemon, *, progress: ImageProgress) -> None:
        """`name:digest` exists at the daemon, whole; so does the base. See `Recipe.build`."""
        images = Images(daemon)
        await images.build(_BASE, progress=progress)
        recipe = DockerfileRecipe(self.name, _DOCKERFILE, self._files(), network="none")
        image = await images.make(recipe, progress=progress)
        what = f"name image {self.name}"
        await daemon.call(None, lambda: daemon.client.images.tag(image, self.name, tag=self.digest()), what=what)

    def _files(self) -> dict[str, bytes]:
        folder = files(f"{__package__}.inside")
        return {**{name: folder.joinpath(name).read_bytes() for name in _PARTS}, "dump.sql": self.text}

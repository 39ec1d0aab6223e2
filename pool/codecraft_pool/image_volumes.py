"""What becomes of an image's VOLUME directories in a sandbox: they are read-only, like the rest of its root.

By itself the daemon would give each container a writable volume there, which no restore knows of: what one episode
leaves in it, the next would find. So sandboxes of such an image mount the volumes of a depot of that very image, which
the daemon has filled from it, and mount them read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from codecraft_pool.errors import ImageUnavailable
from codecraft_pool.spec import writable_trees


def check_volumes(image: str, volumes: Sequence[str]) -> None:
    """See that no volume is inside of a tree that every restore empties, which a mount point would prevent.

    Raises:
        ImageUnavailable: One is.
    """
    trees = [PurePosixPath(tree.tree) for tree in writable_trees()]
    for volume in volumes:
        around = next((tree for tree in trees if tree in PurePosixPath(volume).parents), None)
        if around is not None:
            raise ImageUnavailable(
                f"image {image} cannot be used: it declares VOLUME {volume}, which is inside of {around}, a tree that "
                "every reset brings back; build it without that VOLUME"
            )


__all__ = ["check_volumes"]

"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantsim.errors import ConfigurationError
from quantsim.export.chip.manifest import ChipManifest

__all__ = ["require_place", "staging_folder"]


def require_place(target: Path, *, overwrite: bool) -> None:
    """Refuses to write where something else is.

    Args:
        target: The folder to write.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        ConfigurationError: It is a file, or holds other things than an export; or an export, without ``overwrite``.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if target.is_file():
        raise ConfigurationError("this is a file", where="nn2chip(folder)", got=str(target), expected="a folder")
    if not ChipManifest.is_in(target):
        raise ConfigurationError(
            "the folder holds other things than an export",
            where="nn2chip(folder)",
            got=str(target),
            expected="a new folder, an empty one, or one that nn2chip wrote",
            fix="choose another",
        )
    if not overwrite:
        raise ConfigurationError(
            "there is an export already",
            where="nn2chip(folder)",
            got=str(target),
            expected="a new folder",
            fix="choose another, or pass overwrite=True",
        )


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A folder beside the one meant, which takes its place if all goes well, and is removed if not.

    Args:
        target: The folder meant; if it exists, it is kept until the new one is complete.
    """
    # Where a link leads: a folder is renamed to there, never over the link.
    place = Path(os.path.realpath(target))
    place.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        yield staging
        mask = os.umask(0)
        os.umask(mask)
        staging.chmod(0o777 & ~mask)
        if place.exists():
            earlier = staging.with_name(f"{staging.name}.earlier")
            os.rename(place, earlier)
            try:
                os.rename(staging, place)
            except BaseException:
                os.rename(earlier, place)
                raise
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            os.rename(staging, place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)

"""A directory that goes in one step: who looks sees it whole or not at all, whenever its removal breaks off."""

from __future__ import annotations

import os
import shutil

from osremed.core.files import fsync_directory

#: Before the name of what is being removed: from there on it is nothing any more.
_GONE = ".gone-"


def remove_whole(directory: str, name: str) -> None:
    """The directory `name` in `directory`, gone; killed in the midst of it, `sweep` does the rest."""
    gone = os.path.join(directory, f"{_GONE}{name}")
    os.rename(os.path.join(directory, name), gone)
    fsync_directory(directory)
    shutil.rmtree(gone)


def sweep(directory: str) -> None:
    """What is left of removals that broke off, gone."""
    for name in os.listdir(directory):
        if name.startswith(_GONE):
            shutil.rmtree(os.path.join(directory, name))

"""A driver that says what a scenario says: builds `fakenvml.c` with cc as libnvidia-ml.so.1."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fakenvml.c")


def build(directory: Path) -> Path:
    """The path of the library. FileNotFoundError without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError(2, "no C compiler", "cc")
    library = directory / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"]
    subprocess.run([compiler, *flags, "-Wl,-soname,libnvidia-ml.so.1", "-o", library, SOURCE], check=True, timeout=60)
    return library


class Scenario:
    """The state the fake driver tells. `set` replaces the whole file, so that no call sees half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state: dict[str, object] = {}
        self._write()

    def set(self, **state: object) -> None:
        """Keys spell `.` as `__` and `*` as `all`: `g0__temp=90` is GPU 0, `all__temp=50` every GPU."""
        for key, value in state.items():
            name = key.replace("__", ".")
            name = name[1:] if name[:1] == "g" and name[1:2].isdigit() else name
            name = "*" + name[3:] if name.startswith("all.") else name
            self._state.pop(name, None)
            if value is not None:
                self._state[name] = value
        self._write()

    def event(self, index: int, data: int, *, kind: int = 8, mig: tuple[int, int] | None = None) -> None:
        words = [index, kind, data, *(mig or ())]
        with open(f"{self.path}.events", "a", encoding="ascii") as file:
            file.write(" ".join(str(word) for word in words) + "\n")

    def _write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(f"{key} {value}\n" for key, value in self._state.items()), encoding="utf-8")
        os.replace(temporary, self.path)

"""The table of offsets against the headers of every CPython that is installed here, compiled."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sysconfig

import pytest

from osremed.sensors import cpython

PROGRAM = """
#include <Python.h>
#include <stddef.h>
#include <stdio.h>
int main(void) {
  printf("%zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu\\n",
    sizeof(PyTypeObject) >= 408 ? (size_t)408 : sizeof(PyTypeObject),
    offsetof(PyTypeObject, tp_name), offsetof(PyTypeObject, tp_basicsize), offsetof(PyTypeObject, tp_itemsize),
    offsetof(PyTypeObject, tp_flags), offsetof(PyTypeObject, tp_base), offsetof(PyTypeObject, tp_dict),
    offsetof(PyTypeObject, tp_dictoffset), offsetof(PyHeapTypeObject, ht_cached_keys),
    sizeof(PyASCIIObject), sizeof(PyCompactUnicodeObject), offsetof(PyDictObject, ma_keys),
    offsetof(PyDictObject, ma_values), offsetof(PyListObject, allocated));
  return 0;
}
"""


def header_folders() -> dict[str, str]:
    """release -> include folder, of the running interpreter and of pyenv's."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    own = sysconfig.get_path("include")
    folders = [own, *glob.glob(f"{root}/versions/3.*/include/python3.*")]
    return {os.path.basename(one)[len("python") :]: one for one in folders if os.path.exists(f"{one}/Python.h")}


@pytest.mark.parametrize("layout", cpython.LAYOUTS.values(), ids=lambda one: "{}.{}".format(*one.version))
def test_offsets_are_those_of_the_release(layout, tmp_path):
    release = "{}.{}".format(*layout.version)
    folder = header_folders().get(release)
    if shutil.which("gcc") is None or folder is None:
        pytest.skip(f"no gcc, or no headers of CPython {release}")
    source = tmp_path / "offsets.c"
    source.write_text(PROGRAM)
    program = str(tmp_path / "offsets")
    subprocess.run(["gcc", f"-I{folder}", "-o", program, str(source)], check=True)
    told = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    own = [layout.cached_keys_at, layout.ascii_header, layout.compact_header]
    assert [int(word) for word in told] == [cpython.TYPE_BYTES, 24, 32, 40, 168, 256, 264, 288, *own, 32, 40, 32]

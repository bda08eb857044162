"""Libraries with the calls of CUDA, NCCL and PyTorch's caching allocator: builds `fakecuda.c` with cc."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fakecuda.c")
MALLOC = "_ZN3c104cuda20CUDACachingAllocator6Native6mallocEm"
FREE = "_ZN3c104cuda20CUDACachingAllocator6Native4freeEm"
#: name -> (what of the source, the libraries it calls)
_LIBRARIES = {
    "libcuda.so.1": ("DRIVER", ()),
    "libcudart.so.12": ("RUNTIME", ("libcuda.so.1",)),
    "libnccl.so.2": ("NCCL", ("libcudart.so.12",)),
    "libc10_cuda.so": ("ALLOCATOR", ("libcudart.so.12",)),
}


def build(directory: Path) -> Path:
    """The directory, with all of them. FileNotFoundError without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError(2, "no C compiler", "cc")
    for name, (part, needs) in _LIBRARIES.items():
        flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-D{part}", f"-Wl,-soname,{name}"]
        libraries = [directory / each for each in needs]
        words: list[str | Path] = [compiler, *flags, "-o", directory / name, SOURCE, *libraries, "-Wl,-rpath,$ORIGIN"]
        subprocess.run(words, check=True, timeout=60)
    return directory

"""Stacks of code without frame pointers, unwound by the tables of its files."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import pytest

from osremed.hotspot.kernelsymbols import VDSO, keep_vdso, vdso_path
from osremed.hotspot.model import Profile, Sample
from osremed.hotspot.unwind import MADE, make_table, table_path
from osremed.sensors import elf

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")]
LIBRARIES = 60

#: No round is as long as another: work in step with the sampler would show it always the same function.
NATIVE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
volatile unsigned long sink;
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
__attribute__((noinline)) void leaf(long n) { for (long i = 0; i < n; i++) sink += i * i; }
__attribute__((noinline)) void heavy(long n) { leaf(3 * n); sink++; }
__attribute__((noinline)) void light(long n) { leaf(n); sink++; }
int main(int c, char **v) {
    double a = 0, b = 0, end = atof(v[1]);
    while (now() < end) {
        double t = now(), u;
        long n = 300000 + random() % 1400000;
        heavy(n); u = now(); light(n);
        a += u - t; b += now() - u;
    }
    printf("%f %f\n", a / (a + b), b / (a + b));
    return c - 2;
}
"""

#: A stack of 150 frames that ends where the kernel tells the time, in a program of many libraries. The first of them
#: calls back and has no build id.
DEEP = r"""
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
volatile long sink;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
__attribute__((noinline)) void ask(double until) { while (now() < until) sink++; }
__attribute__((noinline)) void descend(int depth, double until) {
    if (depth) descend(depth - 1, until); else ask(until);
    sink++;
}
int main(int c, char **v) {
    for (int i = 3; i < c; i++) if (!dlopen(v[i], RTLD_NOW)) return 1;
    void (*through)(void (*)(int, double), int, double) = dlsym(dlopen(v[2], RTLD_NOW), "through");
    through(descend, 150, now() + atof(v[1]));
    sink++;
    return 0;
}
"""
THROUGH = r"""
volatile long sink;
void through(void (*f)(int, double), int depth, double until) { f(depth, until); sink++; }
"""
#: Work in code without unwind rows, as of a Go program or of hand-written code: it keeps frame pointers.
WORK = r"""
volatile unsigned long sink;
__attribute__((noinline)) void leaf(long n) { for (long i = 0; i < n; i++) sink += i * i; }
__attribute__((noinline)) void middle(long n) { leaf(n); sink++; }
__attribute__((noinline)) void outer(long n) { middle(n); sink++; }
__attribute__((noinline)) void work(void) { for (int i = 0; i < 3000; i++) outer(1000000); sink++; }
"""
ALONE = r"""
void work(void);
void _start(void) { work(); for (;;) __asm__ volatile("syscall" :: "a"(60), "D"(0) : "rcx", "r11", "memory"); }
"""
CALLER = "void work(void);\nvolatile int sunk;\nint main(void) { work(); return sunk; }\n"
WITHOUT_ROWS = ("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-omit-frame-pointer")


def compiled(folder: Path, name: str, source: str, *options: str) -> Path:
    (folder / f"{name}.c").write_text(source)
    words = ["gcc", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", *options, "-o", name, f"{name}.c"]
    subprocess.run(words, check=True, cwd=folder)
    return folder / name


def make_tables(prefix: Path, program: Path, *libraries: Path) -> None:
    """As of an earlier start of the recorder: making them is a niced child's work, and takes its time."""
    directory = prefix / "var/lib/osremed/hotspot"
    directory.mkdir(parents=True)
    linked = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    vdso = vdso_path(str(directory), keep_vdso(str(directory)))
    for path in [str(program), vdso, *map(str, libraries), *(word for word in linked.split() if word.startswith("/"))]:
        with open(path, "rb", buffering=0) as stream:
            build_id = elf.identity(stream.fileno(), elf.read_elf(stream.fileno(), path).value)
        assert make_table((path,), build_id, table_path(str(directory), build_id)) == MADE


def unwound(profile: Profile, name: str) -> tuple[list[Sample], list[Sample]]:
    """Samples that reach the root, and all since the first of them: before, the recorder had not met the program."""
    own = [each for each in profile.samples if each.process == name and each.state == "cpu"]
    whole = [each for each in own if each.stack[0].name == "_start"]
    later = [each for each in own if whole and each.at_ns >= whole[0].at_ns and each.stack[0].kind != "kernel"]
    return whole, later


def test_c_without_frame_pointers_is_unwound_to_its_root(record, prefix: Path, tmp_path: Path) -> None:
    program = compiled(tmp_path, "native", NATIVE)
    make_tables(prefix, program)
    profile, printed = record([str(program), "6"])
    heavy = float(printed.split()[0])
    whole, later = unwound(profile, "native")
    assert len(whole) >= 50
    assert len(whole) >= 0.99 * len(later)
    share = sum(any(part.name == "heavy" for part in each.stack) for each in whole) / len(whole)
    assert abs(share - heavy) <= 3 * math.sqrt(heavy * (1 - heavy) / len(whole)) + 0.02


def test_a_deep_stack_in_a_program_of_many_libraries_that_asks_for_the_time_reaches_its_root(
    record, prefix: Path, tmp_path: Path
) -> None:
    program = compiled(tmp_path, "deep", DEEP)
    shared = ("-shared", "-fPIC")
    bare = compiled(tmp_path, "bare", THROUGH, *shared, "-Wl,--build-id=none")
    first = compiled(tmp_path, "library", "int answer(void) { return 42; }", *shared)
    libraries = [Path(shutil.copy(first, tmp_path / f"library{number}.so")) for number in range(LIBRARIES)]
    make_tables(prefix, program, bare, first)
    profile, _ = record([str(program), "6", str(bare), *map(str, libraries)])
    whole, later = unwound(profile, "deep")
    assert len(whole) >= 50
    assert len(whole) >= 0.99 * len(later)
    assert all(sum(part.name == "through" for part in each.stack) == 1 for each in whole)
    assert all(sum(part.name == "descend" for part in each.stack) == 151 for each in whole)
    leaves = {part.name for each in whole for part in each.stack if part.file == VDSO}
    assert any(name.endswith("clock_gettime") for name in leaves), leaves


@pytest.mark.parametrize("alone", [True, False], ids=["no-rows-at-all", "rows-of-the-caller-alone"])
def test_code_without_unwind_rows_keeps_its_frame_pointers(record, prefix: Path, tmp_path: Path, alone: bool) -> None:
    compiled(tmp_path, "work.o", WORK, "-c", *WITHOUT_ROWS)
    if alone:
        program = compiled(tmp_path, "rowless", ALONE, "work.o", "-static", "-nostdlib", *WITHOUT_ROWS)
        make_tables(prefix, Path("/bin/true"))  # the kernel's own code has rows in any process
    else:
        program = compiled(tmp_path, "rowless", CALLER, "work.o", "-fno-omit-frame-pointer")
        make_tables(prefix, program)
    profile, _ = record([str(program)])
    own = [each for each in profile.samples if each.process == "rowless" and each.state == "cpu"]
    own = [each for each in own if any(part.name == "leaf" for part in each.stack)]
    assert len(own) >= 50
    calls = [[part.name for part in each.stack if part.name in ("work", "outer", "middle")] for each in own]
    assert sum("work" in each for each in calls) >= 0.97 * len(own), calls[-1]

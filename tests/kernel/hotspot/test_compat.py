"""Programs of another width: their calls have other numbers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")]

#: nanosleep is 162 there, which is another call in a 64-bit program
SLEEPS = """
static long call(long number, void *first) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(0) : "memory");
    return result;
}
void main(void) {
    struct { long s, ns; } wait = {0, 2000000};
    for (int at = 0; at < 200; at++) call(162, &wait);
    call(1, 0);
}
"""


def test_calls_of_a_32_bit_program_are_not_told_by_the_names_of_64_bit_ones(record, tmp_path: Path) -> None:
    (tmp_path / "sleeps.c").write_text(SLEEPS)
    words = [
        "gcc",
        "-m32",
        "-w",
        "-nostdlib",
        "-static",
        "-fno-pie",
        "-no-pie",
        "-e",
        "main",
        "-o",
        "sleeps32",
        "sleeps.c",
    ]
    if subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("this compiler makes no 32-bit programs")
    try:
        subprocess.run([str(tmp_path / "sleeps32")], check=True)
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs")
    profile, _ = record([str(tmp_path / "sleeps32")])
    (waits,) = [each for each in profile.blocked if each.process == "sleeps32"]
    assert waits.syscall == "32-bit syscall 162"
    assert waits.count >= 190

"""Code that a run time has made: Java and JavaScript functions by the maps their run times write for perf."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.hotspot.test_recording import shares

pytestmark = pytest.mark.kernel
_WORD = re.compile(r"[^A-Za-z]+")

JAVA = """
import java.lang.management.*;
public class Burn {
  static volatile long sink;
  static long spin(long n) { long t = 0; for (long i = 0; i < n; i++) t += i * i % 7; return t; }
  static void heavy() { sink += spin(3000000); }
  static void light() { sink += spin(1000000); }
  public static void main(String[] words) {
    ThreadMXBean clock = ManagementFactory.getThreadMXBean();
    long end = clock.getCurrentThreadCpuTime() + Long.parseLong(words[0]) * 1000000000L, a = 0, b = 0, t, u;
    while ((t = clock.getCurrentThreadCpuTime()) < end) {
      heavy(); u = clock.getCurrentThreadCpuTime(); a += u - t;
      light(); b += clock.getCurrentThreadCpuTime() - u;
    }
    long pid = ProcessHandle.current().pid();
    System.out.println("{\\"pid\\": " + pid + ", \\"heavy\\": " + a + ", \\"light\\": " + b + "}");
  }
}
"""
NODE = """
let sink = 0;
function spin(n) { let t = 0; for (let i = 0; i < n; i++) t += i * i % 7; return t; }
function heavy() { sink += spin(3e6); }
function light() { sink += spin(1e6); }
const now = () => { const used = process.cpuUsage(); return used.user + used.system; };
let a = 0, b = 0, t, end = now() + 1e6 * Number(process.argv[2]);
while ((t = now()) < end) { heavy(); const u = now(); a += u - t; light(); b += now() - u; }
console.log(JSON.stringify({pid: process.pid, heavy: a, light: b}));
"""


def check(profile, printed: str) -> None:
    """The two functions have their share of the samples of what they called; what was still being compiled has no name
    yet."""
    truth = json.loads(printed)
    try:
        found, own = shares(profile, truth["pid"])
        weight = {name: sum(share for each, share in found.items() if name in _WORD.split(each))
                  for name in ("heavy", "light")}  # fmt: skip
        both = sum(weight.values())
        assert len(own) >= 100
        assert both >= 0.8, sorted(found.items(), key=lambda each: -each[1])[:12]
        expected = truth["heavy"] / (truth["heavy"] + truth["light"])
        error = math.sqrt(expected * (1 - expected) / (len(own) * both))
        assert abs(weight["heavy"] / both - expected) <= 3 * error + 0.02
    finally:
        Path(f"/tmp/perf-{truth['pid']}.map").unlink(missing_ok=True)


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java compiler")
def test_java_methods_have_their_share(record, tmp_path: Path) -> None:
    (tmp_path / "Burn.java").write_text(JAVA)
    subprocess.run(["javac", "-d", tmp_path, tmp_path / "Burn.java"], check=True, capture_output=True)
    flags = ["-Xcomp", "-XX:+PreserveFramePointer", "-XX:+UnlockDiagnosticVMOptions", "-XX:+DumpPerfMapAtExit"]
    whole = [f"-XX:CompileCommand={each}" for each in ("quiet", "compileonly,Burn.*", "dontinline,Burn.*")]
    profile, printed = record(["java", *flags, *whole, "-cp", str(tmp_path), "Burn", "8"])
    check(profile, printed)


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")
def test_javascript_functions_have_their_share(record, tmp_path: Path) -> None:
    script = tmp_path / "burn.js"
    script.write_text(NODE)
    log = ["--no-logfile-per-isolate", f"--logfile={tmp_path}/v8.log"]
    flags = ["--perf-basic-prof", "--interpreted-frames-native-stack", "--no-turbo-inlining"]
    profile, printed = record(["node", *log, *flags, str(script), "8"])
    check(profile, printed)

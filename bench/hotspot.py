"""What recording costs: the same fixed work with and without the recorder, in turn; then with its peers.

CPU seconds of the work are compared, not wall time: what BPF programs do is billed to the task they interrupt, and a
busy neighbour makes a wall clock useless. Each pair is one off and one on, in random order; the median of the ratios
counts, with the middle half of them as spread. Beside it stands what the recorder itself used: CPU time, BPF run time
and resident memory.

    sudo .venv/bin/python bench/hotspot.py [--pairs 7] [--seconds 6] [--only redis,pipe] [--peers [--peer-pairs 3]]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from figures import tell

#: Loads of nothing but switches: there the governor decides, so osremed is also asked as it ships, from when it has had
#: some rounds to see what is going on, over as long as it takes to try a level up again.
STORMS = {"pipe": (3, 5)}  #: load -> rounds before, rounds measured
REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICKS = os.sysconf("SC_CLK_TCK")
#: Both ends on one CPU: every byte is a switch, wherever the scheduler would have put them.
PIPE = """
import os, sys
os.sched_setaffinity(0, {0})
a, b = os.pipe(), os.pipe()
if os.fork() == 0:
    for _ in range(int(sys.argv[1])): os.read(a[0], 1); os.write(b[1], b"x")
    os._exit(0)
for _ in range(int(sys.argv[1])): os.write(a[1], b"x"); os.read(b[0], 1)
os.wait()
"""
BURN = "for _ in range(int(__import__('sys').argv[1])): sum(each * each for each in range(1000))"
SERVE = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True  # else each answer waits 40 ms and burns nothing
    def do_GET(self):
        body = json.dumps([sum(range(200)) for _ in range(20)]).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
import sys
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
ASK = """
import http.client, sys
client = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for _ in range(int(sys.argv[2])): client.request("GET", "/"); client.getresponse().read()
"""
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error;
events {{}}
http {{ access_log off; keepalive_requests 10000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello"; }} }} }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: nothing within 30 s")
        time.sleep(0.05)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_of(pids: list[int]) -> float:
    """CPU seconds of processes that go on, by their statistics."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            total += sum(map(int, stream.read().rsplit(")", 1)[1].split()[11:13]))
    return total / TICKS


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
        return [int(each) for each in stream.read().split()]


class Load:
    """Fixed work: a command, and the server it talks to, if any. `amount` is scaled to take some seconds."""

    def __init__(
        self, name: str, command: Callable[[int], list[str]], amount: int, server: list[str] | None = None
    ) -> None:
        self.name, self.command, self.amount, self.server = name, command, amount, server
        self.pids: list[int] = []

    @contextlib.contextmanager
    def serving(self, port: int) -> Iterator[None]:
        if self.server is None:
            yield
            return
        with subprocess.Popen(self.server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                wait_for(lambda: answers(port), self.name)
                self.pids = [server.pid, *children_of(server.pid)]
                yield
            finally:
                server.terminate()

    def run(self) -> float:
        """CPU seconds of one round of the work."""
        before, served = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_of(self.pids)
        subprocess.run(self.command(self.amount), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return own + cpu_of(self.pids) - served

    def scale(self, seconds: float) -> None:
        self.run()
        self.amount = max(1, round(self.amount * seconds / max(self.run(), 0.05)))


def loads(folder: str, port: int) -> list[Load]:
    python, found = sys.executable, []
    with open(os.path.join(folder, "nginx.conf"), "w", encoding="ascii") as stream:
        stream.write(NGINX.format(folder=folder, port=port))
    found.append(Load("dd", lambda n: ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", f"count={n}"], 500_000))
    found.append(Load("pipe", lambda n: [python, "-c", PIPE, str(n)], 50_000))
    found.append(Load("burner", lambda n: [python, "-c", BURN, str(n)], 5_000))
    if shutil.which("redis-server"):
        server = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
        ask = ["redis-benchmark", "-p", str(port), "-c", "20", "-t", "get,set", "-q"]
        found.append(Load("redis", lambda n: [*ask, "-n", str(n)], 20_000, server))
    if shutil.which("nginx"):
        conf = ["nginx", "-p", folder, "-c", os.path.join(folder, "nginx.conf")]
        found.append(Load("nginx", lambda n: [python, "-c", ASK, str(port), str(n)], 3_000, conf))
    server = [python, "-c", SERVE, str(port)]
    found.append(Load("python service", lambda n: [python, "-c", ASK, str(port), str(n)], 1_000, server))
    return found


class Recorder:
    """osremed, with a ring of its own that stays from round to round, as on a host."""

    def __init__(self, folder: str, ceiling: str) -> None:
        self.ceiling, self.environment = ceiling, dict(os.environ, OSREMED_PREFIX=folder)
        self.status_path = os.path.join(folder, "run/osremed/hotspot.json")
        self.said_path = folder + ".said"
        self.last: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, _pids: list[int]) -> Iterator[None]:
        command = [sys.executable, "-m", "osremed", "hotspot", "run", "--ceiling", self.ceiling, "--segment", "2s"]
        with (
            open(self.said_path, "wb") as said,
            subprocess.Popen(command, env=self.environment, cwd=REPOSITORY, stdout=said, stderr=said) as recorder,
        ):
            try:
                wait_for(lambda: os.path.exists(self.status_path) or recorder.poll() is not None, "osremed hotspot run")
                if recorder.poll() is not None:
                    with open(self.said_path, encoding="utf-8") as text:
                        raise SystemExit(f"the recorder ended: {text.read()}")
                yield
                with open(self.status_path, encoding="utf-8") as stream:
                    self.last = self._figures(json.load(stream))
            finally:
                recorder.terminate()

    @staticmethod
    def _figures(status: dict) -> dict[str, float]:  # type: ignore[type-arg]
        cost = status["cost"]
        wall_s = max(cost["wall_s"], 1e-9)
        return {
            "own_percent_of_a_core": 100 * cost["own_s"] / wall_s,
            "bpf_percent_of_a_core": 100 * cost["bpf_s"] / wall_s,
            "rss_mb": status["rss_bytes"] / 1e6,
        }


@contextlib.contextmanager
def peer(command: list[str], lead_s: float) -> Iterator[None]:
    """Another profiler beside the work. SystemExit when it ends by itself: then there is nothing to compare with."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(lead_s)
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} does not run here")
            yield
        finally:
            process.send_signal(2)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def peers(folder: str) -> dict[str, Callable[[list[int]], contextlib.AbstractContextManager[None]]]:
    """Those that are installed: samples of all CPUs, every switch in the kernel, and one Python process."""
    found: dict[str, Callable[[list[int]], contextlib.AbstractContextManager[None]]] = {}
    if shutil.which("perf"):
        words = ["perf", "record", "-q", "-F", "99", "-a", "-g", "-o", os.path.join(folder, "perf.data")]
        found["perf record"] = lambda _: peer(words, 2)
    if shutil.which("offcputime"):
        found["offcputime of libbpf-tools"] = lambda _: peer(["offcputime"], 2)
    if shutil.which("py-spy"):
        spy = ["py-spy", "record", "-r", "99", "-d", "600", "-f", "raw", "-o", "/dev/null", "-p"]
        found["py-spy"] = lambda pids: peer([*spy, *map(str, pids[:1])], 2)
    return found


def compare(
    load: Load,
    with_it: Callable[[list[int]], contextlib.AbstractContextManager[None]],
    pairs: int,
    before: int = 0,
    rounds: int = 1,
) -> list[float]:
    """Percent more CPU for the same work, of each pair: `rounds` of it, after some that do not count."""
    ratios = []
    for _ in range(pairs):
        figures = {}
        for state in random.sample(("off", "on"), 2):
            with with_it(load.pids) if state == "on" else contextlib.nullcontext():
                for _ in range(before):
                    load.run()
                figures[state] = sum(load.run() for _ in range(rounds))
        ratios.append(100 * (figures["on"] / figures["off"] - 1))
    return ratios


def said(ratios: list[float]) -> str:
    """`median of the ratios (middle half, n pairs)`."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (*ratios, *ratios, *ratios)
    return f"{middle:+6.2f} % ({low:+.2f} to {high:+.2f}, {len(ratios)} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0, help="CPU time of a round of work")
    parser.add_argument("--only", default="", help="names of loads, with commas")
    parser.add_argument("--peers", action="store_true", help="also perf record, offcputime, py-spy, as installed")
    parser.add_argument("--peer-pairs", type=int, default=3, help="they cost more, so fewer pairs show it")
    options = parser.parse_args()
    wanted = [each for each in options.only.split(",") if each]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # nginx's worker is somebody else
        port = free_port()
        recorder = Recorder(os.path.join(folder, "prefix"), "90%")
        shipped = Recorder(os.path.join(folder, "shipped"), "1%")
        for load in loads(folder, port):
            if wanted and load.name not in wanted:
                continue
            with load.serving(port):
                load.scale(options.seconds)
                found = {}
                if load.name in STORMS:
                    found["osremed"] = compare(load, shipped, options.pairs, *STORMS[load.name])
                    print(f"{load.name:15} {'as shipped':15} {said(found['osremed'])}", flush=True)
                ours = "osremed without its governor" if found else "osremed"
                found[ours] = compare(load, recorder, options.pairs)
                print(f"{load.name:15} {ours:15} {said(found[ours])}", end="  ")
                print(", ".join(f"{name} {value:.2f}" for name, value in recorder.last.items()), flush=True)
                others = {"nothing": lambda _: contextlib.nullcontext(), **(peers(folder) if options.peers else {})}
                for name, start in others.items():
                    try:
                        found[name] = compare(load, start, options.pairs if name == "nothing" else options.peer_pairs)
                        print(f"{load.name:15} {name:15} {said(found[name])}", flush=True)
                    except SystemExit as error:
                        print(f"{load.name:15} {name:15} {error}", flush=True)
                tell(f"more CPU for the same work, {load.name}", "%", found, {"": 3.0 if load.name == "pipe" else 1.0})


if __name__ == "__main__":
    main()

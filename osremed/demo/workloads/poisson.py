"""poisson.py PORT RATE_PER_S SEED FILE: requests that come as people do, at random and without waiting for each other.

Each line of FILE is one of them: when it was due (seconds since the epoch), how long it took in ms from then on, and
its status (0: none).
"""

import http.client
import random
import sys
import threading
import time
import typing

ASKERS = 24
TIMEOUT_S = 10


class Arrivals:
    """The times at which requests are due, one for each caller of `due`."""

    def __init__(self, rate_per_s: float, seed: int) -> None:
        self.rate_per_s, self.random, self.lock, self.next_s = (
            rate_per_s,
            random.Random(seed),
            threading.Lock(),
            time.time(),
        )

    def due(self) -> float:
        with self.lock:
            self.next_s += self.random.expovariate(self.rate_per_s)
            return self.next_s


def ask(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def go_on(port: int, arrivals: Arrivals, stream: typing.TextIO) -> None:
    while True:
        due_s = arrivals.due()
        time.sleep(max(0.0, due_s - time.time()))
        status = ask(port)
        stream.write(f"{due_s:.6f} {1000 * (time.time() - due_s):.3f} {status}\n")


def main() -> None:
    port, rate_per_s, seed, path = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with open("/proc/self/comm", "w") as comm:
        comm.write("customers")
    arrivals = Arrivals(rate_per_s, seed)
    with open(path, "a", buffering=1) as stream:
        threads = [threading.Thread(target=go_on, args=(port, arrivals, stream), daemon=True) for _ in range(ASKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


main()

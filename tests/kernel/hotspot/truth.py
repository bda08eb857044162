"""Programs that say how their time was spent: `cpu SECONDS` or `lock SECONDS`. Printed as JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
import time


def alpha(count):
    total = 0
    for each in range(count):
        total += each * each
    return total


def beta(count):
    total = 0
    for each in range(count):
        total ^= each
    return total


def cpu(seconds):
    spent = {"alpha": 0.0, "beta": 0.0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for function, count in ((alpha, 60000), (beta, 20000)):
            began = time.thread_time()
            function(count // 2 + time.monotonic_ns() % count)  # never in step with the sampler
            spent[function.__name__] += time.thread_time() - began
    return {"pid": os.getpid(), **spent, "all": time.thread_time()}


def lock(seconds):
    held, waited = threading.Lock(), [0.0] * 3
    end = time.monotonic() + seconds

    def contend(number):
        while time.monotonic() < end:
            began = time.monotonic()
            with held:
                waited[number] += time.monotonic() - began
                time.sleep(0.008)
            time.sleep(0.002)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    return {"pid": os.getpid(), "waited_s": sum(waited), "joined_s": time.monotonic() - began}


if __name__ == "__main__":
    print(json.dumps({"cpu": cpu, "lock": lock}[sys.argv[1]](float(sys.argv[2]))))

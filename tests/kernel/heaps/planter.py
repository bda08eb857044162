"""A CPython program with a heap of known content. Runs on 3.9 and later; prints one line of JSON, then obeys lines of
input: `grow N`, `gap` (longest time its own clock thread stood still since the last `gap`, in ms), `exec`."""

import abc
import collections
import functools
import gc
import json
import os
import sys
import threading
import time


class Session:
    def __init__(self, number):
        self.user = f"user-{number}"
        self.number = number
        self.tags = [number]


class Slotted:
    __slots__ = ("held", "next")

    def __init__(self, number):
        self.held = number
        self.next = None


class Point(tuple):
    __slots__ = ()


class Interface(abc.ABC):  # noqa: B024
    pass


class Refers:
    """Its first attribute is a class: from 3.13 on the words behind it look like an instance of that class."""

    def __init__(self):
        self.kind = Session


class Registry:
    sessions = {}  # noqa: RUF012 - shared by all, as leaks are


class Shop:
    def __init__(self):
        self.basket = Basket()


class Basket:
    __slots__ = ("items",)

    def __init__(self):
        self.items = []


@functools.cache
def cached(number):
    return ("answer", number)


N = int(sys.argv[1])
CACHE = {}
QUEUE = collections.deque()
SEEN = set()
shop = Shop()
for i in range(N):
    Registry.sessions[i] = Session(i)
    CACHE[f"key-{i}"] = Slotted(i)
for i in range(N // 2):
    shop.basket.items.append(Point((i, i + 1)))
    QUEUE.append(str(i).zfill(32).encode())
    SEEN.add(f"seen-{i}")
for i in range(N // 4):
    cached(i)
interfaces = [Interface() for _ in range(77)]
refers = [Refers() for _ in range(55)]
gone = [Session(i) for i in range(N)]
del gone

longest_gap = [0.0]


def leak():
    while True:
        for _ in range(100):
            Registry.sessions[len(Registry.sessions)] = Session(0)
        time.sleep(0.02)


def watch_own_stalls():
    last = time.monotonic()
    while True:
        time.sleep(0.0005)
        now = time.monotonic()
        longest_gap[0] = max(longest_gap[0], now - last)
        last = now


def bytes_of(kind):
    return sum(sys.getsizeof(one) for one in gc.get_objects() if type(one) is kind)


print(
    json.dumps(
        {
            "release": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "counts": {
                "Session": N,
                "Slotted": N,
                "Point": N // 2,
                "Interface": 77,
                "Refers": 55,
                "Basket": 1,
            },
            "bytes": {
                "Slotted": bytes_of(Slotted),
                "Point": bytes_of(Point),
                "dict": bytes_of(dict),
                "list": bytes_of(list),
            },
        }
    ),
    flush=True,
)
for line in sys.stdin:
    word, _, argument = line.strip().partition(" ")
    if word == "grow":
        for i in range(int(argument)):
            Registry.sessions[len(Registry.sessions)] = Session(i)
        print(len(Registry.sessions), flush=True)
    elif word == "watch":
        threading.Thread(target=watch_own_stalls, daemon=True).start()
        print("watching", flush=True)
    elif word == "gap":
        print(longest_gap[0] * 1000, flush=True)
        longest_gap[0] = 0.0
    elif word == "leak":
        threading.Thread(target=leak, daemon=True).start()
        print("leaking", flush=True)
    elif word == "exec":
        os.execv("/bin/sleep", ["sleep", "60"])

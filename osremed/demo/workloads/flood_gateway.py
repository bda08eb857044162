"""flood_gateway.py PORT CONFIG DEVICES: answers with how many devices are connected, as /proc/net/tcp has it.

It listens on loopback, then goes into a network namespace of its own, as a service does that systemd hands its socket
with PrivateNetwork. DEVICES devices are connected to it there, so the table is as long as they are many. CONFIG is JSON
and read again when it changes: `cache_s` above 0 counts once in so many seconds instead of in each request; `turbo` was
promised to do something and does nothing.
"""

import ctypes
import fcntl
import http.server
import json
import os
import resource
import socket
import struct
import sys
import threading
import time

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
TABLE = "/proc/net/tcp"
DEVICE_PORT = 9000
ESTABLISHED = b" 01 "


def count_devices() -> int:
    with open(TABLE, "rb") as stream:
        return stream.read().count(ESTABLISHED) // 2


class Devices:
    """How many there are: counted now, or at most `cache_s` ago by a thread that no request waits for."""

    def __init__(self, config: str) -> None:
        self.config, self.cache_s, self.seen, self.last = config, 0.0, (0, 0), 0
        self.wake = threading.Event()
        threading.Thread(target=self.keep_fresh, daemon=True).start()

    def reread(self) -> None:
        info = os.stat(self.config)
        if (info.st_ino, info.st_mtime_ns) != self.seen:
            self.seen = (info.st_ino, info.st_mtime_ns)
            with open(self.config, encoding="utf-8") as stream:
                self.cache_s = float(json.load(stream)["cache_s"])
            self.last = count_devices()
            self.wake.set()

    def count(self) -> int:
        self.reread()
        return self.last if self.cache_s else count_devices()

    def keep_fresh(self) -> None:
        while True:
            self.wake.wait()
            if not self.cache_s:
                self.wake.clear()
                continue
            time.sleep(self.cache_s)
            self.last = count_devices()


class Handler(http.server.BaseHTTPRequestHandler):
    devices: Devices

    def do_GET(self) -> None:
        body = b"%d devices\n" % self.devices.count()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        return


class Server(http.server.HTTPServer):
    """One request at a time, as an event loop does; who comes meanwhile waits."""

    request_queue_size = 512

    def handle_error(self, *_arguments: object) -> None:
        return  # a client that went away


def own_network() -> None:
    """This process is alone in a new network namespace, with loopback up."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        name = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(probe, SIOCGIFFLAGS, name))[1]
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def connect_devices(number: int) -> list[socket.socket]:
    """The service's ends; a child holds those of the devices, and ends when the service does."""
    listener = socket.create_server(("127.0.0.1", DEVICE_PORT), backlog=4096)
    if os.fork() == 0:
        with open("/proc/self/comm", "w") as comm:
            comm.write("ota-devices")
        theirs = [socket.create_connection(("127.0.0.1", DEVICE_PORT)) for _ in range(number)]
        theirs[0].recv(1)
        os._exit(0)
    return [listener.accept()[0] for _ in range(number)]


def main() -> None:
    port, config, number = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with open("/proc/self/comm", "w") as comm:
        comm.write("ota-gateway")
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 256, number + 256))
    server = Server(("127.0.0.1", port), Handler)
    own_network()
    ours = connect_devices(number)
    Handler.devices = Devices(config)
    Handler.devices.reread()
    assert len(ours) == number
    server.serve_forever()


main()

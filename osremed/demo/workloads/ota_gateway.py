"""ota_gateway.py PORT HEARTBEAT_FILE [SHARED_MIB]: a small HTTP service with a heartbeat.

The heartbeat wakes every 20 ms and keeps its longest gap in HEARTBEAT_FILE (milliseconds). With SHARED_MIB it also
fills so much shared memory, slowly at the end: memory that no other process's end can free.
"""

import http.server
import mmap
import os
import sys
import threading
import time

MIB = 1 << 20
PERIOD_S = 0.02


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"update 42 is ready\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        return


def heartbeat(path: str) -> None:
    longest_ms, beats, last = 0.0, 0, time.monotonic()
    while True:
        time.sleep(PERIOD_S)
        now = time.monotonic()
        longest_ms = max(longest_ms, (now - last - PERIOD_S) * 1000)
        last, beats = now, beats + 1
        if beats % 10 == 0:
            with open(path + ".tmp", "w") as stream:
                stream.write(f"{longest_ms:.1f} {beats}\n")
            os.rename(path + ".tmp", path)


def fill(shared_mib: int) -> None:
    memory = mmap.mmap(-1, shared_mib * MIB)  # MAP_SHARED | MAP_ANONYMOUS: charged as shmem
    for number in range(shared_mib):
        memory[number * MIB : (number + 1) * MIB] = b"\1" * MIB
        if number > shared_mib - 24:
            time.sleep(0.2)
    while True:
        time.sleep(60)
        memory[0] = 1


def main() -> None:
    port, heartbeat_path = int(sys.argv[1]), sys.argv[2]
    with open("/proc/self/comm", "w") as comm:
        comm.write("ota-gateway")
    threading.Thread(target=heartbeat, args=(heartbeat_path,), daemon=True).start()
    if len(sys.argv) > 3:
        threading.Thread(target=fill, args=(int(sys.argv[3]),), daemon=True).start()
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()

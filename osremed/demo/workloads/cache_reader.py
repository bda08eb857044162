"""cache_reader.py FILE MIB: writes FILE once, then reads it again and again: page cache that can be reclaimed."""

import os
import sys
import time

MIB = 1 << 20


def main() -> None:
    path, size_mib = sys.argv[1], int(sys.argv[2])
    with open("/proc/self/comm", "w") as comm:
        comm.write("map-reader")
    with open(path, "wb") as stream:
        stream.writelines(os.urandom(4096) * (MIB // 4096) for _ in range(size_mib))
        stream.flush()
        os.fsync(stream.fileno())
    with open(path, "rb") as stream:
        while True:
            if not stream.read(MIB):
                stream.seek(0)
            time.sleep(0.05)


main()

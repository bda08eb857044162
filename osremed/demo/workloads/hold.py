"""hold.py NAME HEAP_MIB [RATE_MIB_S [MAX_MIB]]: holds a private heap under the process name NAME, and lets it grow."""

import sys
import time

MIB = 1 << 20
PAGE = 4096


def touched(size_bytes: int) -> bytearray:
    block = bytearray(size_bytes)
    for offset in range(0, size_bytes, PAGE):
        block[offset] = 1
    return block


def main() -> None:
    name, heap_mib = sys.argv[1], int(sys.argv[2])
    rate_mib_s = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    max_mib = int(sys.argv[4]) if len(sys.argv) > 4 else heap_mib
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    blocks = [touched(MIB) for _ in range(heap_mib)]
    while True:
        if rate_mib_s and len(blocks) < max_mib:
            blocks.append(touched(MIB))
            time.sleep(1 / rate_mib_s)
        else:
            time.sleep(1)


main()

"""vram_witness.py FILE EVERY_S: the used memory of each GPU as NVIDIA's own binding reads it, a line of JSON each time.

Needs nvidia-ml-py. It knows nothing of osremed: what the story says of the memory is held against it.
"""

import json
import sys
import time

import pynvml

pynvml.nvmlInit()
handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
with open(sys.argv[1], "a") as stream:
    while True:
        used = [pynvml.nvmlDeviceGetMemoryInfo(handle).used for handle in handles]
        stream.write(json.dumps({"at_ns": time.time_ns(), "used_bytes": used}) + "\n")
        stream.flush()
        time.sleep(float(sys.argv[2]))

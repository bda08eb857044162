"""What a piece of work costs, in a process that has run thousands of tests before."""

import gc
import time


def cpu_s(work):
    """CPU seconds of `work()`, the garbage collector off: one walk of it over what other tests have left costs more
    than what is measured."""
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        work()
        return time.process_time() - began
    finally:
        gc.enable()

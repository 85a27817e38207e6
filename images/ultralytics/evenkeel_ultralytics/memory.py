"""Memory of a device, as its limit counts it."""

import os
import threading
import time
from contextlib import contextmanager

import torch

# Seconds between two looks at the data segment. A layer of a network takes longer.
LOOK = 0.001


class Peak:
    """The most memory while it was watched."""

    bytes = 0


class CudaMemory:
    """What torch's allocator holds of a GPU."""

    def __init__(self, device):
        self.device = device

    def context(self):
        free, total = torch.cuda.mem_get_info(self.device)
        return max(0, total - free - torch.cuda.memory_reserved(self.device))

    @contextmanager
    def watch(self):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        peak = Peak()
        yield peak
        peak.bytes = torch.cuda.max_memory_reserved(self.device)


class DataSegment:
    """This process's data segment. The kernel keeps no peak of it, so a thread looks often."""

    PAGE = os.sysconf("SC_PAGE_SIZE")

    def __init__(self):
        self.file = os.open("/proc/self/statm", os.O_RDONLY)

    def context(self):
        # It is in the peaks.
        return 0

    def now(self):
        return int(os.pread(self.file, 128, 0).split()[5]) * self.PAGE

    def look(self, peak, over):
        while not over.is_set():
            peak.bytes = max(peak.bytes, self.now())
            time.sleep(LOOK)

    def always(self):
        """The peak from here on, to the process's end."""
        peak = Peak()
        threading.Thread(target=self.look, args=(peak, threading.Event()), daemon=True).start()
        return peak

    @contextmanager
    def watch(self):
        peak, over = Peak(), threading.Event()
        thread = threading.Thread(target=self.look, args=(peak, over), daemon=True)
        thread.start()
        try:
            yield peak
        finally:
            over.set()
            thread.join()
        peak.bytes = max(peak.bytes, self.now())

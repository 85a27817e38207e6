"""What an exception means: the failure classes of the record."""

import resource
import traceback

from .data import DataError
from .job import JobError


class Diverged(Exception):
    """The loss or the fitness is not finite."""


# By what a message holds, in this order: torch raises most of these as plain RuntimeErrors.
PHRASES = (
    ("shared_memory", ("bus error", "shared memory", "/dev/shm", "/torch_")),
    ("out_of_memory.device", ("out of memory", "can't allocate memory", "could not create a primitive", "cublas_status_alloc_failed")),
    ("stalled", ("dataloader timed out",)),
    ("device_lost", ("gpu is lost", "fallen off the bus", "no cuda-capable device")),
    ("collective", ("nccl", "gloo", "connection closed by peer", "connection reset by peer", "c10d", "tcpstore", "process group")),
    ("infrastructure", ("no space left on device", "read-only file system", "input/output error", "disk quota exceeded")),
    ("data", ("image not found", "images not found", "no images found", "error loading data", "no labels found", "label class", "dataset")),
)
TYPES = (
    (Diverged, "diverged"),
    (DataError, "data"),
    (JobError, "code"),
    (MemoryError, "out_of_memory.device"),
)
# Of torch's own types, by name: importing torch to classify an ImportError would fail again.
NAMES = {
    "OutOfMemoryError": "out_of_memory.device",
    "DistBackendError": "collective",
    "DistNetworkError": "collective",
    "DistStoreError": "collective",
    "DistError": "collective",
}


def classify(error):
    """The class of `error` and one line for a person, from the first in its chain of causes that means something."""
    chain = []
    cause = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for link in chain:
        found = classify_one(link)
        if found:
            return found, one_line(link)
    return "code", one_line(error)


def classify_one(error):
    for kind, name in TYPES:
        if isinstance(error, kind):
            return name
    if type(error).__name__ in NAMES:
        return NAMES[type(error).__name__]
    text = str(error).lower()
    if resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY:
        # A thread's stack is data: where that has a limit, this is how it is met.
        if "can't start new thread" in text:
            return "out_of_memory.device"
        # A buffer in memory that cannot grow loses what it had and counts as closed. The package has saved to it once more by then, so that the
        # first failure is forgotten.
        if "operation on closed file" in text and is_of(error, "torch/serialization.py"):
            return "out_of_memory.device"
    for name, phrases in PHRASES:
        if isinstance(error, (RuntimeError, OSError, AssertionError)) and any(phrase in text for phrase in phrases):
            return name
    return None


def is_of(error, file):
    """Whether `error` came through a function of `file`."""
    return any(frame.f_code.co_filename.endswith(file) for frame, _ in traceback.walk_tb(error.__traceback__))


def one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    name = type(error).__name__
    prefix = "" if isinstance(error, (Diverged, DataError, JobError)) else f"{name}: "
    return (prefix + text)[:500]

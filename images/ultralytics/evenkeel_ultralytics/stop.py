"""SIGTERM: an end at once, but never in the middle of a file."""

import os
import shutil
import signal
import socket
import threading

EXIT_CODE = 128 + signal.SIGTERM


class Stop:
    """Ends this process on SIGTERM. What it was asked to write it writes whole: `weights/last.pt` stays that of the last epoch.

    A thread does it, woken by the interpreter's own handler: Python's would run only between two instructions of the main thread,
    which may wait in a collective for a peer that has already gone.
    """

    def __init__(self, events, scratch):
        self.events, self.scratch = events, scratch
        self.saved = None
        self.writing = threading.RLock()
        ours, woken = socket.socketpair()
        woken.setblocking(False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        # A data worker must neither ignore the signal nor wake its parent's thread.
        os.register_at_fork(after_in_child=forget)
        threading.Thread(target=self._wait, args=(ours, woken), daemon=True, name="stop").start()

    def _wait(self, ours, _kept_open):
        while ours.recv(1)[0] != signal.SIGTERM:
            pass
        with self.writing:
            if self.saved is not None:
                self.events.note(f"stopped; weights/last.pt is that of epoch {self.saved + 1}")
            shutil.rmtree(self.scratch, ignore_errors=True)
            # The peers stop as well: an orderly exit would wait for them.
            os._exit(EXIT_CODE)


def forget():
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

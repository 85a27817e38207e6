"""Events: what this rank tells the agent, one JSON object a line on an inherited descriptor."""

import json
import math
import os


def finite(value):
    """A number that JSON can carry, or None."""
    value = float(value)
    return value if math.isfinite(value) else None


class Events:
    """Writes events; without a descriptor, as when a person runs the trainer by hand, they go nowhere."""

    def __init__(self, descriptor=None):
        self.descriptor = descriptor

    @staticmethod
    def from_environment(environment):
        value = environment.get("EVENKEEL_EVENTS_FD")
        return Events(int(value) if value else None)

    def joined(self, world_size, backend, device):
        self._write("joined", world_size=world_size, backend=backend, device=device)

    def step(self, *, epoch, epochs, step, steps_per_epoch, images, loss, terms, lr, memory_bytes, time_ms):
        self._write(
            "step",
            epoch=epoch,
            epochs=epochs,
            step=step,
            steps_per_epoch=steps_per_epoch,
            images=images,
            loss=finite(loss),
            terms=numbers(terms),
            lr=float(lr),
            memory_bytes=memory_bytes,
            time_ms=time_ms,
        )

    def metrics(self, epoch, values):
        self._write("metrics", epoch=epoch, values=numbers(values))

    def checkpoint(self, epoch, path, weights_sha256, best):
        self._write("checkpoint", epoch=epoch, path=path, weights_sha256=weights_sha256, best=best)

    def failure(self, failure_class, message):
        self._write("failure", **{"class": failure_class}, message=message)

    def fixed(self, **bytes_by_part):
        self._write("fixed", **bytes_by_part)

    def tried(self, **found):
        self._write("tried", **found)

    def note(self, message):
        self._write("note", message=message)

    def _write(self, kind, **fields):
        if self.descriptor is None:
            return
        line = json.dumps({"kind": kind, **fields}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        while line:
            line = line[os.write(self.descriptor, line) :]


def numbers(values):
    """The finite ones of some named values, since the format holds numbers only."""
    kept = {str(name): finite(value) for name, value in values.items()}
    return {name: value for name, value in kept.items() if value is not None}

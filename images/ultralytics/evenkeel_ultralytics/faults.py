"""Memory that runs out on purpose, in the first launch of a run: how what follows is tested."""

import torch

# Bytes that no machine has.
TOO_MANY = 1 << 50


class Faults:
    """`RANK:STEP:PLACE`, several separated by commas, as the native trainer has it: where this rank's next allocation is to fail. Places
    are `forward`, and `validation` for the one after that step."""

    def __init__(self, environment):
        text = environment.get("EVENKEEL_FAULTS", "") if environment.get("EVENKEEL_GENERATION", "1") == "1" else ""
        rank = environment.get("RANK", "0")
        faults = [fault.split(":") for fault in text.split(",") if fault]
        self.places = {(int(step), place) for on, step, place in faults if on == rank}

    def at(self, step, place):
        if (step, place) in self.places:
            torch.empty(TOO_MANY, dtype=torch.uint8)

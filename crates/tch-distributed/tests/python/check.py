"""Trains one model by ranks in Python, by ranks in Rust, and by both together, and compares the weights.

    check.py BESIDE_PYTHON
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from peer import STEPS, net, read, state

PEER = Path(__file__).with_name("peer.py")
TOLERANCE = 1e-6
LIMIT = 120


def prepare(folder, model, world_size):
    """The same weights and data for everyone, from one seed."""
    torch.manual_seed(7)
    for name, value in state(net(model == "norm")).items():
        value.numpy().astype("<f4").tofile(folder / f"{name}.initial")
    images = torch.randn(STEPS, world_size, 8, 3, 16, 16)
    images.numpy().astype("<f4").tofile(folder / "images")
    # Something to learn: which of ten ranges the mean of a corner lies in.
    labels = (images[..., 0, :8, :8].mean(dim=(-1, -2)) * 20 + 5).clamp(0, 9).floor()
    labels.numpy().astype("<f4").tofile(folder / "labels")


def command(program, language, model, folder, rank, world_size, place):
    start = [sys.executable, str(PEER)] if language == "python" else [program]
    return [*start, model, str(folder), str(rank), str(world_size), place]


def train(program, model, languages, store, parent):
    """The weights of every rank after the last step, and those at the start; `languages` has one entry a rank."""
    world_size = len(languages)
    folder = Path(tempfile.mkdtemp(dir=parent))
    prepare(folder, model, world_size)
    ranks = []
    try:
        for rank, language in enumerate(languages):
            place = store
            if store == "tcp":
                place = "serve" if rank == 0 else wait_for(folder / "port", ranks)
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            ranks.append(subprocess.Popen(command(program, language, model, folder, rank, world_size, place), env=environment))
        deadline = time.monotonic() + LIMIT
        codes = [rank.wait(timeout=max(0.1, deadline - time.monotonic())) for rank in ranks]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
    if any(codes):
        sys.exit(f"{languages} on {model}: the ranks ended with {codes}")
    names = list(state(net(model == "norm")))
    weights = [{name: read(folder / f"{name}.rank-{rank}") for name in names} for rank in range(world_size)]
    return weights, {name: read(folder / f"{name}.initial") for name in names}


def wait_for(path, ranks):
    deadline = time.monotonic() + LIMIT
    while not path.exists():
        if time.monotonic() > deadline or any(rank.poll() is not None for rank in ranks):
            sys.exit("rank 0 serves no store")
        time.sleep(0.01)
    return path.read_text()


def distance(a, b, parts):
    return max(float((a[name] - b[name]).abs().max()) for name in a if parts(name))


def everything(_):
    return True


def is_parameter(name):
    return "running" not in name


def expect(what, found, allowed):
    print(f"{what}: {found:.3g} (at most {allowed:g})", flush=True)
    if not found <= allowed:
        sys.exit(f"failed: {what}")


def main(program):
    with tempfile.TemporaryDirectory() as parent:
        for model in ("norm", "plain"):
            python, initial = train(program, model, ["python"] * 2, "file", parent)
            rust, _ = train(program, model, ["rust"] * 2, "file", parent)
            moved = distance(python[0], initial, is_parameter)
            if not 0.01 < moved < 100:
                sys.exit(f"the training of `{model}` moved no weight by more than {moved}: it shows nothing")
            expect(f"{model}, Rust against Python, largest difference of rank 0", distance(rust[0], python[0], everything), TOLERANCE)
            # Running statistics are each rank's own after its last step, as Python has them.
            expect(f"{model}, Rust against Python, largest difference of rank 1", distance(rust[1], python[1], everything), TOLERANCE)
            expect(f"{model}, Rust, parameters of rank 1 against those of rank 0", distance(rust[1], rust[0], is_parameter), 0)
        # tch's batch normalisation has one buffer less than Python's, so together they train the plain model.
        for languages in (["rust", "python"], ["python", "rust"], ["python", "rust", "python"]):
            together, _ = train(program, "plain", languages, "tcp", parent)
            alone, _ = train(program, "plain", ["python"] * len(languages), "file", parent)
            name = " and ".join(languages)
            for rank in range(1, len(languages)):
                expect(f"{name}, parameters of rank {rank} against those of rank 0", distance(together[rank], together[0], everything), 0)
            expect(f"{name}, against Python alone", distance(together[0], alone[0], everything), TOLERANCE)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Steps a second of ResNet-18 under our Ddp and under Python's DistributedDataParallel, in turn, and what overlap is worth.

    bench.py BENCH_DDP DEVICE

Writes /output/ddp.json. The median of the pairs' ratios must be 1.0 at least, less the noise of the run: half of the range that
the middle half of the ratios spans.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta

import torch

RANKS = 2
PAIRS = int(os.environ.get("EVENKEEL_BENCH_PAIRS", "9"))
WARM_UP, STEPS = 5, int(os.environ.get("EVENKEEL_BENCH_STEPS", "25"))
IMAGES, SIZE = 8, 64
LIMIT = 300


def rank(folder, rank, world_size, device):
    """One rank in Python; its counterpart is examples/bench_ddp.rs."""
    import torch.distributed as dist
    import torchvision
    from torch import nn

    rank, world_size = int(rank), int(world_size)
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    store = dist.FileStore(f"{folder}/store", world_size)
    backend = "nccl" if device == "cuda" else "gloo"
    place = torch.device(device, rank) if device == "cuda" else torch.device("cpu")
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
    module = torchvision.models.resnet18(weights=None).to(place)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    ddp = nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)
    images = torch.randn(IMAGES, 3, SIZE, SIZE, device=place)
    labels = torch.randint(1000, (IMAGES,), device=place)
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            dist.barrier()
            start = time.perf_counter()
        nn.functional.cross_entropy(ddp(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    dist.barrier()
    if rank == 0:
        rate = STEPS / (time.perf_counter() - start)
        print(json.dumps({"steps_per_second": rate, "parameters": sum(p.numel() for p in module.parameters())}))
    dist.destroy_process_group()


def measure(command, *after):
    """What rank 0 says; `command` and `after` are what stands before and after folder, rank, world size and device."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen(
                [*command, folder, str(i), str(RANKS), DEVICE, *after], env=environment, stdout=subprocess.PIPE, text=True
            )
            for i in range(RANKS)
        ]
        try:
            outputs = [process.communicate(timeout=LIMIT)[0] for process in ranks]
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
    if any(process.returncode for process in ranks):
        sys.exit(f"{command}: the ranks ended with {[process.returncode for process in ranks]}")
    return json.loads(outputs[0])


def rust(mode):
    return measure([PROGRAM], mode, str(WARM_UP), str(STEPS))


def python():
    return measure([sys.executable, __file__, "--rank"])


def middle_half(values):
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def main():
    if DEVICE == "cuda" and torch.cuda.device_count() < RANKS:
        print(f"bench-ddp on cuda needs {RANKS} GPUs, this machine has {torch.cuda.device_count()}: nothing was measured", file=sys.stderr)
        sys.exit(3)
    pairs = []
    for i in range(PAIRS):
        # Each one is first in every other pair: what drifts, drifts for both.
        if i % 2 == 0:
            ours, theirs = rust("overlap"), python()
        else:
            theirs, ours = python(), rust("overlap")
        if ours["parameters"] != theirs["parameters"]:
            sys.exit(f"the models differ: {ours['parameters']} and {theirs['parameters']} parameters")
        pairs.append((ours["steps_per_second"], theirs["steps_per_second"]))
        print(f"pair {i + 1}: Rust {pairs[-1][0]:.3f}, Python {pairs[-1][1]:.3f} steps/s, ratio {pairs[-1][0] / pairs[-1][1]:.3f}", flush=True)
    ratios = [a / b for a, b in pairs]
    ratio, noise = statistics.median(ratios), middle_half(ratios) / 2

    seconds = {mode: [] for mode in ("overlap", "after", "alone")}
    for i in range(max(3, PAIRS // 2)):
        for mode in sorted(seconds, reverse=i % 2 == 1):
            seconds[mode].append(1 / rust(mode)["steps_per_second"])
    step = {mode: statistics.median(all) for mode, all in seconds.items()}
    cost = step["after"] - step["alone"]
    hidden = (step["after"] - step["overlap"]) / cost if cost > 0 else None

    result = {
        "device": DEVICE, "ranks": RANKS, "model": "resnet18", "parameters": ours["parameters"],
        "images_per_rank": IMAGES, "image_size": SIZE, "steps": STEPS,
        "pairs": [{"rust": a, "python": b} for a, b in pairs],
        "ratio": ratio, "noise": noise,
        "seconds_per_step": step, "communication_seconds": cost, "communication_hidden": hidden,
    }  # fmt: skip
    with open("/output/ddp.json", "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    print(f"ratio {ratio:.3f}, noise of this run {noise:.3f}, {ours['parameters']} parameters")
    print(f"seconds a step: {', '.join(f'{mode} {value:.4f}' for mode, value in step.items())}")
    if hidden is not None:
        print(f"communication: {cost:.4f} s a step, of which {hidden:.0%} hidden behind the backward pass")
    if ratio < 1.0 - noise:
        sys.exit(f"slower than Python's: {ratio:.3f}, and the noise is {noise:.3f}")


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        rank(*sys.argv[2:])
    else:
        PROGRAM, DEVICE = sys.argv[1:]
        main()

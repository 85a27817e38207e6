"""The trainers on a GPU: gpu.py BARE [CHECK...]. Two ranks share the first one where there is no second, over NCCL all the same.

What must hold is judged, and every figure goes to /output/gpu.json:

- mixed precision in both types, and none: the training learns, and never computes anything that is not finite;
- two ranks over NCCL train as one does, with and without overlap, with exact sums too;
- memory that runs out costs a step down and no image, also on one rank of two;
- memory grows with the micro-batch as `autobatch` assumes, and what a trial measures is what a training takes;
- the official trainer measures and trains by the same job.
"""

import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import bench
import trainers

SIDE = 320
CLASSES = "abc"
PLAIN = {"optimizer": "SGD", "lr0": 0.01, "plots": False, "val": False}
GIB = 1 << 30


def gpus():
    listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True)
    return len(listed.stdout.split())


def losses(run, rank=0):
    return [step["loss"] for step in run.told("step", rank)]


def mean(losses_of_ranks):
    return [sum(losses) / len(losses) for losses in zip(*losses_of_ranks)]


def apart(one, other):
    """The largest relative difference of two courses of losses, at the first step and over all."""
    differences = [abs(a / b - 1) for a, b in zip(one, other, strict=True)]
    return {"first": differences[0], "largest": max(differences)}


def precision(folder):
    """Trainings of the same steps in f32 and in both half types."""
    found = {}
    for name, args, told in (("f32", {"amp": False}, {}), ("bf16", {}, {"amp": "bf16"}), ("fp16", {}, {"amp": "fp16"})):
        run = trainers.run(
            trainers.NATIVE, folder, CLASSES, ranks=1, share=16, epochs=6, side=160, device="cuda", args=PLAIN | {"val": True} | args, **told
        )
        course = losses(run)
        found[name] = {
            "steps": len(course), "first": course[0], "last": sum(course[-8:]) / 8, "step_ms": typical(run),
            "metrics": run.told("metrics")[-1]["values"], "memory": run.told("step")[-1]["memory_bytes"], "first_step_s": run.first_step,
        }  # fmt: skip
        assert all(loss is not None for loss in course), f"{name}: a loss is not finite"
        assert found[name]["last"] < 0.8 * course[0], f"{name} does not learn: {found[name]}"
    for name in ("bf16", "fp16"):
        assert abs(found[name]["first"] / found["f32"]["first"] - 1) < 0.01, f"{name} begins elsewhere: {found}"
    return found


def typical(run):
    times = sorted(step["time_ms"] for step in run.told("step")[4:-1])
    return times[len(times) // 2]


def ranks(folder):
    """One rank of two micro-batches against two ranks of one: the same sums."""
    common = dict(side=160, epochs=2, device="cuda")
    plain = PLAIN | {"amp": False}
    sharing = gpus() < 2
    one = trainers.run(trainers.NATIVE, folder, CLASSES, ranks=1, cut=[[16, 16]], args=plain, **common)
    one_exact = trainers.run(trainers.NATIVE, folder, CLASSES, ranks=1, cut=[[16, 16]], args=plain | {"reduce": "exact"}, **common)
    found = {"sharing": sharing}
    for name, more, reference in (
        ("fast", {}, one), ("overlap", {"overlap": True}, one), ("exact", {"reduce": "exact"}, one_exact),
    ):  # fmt: skip
        two = trainers.run(trainers.NATIVE, folder, CLASSES, ranks=2, cut=[[16], [16]], args=plain | more, sharing=sharing, **common)
        joined = two.told("joined")
        assert joined[-1]["backend"] == "nccl", joined
        hashes = [two.told("checkpoint", rank)[-1]["weights_sha256"] for rank in (0, 1)]
        assert hashes[0] == hashes[1], f"{name}: the ranks' weights differ"
        course = mean([losses(two, 0), losses(two, 1)])
        found[name] = apart(course, losses(reference)) | {
            "same_weights_as_one_rank": hashes[0] == reference.told("checkpoint")[-1]["weights_sha256"], "step_ms": typical(two)
        }  # fmt: skip
        assert found[name]["first"] < 1e-4, f"{name}: two ranks begin unlike one: {found[name]}"
    found["one_again"] = apart(
        losses(trainers.run(trainers.NATIVE, folder, CLASSES, ranks=1, cut=[[16, 16]], args=plain, **common)), losses(one)
    )
    return found


class Hog:
    """Another process that leaves so many bytes of the first GPU."""

    PROGRAM = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(max(0, free - int(sys.argv[1])), dtype=torch.uint8, device="cuda")
print(torch.cuda.mem_get_info()[0], flush=True)
sys.stdin.read()
"""

    def __init__(self, leave):
        self.process = subprocess.Popen(
            [trainers.OFFICIAL[0], "-c", self.PROGRAM, str(leave)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return int(self.process.stdout.readline())

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def stepping_down(folder):
    """Micro-batches far too large for what another process leaves."""
    found = {}
    sharing = gpus() < 2
    for name, cut, leave in (("one", [[384]], 5 * GIB), ("two", [[352], [32]], 6 * GIB)):
        with Hog(leave) as free:
            run = trainers.run(
                trainers.NATIVE, folder, CLASSES, ranks=len(cut), cut=cut, side=SIDE, epochs=3, device="cuda",
                args=PLAIN | {"val": True}, sharing=sharing and len(cut) > 1,
            )  # fmt: skip
        downs = [[(it["from"], it["to"]) for it in run.told("stepped_down", rank)] for rank in range(len(cut))]
        steps = [run.told("step", rank) for rank in range(len(cut))]
        images = [sum(step["images"] for step in of_all) for of_all in zip(*steps, strict=True)]
        found[name] = {
            "free": free, "downs": downs, "images": images, "said": [it["message"] for it in run.told("stepped_down")],
            "memory": [of_rank[-1]["memory_bytes"] for of_rank in steps],
        }  # fmt: skip
        assert downs[0], f"{name}: memory did not run out with {free} bytes"
        assert all(count == 384 for count in images) and len(images) == 3, f"{name}: {images}"
    return found


def memory(folder, command, args, amp=None):
    """A search, a prediction from its first half for its largest size, and a training of a size between."""
    told = {"amp": amp} if amp else {}
    common = dict(ranks=1, side=SIDE, device="cuda", args=args | {"val": True}, epochs=2)
    search = trainers.run(
        command, folder, CLASSES, share=16, trial={"sizes": [], "limits": [None], "most": 256}, **common, **told
    )  # fmt: skip
    tried = [it for it in search.told("tried") if not it["validation"]]
    points = [(it["images"], it["peak_bytes"]) for it in tried]
    found = {
        "fixed": search.told("fixed")[-1], "training": points, "seconds": [(it["images"], it["seconds"]) for it in tried],
        "validation": [(it["images"], it["peak_bytes"]) for it in search.told("tried") if it["validation"]],
    }  # fmt: skip
    (m1, p1), (m2, p2) = [point for point in points if point[0] in (32, 64)][:2]
    slope = (p2 - p1) / (m2 - m1)
    found["predicted_96"] = p1 + slope * (96 - m1)
    run = trainers.run(command, folder, CLASSES, share=96, **common, **told)
    found["trained_96"] = max(step["memory_bytes"] for step in run.told("step"))
    found["of_prediction"] = found["trained_96"] / found["predicted_96"]
    return found


def main(_, *wanted):
    outcome, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        bench.data(folder, 384)

        def official():
            return memory(folder, trainers.OFFICIAL, {"plots": False, "workers": 2})

        checks = {
            "precision": lambda: precision(folder),
            "ranks": lambda: ranks(folder),
            "stepping_down": lambda: stepping_down(folder),
            "memory_f32": lambda: memory(folder, trainers.NATIVE, PLAIN | {"amp": False}),
            "memory_fp16": lambda: memory(folder, trainers.NATIVE, PLAIN, "fp16"),
            "official": official,
        }
        for name in wanted or checks:
            check, began = checks[name], time.monotonic()
            try:
                outcome[name] = check()
                print(f"{name}: {json.dumps(outcome[name])}", flush=True)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                failed.append(f"{name}: {error}")
            print(f"-- {name}: {time.monotonic() - began:.1f} s", flush=True)
            Path("/output/gpu.json").write_text(json.dumps(outcome, indent=2) + "\n")
    if failed:
        sys.exit("failed: " + "\n".join(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])

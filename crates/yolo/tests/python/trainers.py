"""Trainings by our trainer and by the official one, from the same job file, told by the same events."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

NATIVE = ["/usr/local/bin/evenkeel-trainer", "train"]
VALIDATE = ["/usr/local/bin/evenkeel-trainer", "validate"]
OFFICIAL = ["/opt/venv/bin/python3", "-m", "evenkeel_ultralytics"]
# What only the official package has, turned off, and one process that reads images beside each rank.
OFFICIAL_ARGS = {"erasing": 0.0, "auto_augment": None, "workers": 1}
LIMIT = 3600


@dataclass
class Run:
    """What the ranks told, and when the first step of rank 0 had ended, in seconds from the start."""

    events: list
    first_step: float | None

    def told(self, kind, rank=0):
        return [event for event in self.events[rank] if event["kind"] == kind]


def run(
    command, folder, classes, *, ranks=2, share=16, cut=None, side=160, epochs=1, seed=0, device="cpu", model="yolov8n.yaml", args,
    keep=None, sharing=False, **told
):  # fmt: skip
    """Runs a trainer to its end on the set in `folder`; `keep` names a file of its output to copy, and where to.

    `cut` are the micro-batches of every rank, one of `share` images if absent; `told` stands in the job besides. With `sharing` all ranks
    are on the first GPU: for NCCL each is on a host of its own then, as within one it refuses that.
    """
    if command == OFFICIAL:
        args = args | OFFICIAL_ARGS
    with tempfile.TemporaryDirectory() as output:
        job = {
            "version": 1, "run": "test", "generation": 1, "device": device, "model": model,
            "data": {"path": str(folder), "train": ["images/train"], "val": ["images/val"], "names": dict(enumerate(classes))},
            "epochs": epochs, "imgsz": side, "seed": seed, "output": output, "max_images": None, "args": args,
        } | told  # fmt: skip
        job["micro_batches"] = cut or [[share]] * ranks
        job["target_batch"] = sum(map(sum, job["micro_batches"]))
        job_file = Path(output, "job.json")
        job_file.write_text(json.dumps(job))
        port, began, running = random.randint(20_000, 40_000), time.monotonic(), []
        for rank in range(ranks):
            events = open(f"{output}/events-{rank}", "w+")
            environment = os.environ | {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "EVENKEEL_JOB": str(job_file), "EVENKEEL_DEVICE": device,
                "EVENKEEL_EVENTS_FD": str(events.fileno()), "OMP_NUM_THREADS": "1" if device == "cpu" else "4",
            }  # fmt: skip
            if sharing:
                environment |= {
                    "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NCCL_HOSTID": f"rank-{rank}", "NCCL_SOCKET_IFNAME": "lo",
                    "GLOO_SOCKET_IFNAME": "lo",
                }  # fmt: skip
            log = open(f"{output}/log-{rank}", "w+")
            process = subprocess.Popen(command, env=environment, pass_fds=[events.fileno()], stdout=log, stderr=log)
            running.append((process, events, log))
        first = None
        while first is None and all(process.poll() is None for process, _, _ in running):
            if '"step"' in Path(f"{output}/events-0").read_text():
                first = time.monotonic() - began
            time.sleep(0.005)
        for process, _, log in running:
            if process.wait(LIMIT) != 0:
                log.seek(0)
                sys.exit(f"{command} ended with {process.returncode}:\n{log.read()}")
        told = []
        for _, events, _ in running:
            events.seek(0)
            told.append([json.loads(line) for line in events])
        if keep:
            Path(keep[1]).write_bytes(Path(output, keep[0]).read_bytes())
        return Run(told, first)

"""The job file: what the controller asks this trainer to do, and what of it Ultralytics is told."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

VERSION = 1

# What the plan decides. A user's value for one of these would silently change what a step means or where its results go.
OWNED = frozenset(
    "batch nbs device data model epochs imgsz seed project name exist_ok resume task mode time split cfg save_dir".split()
)


class JobError(Exception):
    """The job asks for what this trainer cannot do."""


@dataclass(frozen=True)
class World:
    """This process among its peers, as torchrun's environment says."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    cuda: bool

    @staticmethod
    def from_environment(environment):
        size = int(environment.get("WORLD_SIZE", 1))
        return World(
            rank=int(environment.get("RANK", 0)),
            size=size,
            local_rank=int(environment.get("LOCAL_RANK", 0)),
            local_size=int(environment.get("LOCAL_WORLD_SIZE", size)),
            cuda=environment.get("EVENKEEL_DEVICE", "cpu") == "cuda",
        )

    @property
    def device(self):
        """The device as torch names it."""
        return f"cuda:{self.local_rank}" if self.cuda else "cpu"

    @property
    def backend(self):
        """A group of one talks to nobody: it needs no communicator on the GPU."""
        return "nccl" if self.cuda and self.size > 1 else "gloo"


@dataclass(frozen=True)
class Split:
    """How one optimizer step is cut: `accumulate` micro-batches of `micro` images on each of `world` ranks."""

    target: int
    micro: int
    accumulate: int
    world: int


def read(path):
    """The job file's content; a higher version is refused instead of guessed at."""
    try:
        job = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"cannot read job file `{path}`: {error}") from error
    if job["version"] > VERSION:
        raise JobError(f"job file `{path}` has version {job['version']}, this image reads up to {VERSION}")
    return job


def split(job, size):
    """The cut of a step. Ultralytics gives every rank the same number of equal micro-batches, so it must be that."""
    ranks = job["micro_batches"]
    if len(ranks) != size:
        raise JobError(f"the job is cut for {len(ranks)} ranks, but {size} were started")
    sizes = {micro for rank in ranks for micro in rank}
    counts = {len(rank) for rank in ranks}
    if len(sizes) != 1 or len(counts) != 1 or 0 in sizes or 0 in counts:
        raise JobError(f"the ultralytics trainer needs equal micro-batches, as many on every rank, not {ranks}")
    found = Split(target=job["target_batch"], micro=sizes.pop(), accumulate=counts.pop(), world=size)
    if found.micro * found.accumulate * size != found.target:
        raise JobError(f"micro-batches {ranks} do not add up to the target batch {found.target}")
    return found


def settings(job, cut, world, data_yaml, scratch):
    """Ultralytics' settings for this rank, as a dictionary of values, never as text that something would evaluate."""
    taken = sorted(OWNED & job["args"].keys())
    if taken:
        raise JobError(f"args must not set {', '.join(f'`{key}`' for key in taken)}: the job and its plan decide that")
    if str(job["args"].get("cache", "")).lower() == "disk":
        raise JobError("`args.cache: disk` would write beside the images, which a run may only read; use `cache: ram`")
    model = job["model"]
    if not model.endswith((".yaml", ".yml")) and not Path(model).is_file():
        raise JobError(f"no weights at `{model}`, and a training run downloads nothing")
    # Only rank 0 leaves results; what the others would write beside them stays private.
    output = Path(job["output"]) if world.rank == 0 else Path(scratch) / "output"
    chosen = {
        **job["args"],
        "task": "detect",
        "mode": "train",
        "model": model,
        "data": str(data_yaml),
        "epochs": job["epochs"],
        "imgsz": job["imgsz"],
        "seed": engine_seed(job["seed"]),
        # Global, in yolo's sense: with nbs = T the accumulation is exact and the weight decay's scale is 1.
        "batch": cut.micro * world.size,
        "nbs": cut.target,
        "device": str(world.local_rank) if world.cuda else "cpu",
        "project": str(output.parent),
        "name": output.name,
        "exist_ok": True,
    }
    if not world.cuda:
        chosen["amp"] = False
    if job.get("max_images") is not None:
        chosen["fraction"] = [job["max_images"], job["max_images"]]
    return chosen


@dataclass(frozen=True)
class Workers:
    """Data workers of this rank, for each of its two loaders. They never run at the same time."""

    asked: int
    train: int
    validation: int


def workers(job, world, cut):
    """As many as were asked for and /dev/shm can feed, in this rank's share of half of what is free."""
    asked = job["args"].get("workers")
    if asked is None:
        # On a CPU the workers would compete with the training for the cores that it was given.
        asked = min(8, max(1, len(os.sched_getaffinity(0)) // world.local_size)) if world.cuda else 0
    space = os.statvfs("/dev/shm")
    share = space.f_bavail * space.f_frsize / 2 / world.local_size
    side = job["imgsz"]

    def fitting(images, side):
        # Two prefetched batches each, and one that is being computed on.
        return min(int(asked), max(0, int(share / (images * 3 * side**2) - 1) // 2))

    # A validation batch is twice as large, of images that are padded by up to half a stride on each side.
    return Workers(asked=int(asked), train=fitting(cut.micro, side), validation=fitting(2 * cut.micro, side + 32))


# The engine adds up to a rank to a seed that numpy takes below 2**32.
SEEDS = 2**31


def engine_seed(seed):
    """The seed for the package's generators. The order of the images follows the whole seed, so no two seeds train alike."""
    return seed % SEEDS

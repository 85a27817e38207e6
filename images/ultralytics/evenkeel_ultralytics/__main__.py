"""Trains what the job file says: `python3 -m evenkeel_ultralytics`."""

import os
import shutil
import sys
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

from . import failure, job
from .events import Events
from .stop import Stop

# Rank 0 reads labels, plots and writes while the others wait in a barrier; a peer that has died is not waited for, as the
# controller ends every rank at once. So this is only a last resort.
GROUP_TIMEOUT_SECONDS = 1800


def main():
    events = Events.from_environment(os.environ)
    scratch = tempfile.mkdtemp(prefix="evenkeel-")
    stop = Stop(events, scratch)
    try:
        train(events, scratch, stop)
    except Exception as error:
        traceback.print_exc()
        failure_class, message = failure.classify(error)
        events.failure(failure_class, message)
        print(f"evenkeel: {failure_class}: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        shutil.rmtree(scratch, ignore_errors=True)
        # A process group whose peers still compute would hold an orderly exit up.
        os._exit(1)
    shutil.rmtree(scratch, ignore_errors=True)


def train(events, scratch, stop):
    world = job.World.from_environment(os.environ)
    prepare(os.environ, world, scratch)
    asked = job.read(os.environ.get("EVENKEEL_JOB", "/evenkeel/job.json"))
    cut = job.split(asked, world.size)

    # Only now: these read the environment when they are imported.
    from . import data, progress, trial
    from .trainer import Trainer

    described, data_yaml = data.describe(asked["data"], scratch, bool(asked["args"].get("single_cls")))
    overrides = job.settings(asked, cut, world, data_yaml, scratch)
    workers = job.workers(asked, world, cut)
    for loader, count in (("training", workers.train), ("validation", workers.validation)):
        if count < workers.asked:
            events.note(f"/dev/shm has room for {count} {loader} workers, not {workers.asked}; see shm_size")
    join(world, scratch)
    events.joined(world.size, world.backend, world.device)
    seed_fonts()
    progress.install()
    def make_trainer():
        return Trainer(
            overrides=overrides,
            described=described,
            cut=cut,
            world=world,
            workers=workers,
            seed=asked["seed"],
            output=asked["output"],
            until_epoch=asked.get("until_epoch"),
            stop=stop,
            events=events,
        )

    if asked.get("trial"):
        trial.run(make_trainer, asked["trial"])
    else:
        make_trainer().train()
    leave()


def prepare(environment, world, scratch):
    """Settings of the libraries that read the environment: no network, and every written thing in a private folder."""
    defaults = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": f"{scratch}/config",
        "MPLCONFIGDIR": f"{scratch}/matplotlib",
        "MPLBACKEND": "agg",
        # torch asks for the user's name to make a cache folder of it, and a uid without a passwd entry has none.
        "USER": "evenkeel",
        "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",
    }
    if environment.get("MASTER_ADDR") in (None, "127.0.0.1", "localhost"):
        # A pod without a network cannot resolve its own host name, which gloo would ask for.
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    for name, value in defaults.items():
        if not environment.get(name):
            environment[name] = value
    if not os.access(environment.get("HOME", ""), os.W_OK):
        environment["HOME"] = scratch
    for name in ("YOLO_CONFIG_DIR", "MPLCONFIGDIR"):
        Path(environment[name]).mkdir(parents=True, exist_ok=True)


def join(world, scratch):
    """Joins the process group. A group of one needs no port, only a file."""
    import torch
    import torch.distributed as dist

    timeout = max(GROUP_TIMEOUT_SECONDS, int(os.environ.get("EVENKEEL_TIMEOUT", 0)))
    options = {"timeout": timedelta(seconds=timeout), "rank": world.rank, "world_size": world.size}
    if world.cuda:
        torch.cuda.set_device(world.local_rank)
        if world.backend == "nccl":
            options["device_id"] = torch.device("cuda", world.local_rank)
    if world.size == 1:
        options["store"] = dist.FileStore(f"{scratch}/store", 1)
    else:
        options["init_method"] = "env://"
    dist.init_process_group(world.backend, **options)


def leave():
    """All ranks end together, so that the first to end does not look like a lost peer to the last."""
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()


def seed_fonts():
    """The two fonts that plots would download: Matplotlib's own, and one with Chinese."""
    import matplotlib
    from ultralytics.utils import USER_CONFIG_DIR

    latin = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    unicode = Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc")
    for source, name in ((latin, "Arial.ttf"), (unicode if unicode.exists() else latin, "Arial.Unicode.ttf")):
        target = USER_CONFIG_DIR / name
        if not target.exists():
            shutil.copyfile(source, target)


if __name__ == "__main__":
    main()

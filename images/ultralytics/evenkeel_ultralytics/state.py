"""The state that another launch goes on from: what `last.pt` keeps in half precision, whole."""

import os
import random

import numpy
import torch
from ultralytics.utils.torch_utils import unwrap_model

from .job import JobError

NAME = "state.pt"
VERSION = 1


def write(trainer, folder):
    """Writes the state after the epoch that `trainer` has just ended: under another name first, so that there is always a whole one."""
    state = {
        "version": VERSION,
        "run": identity(trainer),
        "epoch": trainer.epoch,
        "imgsz": trainer.args.imgsz,
        # Whether patience has ended the training with this epoch. One that is through may go on for more epochs.
        "over": bool(trainer.stop) and trainer.epoch + 1 < trainer.epochs,
        "model": unwrap_model(trainer.model).state_dict(),
        "average": trainer.ema.ema.state_dict(),
        "updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "best_fitness": number(trainer.best_fitness),
        "fitness": number(trainer.fitness),
        "best_epoch": trainer.best_epoch,
        "loss_items": trainer.loss_items,
        "stopper": [number(trainer.stopper.best_fitness), trainer.stopper.best_epoch],
    }
    part = folder / f".{NAME}.part"
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / NAME)


def read(trainer, folder):
    """The state that an earlier launch left, or None."""
    file = folder / NAME
    if not file.exists():
        return None
    # Numbers, texts and tensors only: nothing that would be run.
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["version"] != VERSION or not state["run"].items() >= identity(trainer).items():
        raise JobError(f"`{file}` cannot be gone on from: it is of {state['run']}, this training of {identity(trainer)}")
    return state


def take(trainer, state):
    """Puts `trainer` where it was when the state was written."""
    unwrap_model(trainer.model).load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["average"])
    trainer.ema.updates = state["updates"]
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.start_epoch = state["epoch"] + 1
    # The loss of an end-to-end model changes with every epoch that is done.
    network = unwrap_model(trainer.model)
    network.criterion = network.init_criterion()
    if hasattr(network.criterion, "update"):
        for _ in range(trainer.start_epoch):
            network.criterion.update()
    # States did not always say what follows. A validation adds to losses like those of the last batch.
    trainer.loss_items = {name: value.to(trainer.device) for name, value in state.get("loss_items", {}).items()}
    trainer.over = state.get("over", False)
    trainer.resized = state.get("imgsz", trainer.args.imgsz) != trainer.args.imgsz
    if trainer.resized and not trainer.over:
        # Figures of another size do not compare, and patience begins anew with it.
        trainer.best_epoch = trainer.stopper.best_epoch = trainer.start_epoch
    else:
        trainer.best_fitness, trainer.fitness = state["best_fitness"], state["fitness"]
        trainer.best_epoch = state["best_epoch"]
        trainer.stopper.best_fitness, trainer.stopper.best_epoch = state["stopper"]
    # The generators begin anew in every process: an epoch must not augment as the first one did.
    seed = (trainer.seed * 1_000_003 + 1_009 * trainer.start_epoch + trainer.world.rank) % 2**32
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def identity(trainer):
    """What must be the same for a state to be gone on from; the cut of a step may differ."""
    return {"target_batch": trainer.cut.target, "seed": trainer.seed, "model": str(trainer.args.model)}


def number(value):
    """A plain number, or None: metrics are numpy's."""
    return None if value is None else float(value)

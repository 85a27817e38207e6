"""How images come to the training: loaders whose workers end with each pass, and die where one would be waited for in vain."""

import multiprocessing.queues
import os
import signal
import traceback

import torch
from torch.utils.data import DataLoader
from ultralytics.data.build import ContiguousDistributedSampler, seed_worker

from . import data

# Batches that each worker has ready.
PREFETCH = 2
# A batch that takes this long never comes. Far above what a slow disk needs; a worker that dies is told at once.
LOADER_TIMEOUT_SECONDS = 1800


class Loader(DataLoader):
    """A loader whose workers start anew with each pass: the augmentation that an epoch changes reaches them so, and the batches of
    training and of validation never lie in /dev/shm together."""

    def __init__(self, dataset, *, workers, seed, cuda, **rest):
        super().__init__(
            dataset,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            timeout=LOADER_TIMEOUT_SECONDS if workers else 0,
            pin_memory=cuda,
            collate_fn=dataset.collate_fn,
            worker_init_fn=begin_worker,
            generator=torch.Generator().manual_seed(seed % 2**63),
            **rest,
        )

    def __iter__(self):
        """A generator, so that workers start with the first batch: the engine asks for an iterator before it closes mosaic, and on
        rank 0 for a second one."""
        yield from super().__iter__()

    def reset(self):
        """Ultralytics calls this when it closes mosaic; nothing here outlives an epoch."""


def train_loader(dataset, cut, world, *, workers, seed):
    """The training images of one rank, a micro-batch at a time."""
    return Loader(
        dataset,
        batch_size=cut.micro,
        sampler=data.StepSampler(len(dataset), cut, world.rank, seed),
        workers=workers,
        seed=seed * 1_000_003 + world.rank,
        cuda=world.cuda,
    )


def validation_loader(dataset, world, *, batch_size, workers, seed):
    """One rank's share of the validation images, in order, as the package cuts it."""
    batch_size, sampler = min(batch_size, len(dataset)), ContiguousDistributedSampler(dataset)
    batches = -(-len(sampler) // batch_size)
    return Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        # To start a worker for a batch or two costs more than it saves.
        workers=min(workers, batches // 2),
        seed=seed * 1_000_003 + world.rank,
        cuda=world.cuda,
    )


def begin_worker(index):
    """Prepares a data worker. multiprocessing drops a batch that finds no room in /dev/shm and goes on, and the training would wait
    for it: such a worker dies instead, as one does whose page cannot be had."""
    seed_worker(index)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(die)


def die(error, _batch):
    traceback.print_exception(error)
    if "shared memory" in str(error) or "/torch_" in str(error):
        # torch tells its parent of this signal, and that it means /dev/shm.
        signal.raise_signal(signal.SIGBUS)
    os._exit(1)

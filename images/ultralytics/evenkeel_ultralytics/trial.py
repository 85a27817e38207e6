"""Trial steps: how much memory micro-batches of a size need and how long they take, found out before a training is planned.

The sizes double as long as the next one can be expected to fit; a size that was decided on is tried alone. What is measured is what the
device's limit counts: on a GPU what torch's allocator holds, on a CPU device the data segment, which RLIMIT_DATA limits.
"""

import random
import time

import numpy as np
import torch
import torch.distributed as dist
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import autocast, unwrap_model

from . import failure
from .memory import CudaMemory, DataSegment

# A time is taken of at least so many steps and seconds: a device that may use half a processor gets it in slices of a tenth of a second.
STEPS, SECONDS, MOST_STEPS = 2, 0.3, 8
# A step that takes so long is large enough: what a larger one takes is known from there.
LONG = 4.0
# Images of which a micro-batch is made; they repeat in a large one.
POOL = 16
# Images that are drawn in search of the one with the most labels.
DRAWN = 512
# From so many labels on it matters how many there are.
MANY = 8

def run(make_trainer, trial):
    """Makes the trial's steps with a trainer that is yet to be made, and tells what was found."""
    start = DataSegment().always()
    trainer = make_trainer()
    trainer._setup_train()
    Bench(trainer, start).run(trial)


class Bench:
    """A trainer, ready to make steps of any size."""

    def __init__(self, trainer, start):
        self.trainer, self.world, self.events = trainer, trainer.world, trainer.events
        self.memory = CudaMemory(trainer.device) if trainer.world.cuda else DataSegment()
        trainer.epoch = 0
        if trainer.epochs <= trainer.args.close_mosaic:
            # As the engine has it: no epoch has mosaics then.
            trainer._close_dataloader_mosaic()
        trainer._model_train()
        trainer.optimizer.zero_grad()
        self.dataset = trainer.train_loader.dataset
        self.pool, self.loads, self.last = draw(self.dataset, trainer.seed), False, None
        self.start_bytes = start.bytes
        self.tell_fixed()

    def tell_fixed(self):
        """Tells what is needed whatever the size."""
        model = unwrap_model(self.trainer.model)
        weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        parameters = sum(value.numel() * value.element_size() for value in model.parameters() if value.requires_grad)
        self.events.fixed(
            context_bytes=self.memory.context(),
            weights_bytes=2 * weights,
            # Gradients, and one value more for each, as SGD keeps them: what an optimizer keeps beside that is seen in its steps.
            gradients_and_optimizer_bytes=2 * parameters,
            # Of a GPU nothing is needed before.
            start_bytes=0 if self.world.cuda else self.start_bytes,
        )

    def run(self, trial):
        sizes = trial["sizes"]
        if sizes:
            size = sizes[self.world.rank]
            # Images that are loaded between the steps lie between the tensors, so that a heap has room for fewer. A GPU's memory has none of them.
            self.loads = not self.world.cuda
            self.train(size)
        else:
            limit = trial["limits"][self.world.rank] if trial["limits"] else None
            size = self.search(float("inf") if limit is None else limit, trial["most"])
            if len(self.pool[0]["cls"]) > MANY:
                self.train(size, few_labels=True)
        self.validate(2 * size)

    def search(self, limit, most):
        """Tries larger and larger sizes. Ranks take part until the last of them has found enough."""
        size, before, enough = 1, None, False
        while True:
            peak, seconds = self.train(size)
            if before is None:
                # Kernels, their workspaces and what NCCL takes are there only now.
                self.tell_fixed()
            # Twice as many images more than the last time, which then are at least as large.
            more = 0 if before is None else 2 * max(0, peak - before)
            enough |= not (2 * size <= most and peak + more <= limit and seconds < LONG)
            before = peak
            if not self.largest(not enough):
                return size
            if not enough:
                size *= 2

    def largest(self, value):
        """The largest of a number over all ranks."""
        tensor = torch.tensor(float(value), device=self.trainer.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.item()

    def train(self, size, few_labels=False):
        """Steps of one micro-batch. They are told even where memory runs out, which ends the trial: the peers are then in a collective."""
        labels = 1 if few_labels else len(self.pool[0]["cls"])
        try:
            with self.memory.watch() as peak:
                seconds, reduce_seconds = self.steps(size, few_labels)
        except Exception as error:
            if failure.classify(error)[0] == "out_of_memory.device":
                self.tell(False, size, labels, None, 0.0, 0.0)
            raise
        self.tell(False, size, labels, peak.bytes, seconds, reduce_seconds)
        return peak.bytes, seconds

    def samples(self, size, few_labels):
        """A micro-batch with the image that has the most labels."""
        heaviest = self.pool[0]
        if self.loads:
            others = (self.dataset[random.randrange(len(self.dataset))] for _ in range(size - 1))
            return [heaviest, *(other if len(other["cls"]) <= len(heaviest["cls"]) else heaviest for other in others)]
        samples = [self.pool[at % len(self.pool)] for at in range(size)]
        return [fewer(sample) for sample in samples] if few_labels else samples

    def steps(self, size, few_labels):
        computing, whole, steps, wanted = 0.0, 0.0, 0, 1 + STEPS
        while steps < wanted:
            # Alone and together with the peers, as a step of two micro-batches has it.
            alone = self.passes(self.samples(size, few_labels), together=False)
            together = self.passes(self.samples(size, few_labels), together=True)
            began = time.perf_counter()
            BaseTrainer.optimizer_step(self.trainer)
            self.synchronize()
            if steps == 0:
                # The first is slower than those that follow: memory is new, and kernels are chosen.
                wanted = 1 + int(self.largest(min(MOST_STEPS, max(STEPS, round(SECONDS / max(together, 1e-3))))))
            else:
                computing += alone
                whole += together + time.perf_counter() - began
            steps += 1
        return computing / (steps - 1), max(0.0, whole - computing) / (steps - 1)

    def passes(self, samples, together):
        """Seconds of a forward and a backward pass."""
        trainer = self.trainer
        began = time.perf_counter()
        if self.world.size > 1:
            trainer.model.require_backward_grad_sync = together
        batch = self.dataset.collate_fn([fresh(sample) for sample in samples])
        with autocast(torch.bfloat16 if trainer.args.amp == "bf16" else trainer.amp, device=trainer.device.type):
            batch = trainer.preprocess_batch(batch)
            loss, trainer.loss_items = trainer.model(batch)
            loss = loss.sum() * self.world.size
        # As in the engine's loop, where they are there until the next ones are.
        self.last = batch, loss
        trainer.scaler.scale(loss).backward()
        self.synchronize()
        return time.perf_counter() - began

    def synchronize(self):
        if self.world.cuda:
            torch.cuda.synchronize(self.trainer.device)

    def validate(self, size):
        """A batch of a validation, as the validator computes it."""
        trainer, validator = self.trainer, self.trainer.validator
        dataset = trainer.test_loader.dataset
        if len(dataset) == 0:
            return
        size = min(size, len(dataset))
        # Where images have shapes of their own, all of a batch are padded to one: of these the largest.
        if dataset.rect:
            batch = int(np.argmax(dataset.batch_shapes.prod(axis=1)))
            equal = np.flatnonzero(dataset.batch == batch)[:POOL]
        else:
            equal = range(min(len(dataset), POOL))
        equal = [dataset[int(at)] for at in equal]
        samples = [equal[at % len(equal)] for at in range(size)]
        labels = max(len(sample["cls"]) for sample in samples)
        model = trainer.ema.ema.float().eval()
        validator.device, validator.data, validator.training = trainer.device, trainer.data, True
        validator.args.quantize = 16 if self.world.cuda and trainer.amp else None
        validator.init_metrics(unwrap_model(model))
        try:
            with self.memory.watch() as peak, torch.inference_mode():
                began = time.perf_counter()
                with autocast(trainer.amp, device=trainer.device.type):
                    batch = validator.preprocess(dataset.collate_fn([fresh(sample) for sample in samples]))
                    found = model(batch["img"])
                    model.loss(batch, found)
                validator.postprocess(found)
                self.synchronize()
                seconds = time.perf_counter() - began
        except Exception as error:
            if failure.classify(error)[0] == "out_of_memory.device":
                self.tell(True, size, labels, None, 0.0, 0.0)
            raise
        self.tell(True, size, labels, peak.bytes, seconds, 0.0)

    def tell(self, validation, images, labels, peak_bytes, seconds, reduce_seconds):
        what = "validation" if validation else "training"
        memory = "out of memory" if peak_bytes is None else f"{peak_bytes} bytes, {seconds:.4f} s"
        print(f"{what} of {images} images, {labels} labels: {memory}", flush=True)
        self.events.tried(
            validation=validation,
            images=images,
            labels=labels,
            imgsz=int(self.trainer.args.imgsz),
            peak_bytes=peak_bytes,
            seconds=seconds,
            reduce_seconds=reduce_seconds,
        )


def draw(dataset, seed):
    """Training images, the one with the most labels first; the same ones on all ranks, which draw alike."""
    random.seed(seed % 2**32)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    count = min(len(dataset), DRAWN)
    pool, heaviest = [], None
    for at in range(count):
        sample = dataset[at * len(dataset) // count]
        if heaviest is None or len(sample["cls"]) > len(heaviest["cls"]):
            heaviest = sample
        if at % -(-count // POOL) == 0:
            pool.append(sample)
    return [heaviest, *pool[1:]]


def fresh(sample):
    """The sample for another batch: the package numbers a batch's images in place."""
    return {**sample, "batch_idx": torch.zeros_like(sample["batch_idx"])}


def fewer(sample):
    """The sample with one of its labels at most."""
    kept = {name: sample[name][:1] for name in ("cls", "bboxes", "batch_idx") if name in sample}
    return {**sample, **kept}

"""The trainer class: Ultralytics' own loop with rank, world and the cut of a step from outside."""

import contextlib
import csv
import hashlib
import os
import resource
import time
from pathlib import Path

import torch
import torch.distributed as dist
import ultralytics.engine.trainer as engine
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import ModelEMA, strip_optimizer, torch_distributed_zero_first, unwrap_model

from . import loader, state
from .failure import Diverged
from .faults import Faults
from .memory import DataSegment


class NothingLeft(Exception):
    """All epochs that this launch was to train are done."""


class Trainer(DetectionTrainer):
    """Trains detection models on one rank of a group that exists already."""

    def __init__(self, *, overrides, described, cut, world, workers, seed, output, until_epoch, stop, events):
        # The base class's constructor calls get_dataset, so these come first.
        self.described, self.cut, self.world, self.events = described, cut, world, events
        self.workers, self.seed, self.process = workers, seed, stop
        # The engine knows its rank only in a world of two or more. Alone it would seed otherwise, keep one order of the images for
        # all epochs, and halve the batch when memory runs out.
        engine.RANK = world.rank
        # The constructor throws away the rows of an earlier launch.
        self.output = Path(output)
        rows = self.output / "results.csv"
        self.rows = rows.read_text(encoding="utf-8").splitlines() if world.rank == 0 and rows.exists() else []
        super().__init__(overrides=overrides)
        # It counts the entries of `device` instead; it sets the workers to 0 on a CPU, and there takes all cores but one.
        self.world_size, self.ddp = world.size, False
        self.args.workers = workers.train
        if threads := os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(int(threads))
        self.faults = Faults(os.environ)
        # What the limit of a CPU device counts.
        capped = resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
        self.data_segment = DataSegment().always() if capped and not world.cuda else None
        # The epoch before which this launch ends.
        self.until_epoch = self.epochs if until_epoch is None else min(until_epoch, self.epochs)
        # Whether the training is over, by its length or by patience, and whether an earlier launch had images of another size.
        self.over = self.resized = False
        self.micro_batches = self.steps = 0
        self.under_way = False
        self.validated, self.best_epoch = False, 0
        self.losses, self.terms, self.images = [], [], 0
        self.add_callback("on_train_start", lambda trainer: trainer.start_clock())
        self.add_callback("on_train_batch_start", lambda trainer: trainer.begin_micro_batch())
        self.add_callback("on_train_batch_end", lambda trainer: trainer.end_micro_batch())
        self.add_callback("on_fit_epoch_end", lambda trainer: trainer.end_epoch())

    # -- what the job decides -----------------------------------------------------------------------------------------

    @property
    def accumulate(self):
        """Micro-batches a step, always those of the plan: the base class ramps them up in warm-up. Once it trains, it is to ask for a
        step with every micro-batch: it counts from the launch's first one, and would make a step of that alone."""
        return 1 if self.under_way else self.cut.accumulate

    @accumulate.setter
    def accumulate(self, _):
        pass

    def get_dataset(self):
        return dict(self.described)

    def get_dataloader(self, dataset_path, batch_size=16, rank=0, mode="train"):
        with torch_distributed_zero_first(rank):
            dataset = self.build_dataset(dataset_path, mode, batch_size)
        if mode == "train":
            return loader.train_loader(dataset, self.cut, self.world, workers=self.workers.train, seed=self.seed)
        workers = self.workers.validation
        return loader.validation_loader(dataset, self.world, batch_size=batch_size, workers=workers, seed=self.seed)

    # -- the group ----------------------------------------------------------------------------------------------------

    def _setup_ddp(self):
        """The group was joined before this object was made."""

    def _setup_train(self):
        with replaced(engine, "check_amp", amp_works), contextlib.ExitStack() as stack:
            if not self.world.cuda:
                stack.enter_context(replaced(nn.parallel, "DistributedDataParallel", CpuDataParallel))
            super()._setup_train()

    def _do_train(self):
        """The base class's loop makes one epoch at least."""
        try:
            super()._do_train()
        except NothingLeft:
            # A launch that was through may have failed in what follows. The best weights are validated at their own size.
            if (self.over or self.start_epoch >= self.epochs) and not self.resized:
                self.over = True
                self.final_eval()

    # -- a step -------------------------------------------------------------------------------------------------------

    def resume_training(self, ckpt):
        """Goes on from the state of an earlier launch of this run. Checkpoints that a job names are weights to start from."""
        found = state.read(self, self.output / "weights")
        if found is None:
            return
        state.take(self, found)
        self.steps = self.start_epoch * self.steps_per_epoch
        if self.world.rank == 0:
            # A row may have been written for an epoch whose state was not.
            kept = self.rows[: 1 + self.start_epoch]
            self.csv.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")
            if self.over:
                self.events.note(f"patience has ended the training after epoch {self.start_epoch} of {self.epochs}")
            elif self.start_epoch < self.until_epoch:
                self.events.note(f"going on from epoch {self.start_epoch + 1} of {self.epochs}")

    def start_clock(self):
        if self.over or self.start_epoch >= self.until_epoch:
            self.epoch = self.start_epoch - 1
            raise NothingLeft
        self.under_way = True
        self.step_began = time.perf_counter()

    @property
    def steps_per_epoch(self):
        return len(self.train_loader) // self.cut.accumulate

    def optimizer_step(self):
        if self.micro_batches % self.cut.accumulate == 0:
            super().optimizer_step()

    def begin_micro_batch(self):
        """Gradients meet once a step, with its last micro-batch."""
        self.micro_batches += 1
        if self.world_size > 1:
            self.model.require_backward_grad_sync = self.micro_batches % self.cut.accumulate == 0

    def preprocess_batch(self, batch):
        self.images += batch["img"].shape[0]
        self.faults.at(self.steps, "forward")
        return super().preprocess_batch(batch)

    def end_micro_batch(self):
        # The engine multiplies the loss, a sum over the images, by the world size, as DDP averages over the ranks.
        self.losses.append(self.loss.detach() / self.world_size)
        self.terms.append({name: value.detach() for name, value in self.loss_items.items()})
        if self.micro_batches % self.cut.accumulate == 0:
            self.end_step()

    def end_step(self):
        now = time.perf_counter()
        names = list(self.terms[0])
        # One transfer from the device for everything that a step tells.
        sums = torch.stack([torch.stack([term[name].float() for term in self.terms]).mean() for name in names])
        loss, *terms = torch.cat([(torch.stack(self.losses).sum() / self.images).view(1).float(), sums]).tolist()
        self.events.step(
            epoch=self.epoch,
            epochs=self.epochs,
            step=self.steps,
            steps_per_epoch=self.steps_per_epoch,
            images=self.images,
            loss=loss,
            terms=dict(zip(names, terms, strict=True)),
            lr=plain_group(self.optimizer)["lr"],
            memory_bytes=self.peak_memory(),
            time_ms=(now - self.step_began) * 1e3,
        )
        if not all(map(finite, (loss, *terms))):
            raise Diverged(f"the loss of step {self.steps} (epoch {self.epoch + 1}) is not finite; {self.advice()}")
        self.steps += 1
        self.losses, self.terms, self.images = [], [], 0
        self.step_began = time.perf_counter()

    def peak_memory(self):
        if self.world.cuda:
            return torch.cuda.max_memory_reserved()
        if self.data_segment is not None:
            return self.data_segment.bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def validate(self):
        self.validated = True
        self.faults.at(self.steps - 1, "validation")
        return super().validate()

    def _handle_nan_recovery(self, epoch):
        """The base class goes on from an older checkpoint, which is another trajectory: say so and end instead."""
        if self.fitness is not None and not finite(float(self.fitness)):
            raise Diverged(f"the fitness of epoch {epoch + 1} is not finite; {self.advice()}")
        return False

    def advice(self):
        lower = f"a lower `args.lr0` (now {self.args.lr0}; it counts only with an `args.optimizer` of your choice)"
        return f"try `args.amp: false` or {lower}" if self.amp else f"try {lower}"

    def read_results_csv(self):
        """The table by column, for a checkpoint. The package reads it with polars, whose allocator asks for more than a capped device has."""
        try:
            with self.csv.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError:
            return {}
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {})}

    def save_model(self):
        with self.process.writing:
            saved = super().save_model()
            if self.is_best():
                self.best_epoch = self.epoch
            state.write(self, self.output / "weights")
            self.process.saved = self.epoch
        return saved

    def save_metrics(self, metrics):
        with self.process.writing:
            super().save_metrics(metrics)

    def is_best(self):
        return bool(self.validated and self.fitness is not None and self.fitness == self.best_fitness)

    def end_epoch(self):
        leader = self.world.rank == 0
        best = leader and self.is_best()
        if best:
            self.best_epoch = self.epoch
        if leader and self.validated:
            self.events.metrics(self.epoch, {**self.label_loss_items(self.tloss), **self.metrics, **self.lr})
        self.events.checkpoint(
            epoch=self.epoch,
            path="weights/last.pt" if leader and self.last.exists() else None,
            weights_sha256=weights_hash(unwrap_model(self.model)),
            best=best,
        )
        self.validated = False
        self.step_began = time.perf_counter()
        if leader:
            # Rank 0 alone knows yet that patience has come to its end.
            self.over = self.stop
            ends = self.stop or self.epoch + 1 >= self.until_epoch
            # The last epoch's is written with the model, whatever the settings say of saving.
            if ends and not self.args.save and self.epoch + 1 < self.epochs:
                with self.process.writing:
                    state.write(self, self.output / "weights")
            self.stop = ends

    def final_eval(self):
        """Validates the best weights once more, all ranks sharing the work: the base class would ask for a CUDA device. Only when the
        training is over: before that these weights are not the best yet, and the last ones are gone on from."""
        state = [None]
        if self.world.rank == 0 and self.over and self.best.exists():
            with self.process.writing:
                last = strip_optimizer(self.last) if self.last.exists() else {}
                strip_optimizer(self.best, updates={"train_results": last.get("train_results")})
            model, _ = load_checkpoint(self.best)
            state = [{name: value.cpu() for name, value in model.float().state_dict().items()}]
        dist.broadcast_object_list(state, 0)
        if state[0] is None:
            return
        # A fresh copy: validation turns the old one's buffers into tensors that cannot be written.
        self.ema = ModelEMA(self.model)
        self.ema.ema.load_state_dict(state[0])
        self.validator.args.plots = self.args.plots
        LOGGER.info(f"\nValidating {self.best}...")
        metrics = self.validator(self)
        if metrics is not None:
            metrics.pop("fitness", None)
            self.metrics = metrics
            score, stricter = metrics.get("metrics/mAP50(B)", 0.0), metrics.get("metrics/mAP50-95(B)", 0.0)
            self.events.note(f"best.pt is of epoch {self.best_epoch + 1}: mAP50 {score:.4f}, mAP50-95 {stricter:.4f}")
            # The last figures told are the run's: they must be those of the weights that it leaves.
            self.events.metrics(self.best_epoch, metrics)


class CpuDataParallel(nn.parallel.DistributedDataParallel):
    """DDP for CPU modules, which take no device: the engine names one."""

    def __init__(self, module, device_ids=None, **rest):
        super().__init__(module, device_ids=None, **rest)


def plain_group(optimizer):
    """The parameter group whose learning rate is lr0's schedule: biases warm up from above, and MuSGD has groups at three times lr0."""
    return min(
        (group for group in optimizer.param_groups if group.get("param_group") != "bias"),
        key=lambda group: group["initial_lr"],
    )


def amp_works(model):
    """Whether this GPU computes in half precision, tried on the model itself: the engine's own check downloads weights."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return False
    training = model.training
    model.eval()
    image = torch.rand(2, 3, 256, 256, device=device, generator=torch.Generator(device).manual_seed(0))
    try:
        with torch.no_grad():
            full = first_tensor(model(image)).float()
            with torch.autocast("cuda"):
                half = first_tensor(model(image)).float()
    finally:
        model.train(training)
    good = bool(torch.isfinite(half).all()) and torch.allclose(full, half, rtol=0.1, atol=0.1 * float(full.abs().max()))
    if not good:
        LOGGER.warning("AMP: half precision gives wrong results on this device, so it is turned off")
    return good


def first_tensor(output):
    while isinstance(output, (list, tuple)):
        output = output[0]
    return next(iter(output.values())) if isinstance(output, dict) else output


def weights_hash(model):
    """SHA-256 of the parameters in f32, in the order of their names. Buffers are left out: running statistics are each rank's own."""
    digest = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def finite(value):
    return value - value == 0


@contextlib.contextmanager
def replaced(owner, name, value):
    """`owner.name` is `value` inside the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)

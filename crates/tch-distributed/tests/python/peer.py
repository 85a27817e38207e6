"""The Python half: one rank of torch's own DistributedDataParallel. Its counterpart is examples/beside_python.rs.

    peer.py MODEL FOLDER RANK WORLD_SIZE STORE
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

STEPS = 20
TIMEOUT = timedelta(seconds=60)


def net(norm):
    layers = {"conv1": nn.Conv2d(3, 8, 3, padding=1)}
    if norm:
        layers["norm1"] = nn.BatchNorm2d(8)
    layers |= {"relu1": nn.ReLU(), "conv2": nn.Conv2d(8, 16, 3, padding=1, stride=2)}
    if norm:
        layers["norm2"] = nn.BatchNorm2d(16)
    layers |= {"relu2": nn.ReLU(), "flat": nn.Flatten(), "last": nn.Linear(16 * 64, 10)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def state(model):
    """What both sides have: tch's batch normalisation does not count its batches."""
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def read(path):
    return torch.from_numpy(np.fromfile(path, dtype="<f4"))


def open_store(place, folder, world_size):
    if place == "serve":
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        (folder / "port.new").write_text(str(store.port))
        os.rename(folder / "port.new", folder / "port")
        return store
    if place == "file":
        return dist.FileStore(str(folder / "store"), world_size)
    return dist.TCPStore("127.0.0.1", int(place), is_master=False, timeout=TIMEOUT)


def main(model, folder, rank, world_size, place):
    folder, rank, world_size = Path(folder), int(rank), int(world_size)
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = open_store(place, folder, world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)

    total = torch.tensor([rank + 1.0, 2.0**rank], dtype=torch.float64)
    dist.all_reduce(total)
    assert total.tolist() == [world_size * (world_size + 1) / 2, 2.0**world_size - 1], total

    torch.manual_seed(rank)
    module = net(model == "norm")
    if rank == 0:
        for name, value in state(module).items():
            value.copy_(read(folder / f"{name}.initial").view(value.shape))
    ddp = nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    images = read(folder / "images").view(STEPS, world_size, -1, 3, 16, 16)
    labels = read(folder / "labels").long().view(STEPS, world_size, -1)
    for step in range(STEPS):
        loss = nn.functional.cross_entropy(ddp(images[step, rank]), labels[step, rank])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in state(module).items():
        value.numpy().astype("<f4").tofile(folder / f"{name}.rank-{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

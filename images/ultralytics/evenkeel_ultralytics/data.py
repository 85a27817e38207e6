"""The data set as the job gives it, and the order in which its images are trained on."""

import json
from pathlib import Path

import torch
from torch.utils.data import Sampler


class DataError(Exception):
    """The data set cannot be read."""


def describe(data, scratch, single_class=False):
    """Ultralytics' dictionary of a data set, and the file that says the same for code that reads it again.

    With `single_class` (the package's `single_cls`) every object is of one class, whatever its label says.
    """
    scratch = Path(scratch)
    described = {
        "path": data["path"],
        "train": plain(data["train"], Path(data["path"]), scratch / "train.txt"),
        "val": plain(data["val"], Path(data["path"]), scratch / "val.txt"),
        "names": {int(index): name for index, name in data["names"].items()},
        "nc": len(data["names"]),
        "channels": 3,
    }
    if sorted(described["names"]) != list(range(described["nc"])):
        raise DataError(f"class indices must run from 0 without a gap, not {sorted(described['names'])}")
    if single_class:
        described |= {"names": {0: "item"}, "nc": 1}
    file = scratch / "data.yaml"
    # JSON is YAML, without YAML's guesses at what a plain `no` or `5e-7` might be.
    file.write_text(json.dumps(described), encoding="utf-8")
    described["yaml_file"] = str(file)
    return described, file


def plain(entries, root, listing):
    """Folders, and one list of absolute paths for all other entries (single images, and lists with relative lines)."""
    folders, files = [], []
    for entry in entries:
        path = root / entry
        if path.is_dir():
            folders.append(str(path))
        elif path.suffix == ".txt" and path.is_file():
            for line in path.read_text(encoding="utf-8-sig").splitlines():
                if line := line.strip():
                    files.append(str(path.parent / line[2:] if line.startswith("./") else root / line))
        elif path.is_file():
            files.append(str(path))
        else:
            raise DataError(f"no such folder or file: `{path}`")
    if files:
        listing.write_text("\n".join(files) + "\n", encoding="utf-8")
        folders.append(str(listing))
    return folders


class StepSampler(Sampler):
    """One rank's images in the order of optimizer steps of exactly T images each.

    An epoch's permutation depends on the seed and the epoch alone, so a step has the same images however many ranks share them. The
    last step of an epoch is filled up with the epoch's first images: every image is seen, and no step is short.
    """

    def __init__(self, images, cut, rank, seed):
        if images == 0:
            raise DataError("the training split has no images")
        self.images, self.cut, self.rank, self.seed, self.epoch = images, cut, rank, seed, 0
        self.steps = -(-images // cut.target)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.steps * self.cut.accumulate * self.cut.micro

    def __iter__(self):
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.images, generator=generator).tolist()
        share = self.cut.accumulate * self.cut.micro
        for step in range(self.steps):
            first = step * self.cut.target + self.rank * share
            yield from (order[position % self.images] for position in range(first, first + share))

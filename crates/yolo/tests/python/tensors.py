"""Safetensors files, read and written with what Python and torch bring."""

import json
import struct

import numpy as np
import torch

KINDS = {"F32": np.float32, "I64": np.int64}
NAMES = {np.dtype(kind): name for name, kind in KINDS.items()}


def write(path, tensors):
    header, blocks, at = {}, [], 0
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(torch.as_tensor(tensor).detach().cpu().numpy())
        data = array.tobytes()
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        blocks.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blocks))


def read(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(length)), file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        array = np.frombuffer(data[start:end], KINDS[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = torch.from_numpy(array.copy())
    return tensors

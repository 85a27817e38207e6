"""Weights of YOLOv8 between PyTorch files of the official package and safetensors.

    python3 -m evenkeel_ultralytics.weights import IN.pt OUT.safetensors
    python3 -m evenkeel_ultralytics.weights export IN.safetensors OUT.pt
"""

import json
import os
import struct
import sys
from pathlib import Path

# The first convolution's channels tell the size.
WIDTHS = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}
KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


class WeightsError(Exception):
    """The file cannot be converted; one line for a person."""


def read(path):
    """Tensors and texts of a safetensors file."""
    import torch

    content = Path(path).read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        texts = header.pop("__metadata__", {})
        tensors = {}
        for name, entry in header.items():
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            kind = getattr(torch, KINDS[entry["dtype"]])
            values = torch.frombuffer(bytearray(content[start:end]), dtype=kind)
            tensors[name] = values.reshape(entry["shape"]).float()
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"it is no safetensors file of floating-point tensors ({error})") from error
    return tensors, texts


def write(path, tensors, texts):
    """Writes tensors as f32, and texts."""
    header, blocks, at = {"__metadata__": texts}, [], 0
    for name, tensor in tensors.items():
        block = tensor.detach().float().cpu().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(block)]}
        blocks.append(block)
        at += len(block)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blocks)


def counted(name):
    """Whether our network has this tensor of the official one: not its counters, nor the constant that decodes distances."""
    return not name.endswith("num_batches_tracked") and ".dfl." not in name


def network(tensors, classes):
    """The official network of these weights' size, and its name."""
    from ultralytics.nn.tasks import DetectionModel

    first = tensors.get("model.0.conv.weight")
    size = None if first is None else WIDTHS.get(first.shape[0])
    if size is None:
        raise WeightsError("it holds no YOLOv8 detection model")
    model = DetectionModel(f"yolov8{size}.yaml", nc=classes, verbose=False)
    for name, tensor in model.state_dict().items():
        if counted(name) and (name not in tensors or tensors[name].shape != tensor.shape):
            found = list(tensors[name].shape) if name in tensors else "missing"
            raise WeightsError(f"it holds no YOLOv8 detection model of {classes} classes: `{name}` is {found}, not {list(tensor.shape)}")
    return model, f"yolov8{size}"


def import_(source, target):
    from ultralytics.nn.tasks import load_checkpoint

    try:
        model, _ = load_checkpoint(source)
        names = [model.names[index] for index in range(len(model.names))]
        tensors = {name: tensor for name, tensor in model.float().state_dict().items() if counted(name)}
    except Exception as error:
        raise WeightsError(f"it is no model of the official package ({type(error).__name__}: {error})") from error
    _, named = network(tensors, len(names))
    write(target, tensors, {"model": named, "names": json.dumps(names)})


def export(source, target):
    import torch
    import ultralytics

    tensors, texts = read(source)
    last = tensors.get("model.22.cv3.0.2.bias")
    names = json.loads(texts["names"]) if "names" in texts else [str(index) for index in range(0 if last is None else len(last))]
    model, named = network(tensors, len(names))
    model.load_state_dict(tensors, strict=False)
    arguments = {"task": "detect", "mode": "train", "model": f"{named}.yaml", "imgsz": int(texts.get("imgsz", 640))}
    model.names, model.args, model.task = dict(enumerate(names)), arguments, "detect"
    checkpoint = {"epoch": -1, "best_fitness": None, "model": model.eval(), "ema": None, "updates": None, "optimizer": None}
    torch.save(checkpoint | {"train_args": arguments, "version": ultralytics.__version__}, target)


def main(arguments):
    if len(arguments) != 3 or arguments[0] not in ("import", "export"):
        sys.exit(__doc__)
    for name, value in {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": "/tmp", "MPLCONFIGDIR": "/tmp"}.items():
        os.environ.setdefault(name, value)
    convert = import_ if arguments[0] == "import" else export
    part = arguments[2] + ".part"
    try:
        convert(arguments[1], part)
    except WeightsError as error:
        Path(part).unlink(missing_ok=True)
        sys.exit(f"evenkeel: {' '.join(str(error).split())}")
    os.replace(part, arguments[2])


if __name__ == "__main__":
    main(sys.argv[1:])

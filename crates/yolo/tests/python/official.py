"""Our model, loss and metric beside the official package's: the same weights, images and objects go through both.

    official.py PROGRAM        PROGRAM is examples/beside_official.rs
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from evenkeel_ultralytics.weights import read, write
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.metrics import DetMetrics, box_iou

CLASSES = 7
FAILURES = []


def check(what, value, limit):
    print(f"{what}: {value:.2e} (at most {limit:.0e})", flush=True)
    if not value <= limit:
        FAILURES.append(what)


def ours(mode, model, given):
    with tempfile.TemporaryDirectory() as folder:
        given_file, answer = Path(folder, "in.safetensors"), Path(folder, "out.safetensors")
        write(given_file, given, {})
        subprocess.run([PROGRAM, mode, model, str(CLASSES), given_file, answer], check=True)
        return read(answer)[0]


def network(name):
    """The official network, with weights as after some training: nothing at its initial value."""
    model = DetectionModel(f"{name}.yaml", nc=CLASSES, verbose=False)
    model.args = get_cfg()
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith(("bn.weight", "bn.bias")):
            value.add_(torch.randn_like(value) * 0.1)
        elif ".cv3." in key and key.endswith(".2.bias"):
            # Scores near one half, where a difference shows.
            value.normal_(0, 1)
    return model


def weights(model):
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked") and ".dfl." not in k}


def same_network():
    for name in ("yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x"):
        model = network(name).eval()
        for height, width in ((64, 64), (160, 96), (320, 320)):
            images = torch.rand(2, 3, height, width)
            with torch.no_grad():
                official = model(images)[0]
            xy, wh = official[:, :2], official[:, 2:4]
            boxes = torch.cat((xy - wh / 2, xy + wh / 2), 1).transpose(1, 2)
            answer = ours("predict", name, {"images": images, **weights(model)})
            # Relative to the picture for boxes, absolute for probabilities.
            check(f"{name} {height}x{width}: boxes", ((answer["boxes"] - boxes).abs().max() / max(height, width)).item(), 1e-4)
            check(f"{name} {height}x{width}: scores", (answer["scores"] - official[:, 4:].transpose(1, 2)).abs().max().item(), 1e-4)


def objects(counts, size):
    """Rows of image, class and corners in pixels."""
    rows = []
    for image, count in enumerate(counts):
        for _ in range(count):
            side = np.exp(np.random.uniform(np.log(4), np.log(size * 0.8), 2))
            corner = np.random.uniform(0, size - side)
            rows.append([image, np.random.randint(CLASSES), *corner, *(corner + side)])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


def same_loss():
    size = 160
    for counts in ([0, 0], [1, 1], [5, 0, 5], [300, 1], [300, 300]):
        model = network("yolov8n").train()
        images, labels = torch.rand(len(counts), 3, size, size), objects(counts, size)
        corners = labels[:, 2:] / size
        batch = {
            "img": images,
            "batch_idx": labels[:, 0],
            "cls": labels[:, 1:2],
            "bboxes": torch.cat(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), 1),
        }
        given = {"images": images, "labels": labels, **weights(model)}
        answer = ours("loss", "yolov8n", {k: v.clone() for k, v in given.items()})
        loss, terms = model.loss(batch)
        loss.sum().backward()
        terms = torch.stack([terms[name].detach() for name in ("box_loss", "cls_loss", "dfl_loss")])
        what = f"objects {counts}"
        for term, mine, official in zip(("box", "cls", "dfl"), answer["terms"], terms):
            apart = (mine - official).abs() / official.abs().clamp_min(1e-12)
            check(f"{what}: {term} {official:.4f}", 0.0 if mine == official else apart.item(), 1e-5)
        apart = [
            ((answer[f"gradient.{name}"] - p.grad).norm() / p.grad.norm().clamp_min(1e-9)).item()
            for name, p in model.named_parameters()
            if p.requires_grad and p.grad is not None
        ]
        check(f"{what}: gradient of {len(apart)} parameters, the worst", max(apart), 1e-4)
        running = [(answer[k] - v).abs().max().item() for k, v in model.state_dict().items() if "running_" in k]
        check(f"{what}: running statistics", max(running), 1e-5)


def same_metric():
    for images in (1, 20):
        labels = objects(np.random.randint(0, 12, images), 160)
        rows = []
        for label in labels:
            for _ in range(np.random.randint(0, 4)):
                noise = torch.randn(4) * 3
                cls = label[1] if np.random.rand() < 0.8 else torch.tensor(float(np.random.randint(CLASSES)))
                rows.append([label[0], *(label[2:] + noise), float(np.random.rand()), cls])
        found = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
        found = found[(-found[:, 5]).argsort(stable=True)]
        answer = ours("metric", "yolov8n", {"images": torch.tensor([images]), "labels": labels, "detections": found})

        from ultralytics.models.yolo.detect import DetectionValidator

        validator = DetectionValidator(args={"model": "yolov8n.yaml", "plots": False})
        validator.iouv = torch.linspace(0.5, 0.95, 10)
        metrics = DetMetrics(names={i: str(i) for i in range(CLASSES)})
        for image in range(images):
            mine, there = found[found[:, 0] == image], labels[labels[:, 0] == image]
            iou = box_iou(there[:, 2:], mine[:, 1:5])
            right = validator.match_predictions(mine[:, 6], there[:, 1], iou) if len(there) else torch.zeros(len(mine), 10, dtype=torch.bool)
            metrics.update_stats({
                "tp": right.numpy(), "conf": mine[:, 5].numpy(), "pred_cls": mine[:, 6].numpy(),
                "target_cls": there[:, 1].numpy(), "target_img": np.unique(there[:, 1].numpy()), "im_name": str(image),
            })  # fmt: skip
        metrics.process(plot=False)
        official = metrics.mean_results()
        for what, mine, theirs in zip(("precision", "recall", "mAP50", "mAP50-95"), answer["figures"], official):
            check(f"{images} images, {what} {theirs:.4f}", abs(mine.item() - theirs), 1e-3)


if __name__ == "__main__":
    PROGRAM = sys.argv[1]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    for part in (same_network, same_loss, same_metric):
        part()
    if FAILURES:
        sys.exit("not the same: " + "; ".join(FAILURES))

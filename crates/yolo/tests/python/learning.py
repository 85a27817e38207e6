"""Whether our trainer learns as well as the official one, and whether both agree on how good weights are.

    learning.py EXAMPLE [SEEDS]        EXAMPLE is not used

On two sets, with the same settings and several seeds each: the mean of the final mAP50-95 of ours may lie below that of the official trainer by
no more than the seeds of both scatter. Official weights must score here what the official validator gave them, to 0.003. Writes
/output/learning.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import trainers
from PIL import Image, ImageDraw, ImageFont

IMAGES, EPOCHS, SIDE = int(os.environ.get("EVENKEEL_LEARN_IMAGES", "256")), int(os.environ.get("EVENKEEL_LEARN_EPOCHS", "30")), 160
SETTINGS = {"optimizer": "SGD", "lr0": 0.02, "momentum": 0.937, "warmup_epochs": 3.0, "plots": False, "close_mosaic": 5}


def background(chance):
    low, high = chance.integers(20, 120), chance.integers(130, 235)
    rough = Image.fromarray(chance.integers(low, high, (10, 10, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
    return rough, ImageDraw.Draw(rough)


def shapes(chance):
    """Circles, squares and triangles of one colour each."""
    picture, draw = background(chance)
    labels = []
    for _ in range(chance.integers(1, 4)):
        kind, size = int(chance.integers(3)), chance.integers(16, 56)
        x, y = chance.integers(0, SIDE - size, 2)
        colour = tuple(int(c) for c in chance.integers(0, 255, 3))
        box = [int(x), int(y), int(x + size), int(y + size)]
        if kind == 0:
            draw.ellipse(box, fill=colour)
        elif kind == 1:
            draw.rectangle(box, fill=colour)
        else:
            draw.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=colour)
        labels.append((kind, box))
    return picture, labels


def letters(chance):
    """Letters, which differ by their inside and less by their outline."""
    picture, draw = background(chance)
    labels = []
    for _ in range(chance.integers(1, 5)):
        kind = int(chance.integers(5))
        font = ImageFont.load_default(int(chance.integers(24, 60)))
        x, y = (int(at) for at in chance.integers(0, SIDE - 50, 2))
        box = draw.textbbox((x, y), "AEHKR"[kind], font=font)
        draw.text((x, y), "AEHKR"[kind], font=font, fill=tuple(int(c) for c in chance.integers(0, 90, 3)))
        labels.append((kind, [max(0, box[0]), max(0, box[1]), min(SIDE, box[2]), min(SIDE, box[3])]))
    return picture, labels


SETS = {"shapes": (shapes, ["circle", "square", "triangle"]), "letters": (letters, list("AEHKR"))}


def write(folder, draw):
    chance = np.random.default_rng(7)
    for split, count in (("train", IMAGES), ("val", IMAGES // 4)):
        for kind in ("images", "labels"):
            Path(folder, kind, split).mkdir(parents=True)
        for number in range(count):
            picture, labels = draw(chance)
            picture.save(Path(folder, "images", split, f"{number}.png"))
            rows = [
                f"{kind} {(box[0] + box[2]) / 2 / SIDE} {(box[1] + box[3]) / 2 / SIDE} {(box[2] - box[0]) / SIDE} {(box[3] - box[1]) / SIDE}"
                for kind, box in labels
            ]
            Path(folder, "labels", split, f"{number}.txt").write_text("\n".join(rows))


def final(run):
    return run.told("metrics")[-1]["values"]["metrics/mAP50-95(B)"]


def main(_, seeds="3"):
    outcome, missed = {}, []
    for name, (draw, classes) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(folder, draw)
            ours, theirs = [], []
            for seed in range(int(seeds)):
                options = {"epochs": EPOCHS, "side": SIDE, "seed": seed, "args": SETTINGS}
                ours.append(final(trainers.run(trainers.NATIVE, folder, classes, **options)))
                weights = f"{folder}/official.pt"
                run = trainers.run(trainers.OFFICIAL, folder, classes, keep=("weights/best.pt", weights), **options)
                theirs.append(final(run))
                print(f"{name}, seed {seed}: mAP50-95 native {ours[-1]:.4f}, official {theirs[-1]:.4f}", flush=True)
            convert = ["/opt/venv/bin/python3", "-m", "evenkeel_ultralytics.weights", "import", weights, f"{folder}/official.safetensors"]
            subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
            here = trainers.run(trainers.VALIDATE, folder, classes, side=SIDE, model=f"{folder}/official.safetensors", args={})
            apart = abs(final(here) - theirs[-1])
            print(f"{name}: the last official weights score {theirs[-1]:.4f} there and {final(here):.4f} here", flush=True)
        scatter = (max(ours) - min(ours)) + (max(theirs) - min(theirs))
        behind = statistics.mean(theirs) - statistics.mean(ours)
        outcome[name] = {"native": ours, "official": theirs, "scatter": scatter, "behind": behind, "validators_apart": apart}
        print(f"{name}: native behind by {behind:.4f}, the seeds of both scatter by {scatter:.4f}", flush=True)
        if behind > max(scatter, 0.01):
            missed.append(f"{name}: native is behind by {behind:.4f}")
        if apart > 0.003:
            missed.append(f"{name}: the validators are {apart:.4f} apart")
    Path("/output/learning.json").write_text(json.dumps(outcome, indent=2) + "\n")
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Writes the lock files of the images from pip's own resolution.

Run in a container of evenkeel/base with python3-venv, where the versions that are wanted are written down once:

    pip install --dry-run --report report.json torch==2.11.0 torchvision==0.26.0 \
        ultralytics==8.4.190 opencv-python-headless jupyterlab \
        nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
    python3 images/lock.py report.json cu130

Each line names one wheel by its hash, so an index cannot hand out another; pip installs them with --no-deps.
"""

import json
import re
import sys
from pathlib import Path

IMAGES = Path(__file__).parent
HEADER = "# Written by images/lock.py for Python 3.13 on x86_64; change the versions there and write it anew.\n"

# What a process on the CPU loads, and what its build includes.
LIBTORCH = {"torch", "nvidia-cuda-runtime", "nvidia-cuda-cupti"}
# What an NCCL group is compiled with besides: headers. The build keeps nothing else of them.
HEADERS = {"nvidia-nccl-cu13", "nvidia-cuda-crt", "nvidia-cuda-cccl"}
# What differs from one CUDA version to the next.
FLAVOURED = re.compile(r"nvidia-(?!ml-py)|cuda-|torchvision$")
# The headless build of OpenCV has the same modules and needs no display libraries; triton needs a C compiler to be of use,
# which the images do not have.
LEFT_OUT = {"opencv-python", "triton"}
ULTRALYTICS = ["torch", "torchvision", "ultralytics", "opencv-python-headless"]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(packages, roots):
    """Names reachable from `roots` by requirements that hold on Linux; a requirement behind an extra does not count."""
    seen, todo = set(), list(roots)
    while todo:
        name = todo.pop()
        if name in seen or name not in packages:
            continue
        seen.add(name)
        for requirement in packages[name]["metadata"].get("requires_dist", []):
            if "extra ==" not in requirement or name == "cuda-toolkit":
                todo.append(canonical(re.match(r"[\w.-]+", requirement).group()))
    return seen


def write(path, packages, names):
    lines = [HEADER]
    for name in sorted(names):
        package = packages[name]
        digest = package["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={package['metadata']['version']} --hash=sha256:{digest}\n")
    path.write_text("".join(lines))


def main(report, flavour):
    installs = json.loads(Path(report).read_text())["install"]
    packages = {canonical(p["metadata"]["name"]): p for p in installs}
    training = closure(packages, ULTRALYTICS) - LEFT_OUT - LIBTORCH
    flavoured = {name for name in training if FLAVOURED.match(name)}
    write(IMAGES / "worker" / f"torch.{flavour}.txt", packages, LIBTORCH)
    write(IMAGES / "worker" / f"headers.{flavour}.txt", packages, HEADERS)
    write(IMAGES / "ultralytics" / f"torch.{flavour}.txt", packages, flavoured)
    write(IMAGES / "ultralytics" / "requirements.txt", packages, training - flavoured)
    # cuda-toolkit's extras belong to the other flavour file; the workbench adds only what training lacks.
    rest = set(packages) - training - LEFT_OUT - LIBTORCH - HEADERS
    write(IMAGES / "ultralytics" / "workbench.txt", packages, rest)


if __name__ == "__main__":
    main(*sys.argv[1:])

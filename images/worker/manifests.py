"""Copies the manifests of some crates, with empty sources and a lock of just their dependencies.

    manifests.py CONTEXT OUTPUT CRATE...
    manifests.py --check LOCK-BEFORE LOCK-AFTER

The result compiles like the workspace itself and changes only when something that these crates depend on changes: neither an
edit of a source nor a new dependency of the controller's makes an image build fetch and compile libtorch's bindings again.
"""

import re
import shutil
import sys
import tomllib
from pathlib import Path


def members(context, roots):
    """Folders of `roots` and of the workspace's crates that they depend on, by crate."""
    manifests = {path: tomllib.loads(path.read_text()) for path in sorted(context.glob("crates/*/Cargo.toml"))}
    by_name = {manifest["package"]["name"]: (path.parent, manifest) for path, manifest in manifests.items()}
    found, todo = {}, list(roots)
    while todo:
        name = todo.pop()
        if name in by_name and name not in found:
            folder, manifest = by_name[name]
            found[name] = folder
            for table in ("dependencies", "dev-dependencies", "build-dependencies"):
                todo.extend(manifest.get(table, {}))
    return found


def virtual_manifest(text, folders):
    """The root manifest without the controller's own package, and with these folders for members."""
    sections = re.split(r"(?m)^(?=\[)", text)
    kept = [s for s in sections if re.match(r"\[(workspace|profile|patch)\b", s)]
    text = "".join(kept)
    text = re.sub(r"(?ms)^default-members\s*=\s*\[.*?\]\n", "", text)
    listed = ", ".join(f'"{folder}"' for folder in folders)
    return re.sub(r"(?ms)^members\s*=\s*\[.*?\]\n", f"members = [{listed}]\n", text)


def packages(lock):
    return [tomllib.loads(block) for block in lock.split("[[package]]")[1:]]


def pruned_lock(text, roots):
    """The lock's packages that `roots` reach. Cargo drops a few more, those behind features that only the controller asks for."""
    head, *blocks = text.split("[[package]]")
    by_name = {}
    for package in packages(text):
        by_name.setdefault(package["name"], []).append(package)
    kept, todo = set(), list(roots)
    while todo:
        name, _, version = todo.pop().partition(" ")
        version = version.partition(" ")[0]
        for package in by_name.get(name, []):
            key = (package["name"], package["version"])
            if key not in kept and version in ("", package["version"]):
                kept.add(key)
                todo.extend(package.get("dependencies", []))
    body = [block for package, block in zip(packages(text), blocks, strict=True) if (package["name"], package["version"]) in kept]
    return head + "".join("[[package]]" + block for block in body).rstrip() + "\n"


def check(before, after):
    """Fails if cargo took a package that the lock did not have: then the lock was stale, and the build not the one that is meant."""
    known = {(p["name"], p["version"], p.get("checksum")) for p in packages(Path(before).read_text())}
    new = [p for p in packages(Path(after).read_text()) if (p["name"], p["version"], p.get("checksum")) not in known]
    if new:
        sys.exit("Cargo.lock lacks " + ", ".join(f"{p['name']} {p['version']}" for p in new) + "; run cargo once on the host")


def main(context, output, *roots):
    context, output = Path(context), Path(output)
    folders = members(context, roots)
    for folder in folders.values():
        target = output / folder.relative_to(context)
        (target / "src").mkdir(parents=True)
        shutil.copy(folder / "Cargo.toml", target)
        if (folder / "build.rs").exists():
            (target / "build.rs").write_text("fn main() {}\n")
        if (folder / "src" / "lib.rs").exists():
            (target / "src" / "lib.rs").write_text("")
        if (folder / "src" / "main.rs").exists():
            (target / "src" / "main.rs").write_text("fn main() {}\n")
    relative = sorted(str(folder.relative_to(context)) for folder in folders.values())
    (output / "Cargo.toml").write_text(virtual_manifest((context / "Cargo.toml").read_text(), relative))
    (output / "Cargo.lock").write_text(pruned_lock((context / "Cargo.lock").read_text(), folders))


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(*sys.argv[2:])
    else:
        main(*sys.argv[1:])

"""Copies the manifests of some crates, with empty sources and a lock of just their dependencies.

    manifests.py CONTEXT OUTPUT CRATE...

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


def pruned_lock(text, roots):
    """The lock's packages that `roots` reach; cargo takes it under --locked as its own."""
    head, *blocks = text.split("[[package]]")
    packages = [(tomllib.loads(block), block) for block in blocks]
    by_name = {}
    for package, _ in packages:
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
    body = [block for package, block in packages if (package["name"], package["version"]) in kept]
    return rename_unambiguous(head + "".join("[[package]]" + block for block in body).rstrip() + "\n")


def rename_unambiguous(text):
    """Cargo names a version only where the lock has several: drop those that the pruning made needless."""
    counts = {}
    for package in tomllib.loads(text)["package"]:
        counts[package["name"]] = counts.get(package["name"], 0) + 1
    return re.sub(
        r'(?m)^ "([\w-]+) [^"]+",$',
        lambda m: f' "{m[1]}",' if counts.get(m[1]) == 1 else m[0],
        text,
    )


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
    main(*sys.argv[1:])

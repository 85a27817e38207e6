"""A report in a headless browser. `make DIR` makes records up; `look FILE [CHARTS]` opens a report and says what is wrong with it, or that
there are fewer charts.

The browser is spoken to through its DevTools over a pipe, with nothing but Python's own library.
"""

import base64
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import zlib

# Seconds that the browser may take for an answer.
PATIENCE = 120
BEGUN = 1_795_491_901_000
HOSTILE = "</title></style><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)>"


def picture(side):
    """A PNG of a few shapes, as a trainer would draw them."""
    rows = []
    for y in range(side):
        row = bytearray([0])
        for x in range(side):
            inside = (x // (side // 4) + y // (side // 4)) % 2
            edge = x % (side // 4) < 2 or y % (side // 4) < 2
            row += bytes([250, 120, 40] if edge else [60 + 120 * inside, 90 + x * 120 // side, 120 + y * 100 // side])
        rows.append(bytes(row))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


class Record:
    """A run's directory that is made up."""

    def __init__(self, runs, name, label, devices):
        self.path = pathlib.Path(runs, name, "20261124-034501")
        for folder in ("logs", "events", "output"):
            (self.path / folder).mkdir(parents=True)
        self.seq, self.devices = 0, devices
        text = f"name: {json.dumps(label)}\ntrainer: native\nmodel: yolov8n.yaml\ndata: data/shapes/data.yaml\nepochs: 40\n"
        (self.path / "resolved.yaml").write_text(text)
        digest = "sha256:" + "0123456789abcdef" * 4
        self.entry(0, "run", {"run": "20261124-034501", "image": "evenkeel/worker:0123456789ab", "image_id": digest})

    def entry(self, at_ms, entry, detail):
        value = {"v": 1, "seq": self.seq, "time_ms": BEGUN + at_ms, "entry": entry, "detail": detail}
        self.seq += 1
        with open(self.path / "journal.jsonl", "a") as journal:
            journal.write(json.dumps(value) + "\n")

    def ranks(self, micro, seen):
        gib = 1 << 30
        return [
            {"rank": rank, "device": device, "micro_batches": micro, "predicted_bytes": int(2.05 * gib),
             "measured_bytes": int((seen + rank / 20) * gib), "budget_bytes": int(3.2 * gib)}
            for rank, device in enumerate(self.devices)
        ]

    def launch(self, number, at_ms, end_ms, micro, last_step, failures, step_downs):
        self.entry(at_ms, "create", {"generation": number, "rank": 0, "container": "c"})
        self.entry(at_ms + (end_ms - at_ms) // 10, "go", {"generation": number})
        logs = [{"rank": rank, "sealed": True, "lines": 1234, "bytes": 56789, "dropped": 0, "whole": True}
                for rank in range(len(self.devices))]
        self.entry(end_ms, "logs", {"generation": number, "ranks": logs})
        self.entry(end_ms, "attempt", {
            "generation": number, "target_batch": 64, "imgsz": 320, "ranks": self.ranks(micro, 1.9), "last_step": last_step,
            "images": 64 * last_step, "step_seconds": last_step * 0.4, "step_downs": step_downs, "failures": failures})

    def plan(self, micro):
        ranks = [{"rank": rank, "device": device, "micro_batches": micro} for rank, device in enumerate(self.devices)]
        plan = {"target_batch": 64, "split": "uniform", "containers": len(ranks), "ranks": ranks}
        (self.path / "plan.json").write_text(json.dumps(plan))

    def used(self, seconds):
        chance = random.Random(7)
        gib = 1 << 30
        ranks = ["time_ms,generation,rank,cpu_percent,memory_bytes,memory_peak_bytes,memory_limit_bytes"]
        devices = ["time_ms,generation,device,memory_used_bytes,memory_total_bytes,utilization_percent,temperature_c,power_w,throttling,processes"]
        for second in range(1, seconds):
            launch = 1 if second < 120 else 2
            for rank, device in enumerate(self.devices):
                cpu = "" if second in (1, 120) else f"{180 + chance.gauss(0, 20):.1f}"
                ranks.append(f"{BEGUN + second * 1000},{launch},{rank},{cpu},{int((3 + rank / 4 + second / 400) * gib)},{5 * gib},")
                memory = int((1.9 + rank / 20) * gib)
                devices.append(f"{BEGUN + second * 1000},{launch},{device},{memory},{8 * gib},{85 + chance.randrange(15)},71,210.5,none,none")
        (self.path / "ranks.csv").write_text("\n".join(ranks) + "\n")
        (self.path / "devices.csv").write_text("\n".join(devices) + "\n")

    def events(self, rank, records):
        with open(self.path / "events" / f"rank-{rank}.events.jsonl", "w") as file:
            for seq, (generation, at_ms, event) in enumerate(records):
                file.write(json.dumps({"v": 1, "generation": generation, "rank": rank, "seq": seq,
                                       "time_ms": BEGUN + at_ms, "event": event}) + "\n")


def steps(rank, count, epochs, span_ms, retry_at=None):
    """Events of a training that learns, with a spike in it; from `retry_at` on by another launch."""
    chance = random.Random(rank)
    events = [(1, 1000, {"kind": "preflight", "ok": True, "bytes_per_second": 2e9, "transport": "tcp", "message": None})]
    for step in range(count):
        generation = 2 if retry_at is not None and step >= retry_at else 1
        if step == retry_at:
            events.append((1, 119_500, {"kind": "failure", "class": "out_of_memory.device",
                           "message": "the cap of 3.2 GiB is used up", "retry_below": None}))
        part = step / count
        loss = 1.2 + 3.5 * math.exp(-5 * part) + chance.gauss(0, 0.15) + (4 if step == count // 4 else 0)
        warm = min(1, step / (count / 15))
        events.append((generation, span_ms * (step + 1) // count, {
            "kind": "step", "epoch": step * epochs // count, "epochs": epochs, "step": step, "steps_per_epoch": count // epochs,
            "images": 32, "loss": loss, "terms": {"box": loss / 3}, "lr": 0.01 * warm * (1 - 0.99 * part),
            "memory_bytes": int(1.9 * (1 << 30)), "time_ms": 380 + chance.random() * 60 + (300 if step % 97 == 0 else 0)}))
    return events


def table(epochs, columns):
    lines = ["epoch,time," + ",".join(columns)]
    for epoch in range(1, epochs + 1):
        part = epoch / epochs
        values = []
        for number, name in enumerate(columns):
            if "loss" in name:
                values.append(0.4 + (0.2 if name.startswith("val") else 0) + (1 + number % 3) * math.exp(-3 * part))
            elif name.startswith("lr"):
                values.append(0.01 * (1 - part) + 0.0001)
            else:
                values.append((0.91 - 0.09 * number % 0.3) * (1 - math.exp(-4 * part)) * (1 + 0.02 * math.sin(epoch + number)))
        lines.append(f"{epoch},{epoch * 9.5}," + ",".join(f"{value:.5f}" for value in values))
    return "\n".join(lines) + "\n"


NAMES = ["train/box_loss", "train/cls_loss", "train/dfl_loss", "metrics/precision(B)", "metrics/recall(B)", "metrics/mAP50(B)",
         "metrics/mAP50-95(B)", "val/box_loss", "val/cls_loss", "val/dfl_loss", "lr/pg0", "lr/pg1", "lr/pg2"]


def make(runs):
    run = Record(runs, "shapes", "shapes", ["GPU-3f2a91c4-8d77-4f0e-9b1e-5a6b7c8d9e0f", "GPU-77aa01b2-1c2d-4e5f-8a9b-0c1d2e3f4a5b"])
    run.plan([16, 16])
    out = {"rank": 1, "class": "out_of_memory.device", "message": "the cap of 3.2 GiB is used up"}
    run.launch(1, 1000, 120_000, [32], 400, [out], [])
    run.launch(2, 121_000, 400_000, [16, 16], 1200, [], [{"step": 700, "rank": 0, "from": 16, "to": 8}])
    down = (2, 260_000, {"kind": "stepped_down", "step": 700, "from": 16, "to": 8, "message": "no memory"})
    for rank in range(2):
        told = steps(rank, 1200, 40, 395_000, 400 if rank == 1 else None)
        told = [(2 if event["kind"] == "step" and event["step"] >= 400 else launch, at, event) for launch, at, event in told]
        run.events(rank, told + ([down] if rank == 0 else []))
    (run.path / "results.csv").write_text(table(40, NAMES))
    run.used(400)
    for number in range(2):
        (run.path / "output" / f"val_batch{number}_pred.png").write_bytes(picture(320))
    (run.path / "output" / "confusion_matrix.png").write_bytes(picture(200))
    (run.path / "output" / "val_batch2_pred.jpg").write_bytes(b"\xff\xd8\xff" + bytes(2 << 20))
    run.entry(401_000, "end", {"exit_code": 0, "state": "done", "failure": None, "generations": 2, "devices": run.devices,
                               "epochs_done": 40, "epochs": 40, "metrics": {"metrics/mAP50(B)": 0.913}})

    bare = Record(runs, "bare", "bare", [])
    bare.entry(2000, "end", {"exit_code": 3, "state": "failed", "devices": [], "failure": {
        "rank": None, "class": "infrastructure", "message": "the engine could not create the container: no such image",
        "advice": "see whether the registry answers, and train again"}})

    long = Record(runs, "long", HOSTILE, [f"cpu:{rank} {HOSTILE}" for rank in range(4)])
    long.plan([4, 4, 4, 4])
    long.launch(1, 1000, 9_000_000, [4, 4, 4, 4], 100_000, [{"rank": 1, "class": "code", "message": HOSTILE}], [])
    long.events(0, steps(0, 100_000, 1000, 8_990_000))
    (long.path / "results.csv").write_text(table(1000, NAMES + [f"train/{HOSTILE.replace(',', '')}_loss"]))
    (long.path / "output" / "val_pred.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><script>alert(1)</script><image href="http://127.0.0.1:9/x"/>'
        '<rect width="40" height="20" fill="teal"/></svg>')
    long.entry(9_001_000, "end", {"exit_code": 1, "state": "failed", "devices": long.devices, "epochs_done": 1000, "epochs": 1000,
                                  "metrics": {}, "failure": {"rank": 1, "class": "code", "message": HOSTILE, "advice": HOSTILE}})


class Browser:
    """Chromium, through its DevTools."""

    def __init__(self):
        (read, self.to), (self.back, write) = os.pipe(), os.pipe()
        # The browser has its end of the pipes as descriptors 3 and 4.
        def place():
            os.dup2(read, 63), os.dup2(write, 64), os.dup2(63, 3), os.dup2(64, 4)
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                   "--user-data-dir=/tmp/profile", "--disable-background-networking", "--disable-component-update", "about:blank"]
        self.process = subprocess.Popen(command, preexec_fn=place, close_fds=False, stderr=subprocess.DEVNULL)
        os.close(read), os.close(write)
        self.last, self.rest, self.told = 0, b"", []

    def message(self):
        while b"\0" not in self.rest:
            part = os.read(self.back, 1 << 20)
            assert part, "the browser is gone"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method, session=None, **parameters):
        self.last += 1
        asked = {"id": self.last, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self.to, json.dumps(asked).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.last:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.told.append(message)

    def wait(self, method):
        while not any(message.get("method") == method for message in self.told):
            self.told.append(self.message())


# What a page is asked; the answer is plain data.
QUESTIONS = """(() => {
  const shown = element => { const box = element.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
  // A line of equal values has no height.
  const seen = element => { const box = element.getBoundingClientRect(); return box.width > 0 || box.height > 0; };
  const charts = [...document.querySelectorAll('svg[role=img]')];
  const drawn = charts.filter(chart => [...chart.querySelectorAll('path.line, rect.seen, rect.trained, rect.failed, rect.stopped')].some(seen));
  let small = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const parent = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || parent.closest('svg')) continue;
    const size = parseFloat(getComputedStyle(parent).fontSize);
    if (size < 12) small.push(size + ' ' + walk.currentNode.data.slice(0, 40));
  }
  const light = colour => { const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(Number)
      .map(part => part / 255).map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = element => { for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour; } return 'rgb(255, 255, 255)'; };
  const pale = [...document.querySelectorAll('p, li, dd, dt, td, th, span.x, span.y, figcaption, caption, summary, small, b, .state')]
    .filter(element => element.textContent.trim() && shown(element)).map(element => {
      const [one, other] = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
      return [(one + 0.05) / (other + 0.05), element.textContent.trim().slice(0, 40)]; }).filter(([ratio]) => ratio < 4.5);
  return { charts: charts.length, drawn: drawn.length, empty: charts.filter(chart => !shown(chart)).length,
    pictures: [...document.images].map(image => image.complete && image.naturalWidth > 0),
    width: document.documentElement.scrollWidth, small, pale, scripts: document.scripts.length,
    headings: [...document.querySelectorAll('h1, h2')].map(heading => heading.textContent),
    unnamed: charts.filter(chart => !chart.getAttribute('aria-label')).length };
})()"""


def look(page, charts=1):
    page, charts = pathlib.Path(page), int(charts)
    size = page.stat().st_size
    assert size < 2_000_000, f"{size} bytes"
    wrong = []
    browser = Browser()
    for width, scheme in [(400, "light"), (400, "dark"), (1280, "light"), (1280, "dark")]:
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.ask(f"{domain}.enable", session)
        browser.ask("Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1, mobile=width == 400)
        browser.ask("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.told.clear()
        browser.ask("Page.navigate", session, url=page.as_uri())
        browser.wait("Page.loadEventFired")
        answer = browser.ask("Runtime.evaluate", session, expression=QUESTIONS, returnByValue=True)
        assert "value" in answer["result"], answer
        told = answer["result"]["value"]
        where = f"{page.name} at {width} px, {scheme}"
        asked = [message["params"]["request"]["url"] for message in browser.told if message.get("method") == "Network.requestWillBeSent"]
        others = [url[:80] for url in asked if url != page.as_uri() and not url.startswith("data:")]
        says = [message for message in browser.told if message.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled",
                "Runtime.exceptionThrown", "Page.javascriptDialogOpening")]
        checks = {
            "asked for something else": others, "told its console": says, "too wide": told["width"] > width and told["width"],
            "letters below 12 px": told["small"], "letters too pale": told["pale"], "scripts": told["scripts"],
            "a picture not shown": not all(told["pictures"]), "charts of no size": told["empty"], "charts without a name": told["unnamed"],
            "no chart": told["drawn"] < charts, "nothing asked, which cannot be": not asked,
        }
        wrong += [f"{where}: {what}: {found}" for what, found in checks.items() if found]
        height = browser.ask("Page.getLayoutMetrics", session)["cssContentSize"]["height"]
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 12_000), "scale": 1}
        shot = browser.ask("Page.captureScreenshot", session, clip=clip, captureBeyondViewport=True)["data"]
        page.with_name(f"{page.stem}-{width}-{scheme}.png").write_bytes(base64.b64decode(shot))
        print(f"{where}: {told['drawn']} of {told['charts']} charts drawn, {len(told['pictures'])} pictures, {len(asked) - len(others)} of {len(asked)} requests for what is in the file, "
              f"{size:,} bytes, {told['width']} px wide, {height:.0f} high")
        browser.ask("Target.closeTarget", targetId=target)
    browser.process.kill()
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    {"make": make, "look": look}[sys.argv[1]](*sys.argv[2:])

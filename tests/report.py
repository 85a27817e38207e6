"""Opens reports in a headless Chromium, through the pipe of its DevTools, and looks at what a reader would meet: report.py OUTPUT REPORT...

Of each, wide and at 400 pixels, light and dark: no word on the console, no request for anything but the file itself, charts that are there and of a
size, nothing wider than the window, no text smaller than 12 pixels. Prints what it saw; ends with 1 where anything is amiss.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SMALLEST = 11.9  # Pixels: 12, but for rounding.
LOOK = """
(() => {
  const charts = [...document.querySelectorAll('svg[role=img]')].map((svg) => {
    const box = svg.getBoundingClientRect();
    return { name: svg.getAttribute('aria-label'), width: box.width, height: box.height, shapes: svg.querySelectorAll('polyline, rect').length };
  });
  const text = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('title, style')) continue;
    const svg = element.closest('svg');
    const scale = svg && svg.viewBox.baseVal ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    text.push([parseFloat(getComputedStyle(element).fontSize) * scale, walker.currentNode.data.trim().slice(0, 40)]);
  }
  text.sort((one, other) => one[0] - other[0]);
  const images = [...document.images].map((image) => [image.alt, image.naturalWidth]);
  return { charts, smallest: text[0], images, width: document.documentElement.scrollWidth, scripts: document.scripts.length };
})()
"""


class Browser:
    """A Chromium that is spoken to through two pipes, a message between two zeros."""

    def __init__(self, profile: str) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def place() -> None:
            # Numbers that neither pipe has.
            os.dup2(theirs_in, 63)
            os.dup2(theirs_out, 64)
            os.dup2(63, 3)
            os.dup2(64, 4)

        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.reader = os.fdopen(ours_in, "rb", buffering=0)
        self.writer = os.fdopen(ours_out, "wb", buffering=0)
        self.rest = b""
        self.number = 0
        self.events: list[dict] = []
        self.session: str | None = None

    def read(self) -> dict:
        while b"\0" not in self.rest:
            more = self.reader.read(1 << 16)
            if not more:
                sys.exit("the browser has ended")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method: str, **parameters: object) -> dict:
        self.number += 1
        message: dict = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            sys.exit(f"{method}: {answer['error']}")
        return answer["result"]

    def wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(self.read())

    def open(self, url: str, width: int, dark: bool) -> None:
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = "dark" if dark else "light"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.ask("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def look(self) -> dict:
        return self.ask("Runtime.evaluate", expression=LOOK, returnByValue=True)["result"]["value"]

    def picture(self, path: Path) -> None:
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def words(event: dict) -> str | None:
    """What an event has to complain of, or tells of a request elsewhere."""
    method, parameters = event["method"], event.get("params", {})
    if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
        return json.dumps(parameters)
    if method == "Network.requestWillBeSent":
        url = parameters["request"]["url"]
        return None if url.startswith("data:") or url == parameters["documentURL"] else f"asked for {url}"
    return None


def main() -> None:
    output, reports = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    amiss = []
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(profile)
        for report in reports:
            for width, dark in ((1200, False), (400, False), (400, True)):
                browser.open(report.as_uri(), width, dark)
                seen = browser.look()
                where = f"{report.name}, {width} pixels, {'dark' if dark else 'light'}"
                said = [complaint for event in browser.events if (complaint := words(event))]
                amiss += [f"{where}: {complaint}" for complaint in said]
                charts = seen["charts"]
                if not charts:
                    amiss.append(f"{where}: no chart")
                for chart in charts:
                    if chart["width"] < 200 or chart["height"] < 20 or chart["shapes"] == 0:
                        amiss.append(f"{where}: chart of no size: {chart}")
                if seen["width"] > width:
                    amiss.append(f"{where}: {seen['width']} pixels wide")
                if seen["smallest"][0] < SMALLEST:
                    amiss.append(f"{where}: text of {seen['smallest'][0]:.1f} pixels: {seen['smallest'][1]}")
                if seen["scripts"]:
                    amiss.append(f"{where}: {seen['scripts']} scripts")
                amiss += [f"{where}: picture `{name}` is not shown" for name, size in seen["images"] if size == 0]
                print(f"{where}: {len(charts)} charts, {len(seen['images'])} pictures, {seen['width']} pixels wide, "
                      f"smallest text {seen['smallest'][0]:.1f} pixels, {len(said)} complaints")
                browser.picture(output / f"{report.stem}-{width}{'-dark' if dark else ''}.png")
        browser.process.terminate()
        browser.process.wait()
    for complaint in amiss:
        print(f"amiss: {complaint}", file=sys.stderr)
    sys.exit(bool(amiss))


if __name__ == "__main__":
    main()

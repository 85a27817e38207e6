"""Progress in a log: a line when something ends, in place of a bar that is drawn again and again."""

import sys


class Lines:
    """Takes the place of Ultralytics' bar where nobody watches a terminal; the events carry what moves."""

    def __init__(self, iterable=None, desc=None, total=None, disable=False, **_):
        self.iterable, self.desc, self.total, self.disable = iterable, desc or "", total, bool(disable)

    def __iter__(self):
        yield from self.iterable
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def set_description(self, desc):
        self.desc = desc

    def update(self, _=1):
        pass

    def close(self):
        if self.desc and not self.disable:
            print(self.desc, flush=True)
        self.disable = True


def install():
    """Puts Lines into every module of Ultralytics that has its bar by name, unless a terminal is there."""
    if sys.stdout.isatty():
        return
    for name, module in list(sys.modules.items()):
        if name.startswith("ultralytics") and hasattr(module, "TQDM"):
            module.TQDM = Lines

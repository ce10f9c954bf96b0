"""One voice: what a run says goes to the logger "scpretrain", as plain lines; progress bars are for terminals."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("scpretrain")
RESULT = 25  # level of what a run came to, its table and files: --quiet leaves them
EVERY = 30.0  # seconds between two lines about progress where there is no terminal


def clean(text: str) -> str:
    """Text without control characters but line ends and tabs: a name in a file must not steer the terminal."""
    return "".join(c if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) else "\ufffd" for c in text)


class _Plain(logging.Handler):
    """A record as a line of standard output; a warning begins with the word. Looks for stdout anew each time."""

    def emit(self, record: logging.LogRecord) -> None:
        words = "warning: " if record.levelno >= logging.WARNING else ""
        from tqdm import tqdm  # a line must not land inside a bar

        tqdm.write(f"{words}{clean(record.getMessage())}", file=sys.stdout)


@contextmanager
def heard(level: int | None = logging.INFO) -> Iterator[None]:
    """Print what is said from `level` up while the block runs; None: nothing at all, bars included."""
    before = log.level, log.propagate, log.handlers[:]
    log.handlers[:] = [_Plain()] if level is not None else [logging.NullHandler()]
    log.setLevel(logging.CRITICAL + 1 if level is None else level)
    log.propagate = False
    try:
        yield
    finally:
        log.setLevel(before[0])
        log.propagate, log.handlers[:] = before[1], before[2]


class _Lines:
    """A bar's stand-in where there is no terminal: a line every half minute."""

    def __init__(self, total: int, what: str, unit: str, initial: int):
        self.done, self.total, self.what, self.unit, self.words = initial, total, what, unit, ""
        self.begin = self.last = time.monotonic()

    def update(self, more: int) -> None:
        self.done += more
        now = time.monotonic()
        if now - self.last >= EVERY:
            self.last = now
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            log.info(f"{self.what}: {self.done:,} {self.unit}{share} after {now - self.begin:.0f} s{self.words}")

    def set_postfix(self, **values: Any) -> None:
        self.words = "".join(f", {key} {value}" for key, value in values.items())


def on_terminal() -> bool:
    """Whether bars are drawn: what is done is said, and somebody looks at it."""
    return bool(log.isEnabledFor(logging.INFO) and log.handlers and sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def bar(total: int, what: str, unit: str = "cells", initial: int = 0) -> Iterator[Any]:
    """Something with update(n) and set_postfix(**values): a bar on a terminal, else a line now and then."""
    if on_terminal():
        from tqdm import tqdm

        with tqdm(
            total=total, initial=initial, desc=what, unit=f" {unit}", unit_scale=True, dynamic_ncols=True
        ) as shown:
            yield shown
    else:
        yield _Lines(total, what, unit, initial)

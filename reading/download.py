"""Download: fetch a file once, whole or not at all.

A file grows as NAME.part; NAME.part.json beside it says of which address and version it is. So a broken one
goes on where it stopped, and one whose original has changed starts anew. Only a checked file takes its name.
"""

import errno
import json
import os
import queue
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: two runs at once are not kept apart there
    fcntl = None

CHUNK = 16 * 1024  # bytes; what a cut connection may cost
PROGRESS = 1024 * 1024  # an attempt that brings this many bytes is no failed one, however it ends
LONGEST_WAIT = 120.0  # seconds between two attempts, whatever a server asks for
BUSY = (408, 425, 429)  # and 5xx: the server may answer otherwise in a moment

LARGEST = 20_000_000_000  # bytes of one file, unless a run says otherwise (--max_download)
SLOWEST, WINDOW = 1024, 60.0  # bytes a second, over so many seconds: a server that drips is as good as silent
CHECKSUMS = "checksums.csv"  # in the folder of the files
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Check = Callable[[Path], None]


class Changed(ValueError):
    """A check's word for content that is sound but not what was had under this name before."""


@dataclass(frozen=True)
class Request:
    """A file that is wanted: its name in messages, and where it may be, (url, target) in the order to try.

    largest: the most bytes that are taken.
    """

    name: str
    sources: tuple[tuple[str, Path], ...]
    largest: int = LARGEST


@dataclass(frozen=True)
class Failure:
    """A file that could not be had: a line of the table at the end."""

    name: str
    why: str
    remedy: str


class DownloadError(OSError):
    """Says of one file why it could not be had and what to do; `failure` has the same in parts."""

    def __init__(self, failure: Failure):
        super().__init__(f"{failure.name}: {failure.why}; {failure.remedy}")
        self.failure = failure


class _TryAgain(Exception):
    """This attempt failed, the next may not.

    wait: seconds before it, None for the usual back-off. heard: whether the host answered at all.
    """

    def __init__(self, why: str, wait: float | None = None, heard: bool = True):
        super().__init__(why)
        self.wait, self.heard = wait, heard


class _GiveUp(Exception):
    """This source is of no use. final: neither is any other."""

    def __init__(self, why: str, remedy: str, final: bool = False):
        super().__init__(why)
        self.remedy, self.final = remedy, final


class _Session(requests.Session):
    """Follows a redirection to https only; on this machine itself to http too."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        found = super().get_redirect_target(resp)
        if found is not None:
            target = urlsplit(urljoin(resp.url, found))
            local = {target.hostname, urlsplit(resp.url).hostname} <= set(LOOPBACK)
            if target.scheme != "https" and not (target.scheme == "http" and local):
                why = f"the server sends on to {target.scheme}://{target.netloc}, which is not https"
                raise _GiveUp(why, "give an address that needs no such detour (--base_url)")
        return found


class _Stopped(Exception):
    """The run is being ended; what has arrived stays for the next one."""


@dataclass
class _Run:
    """What the downloads of one call share."""

    check: Check
    attempts: int
    timeout: float | tuple[float, float]
    backoff: float
    stop: threading.Event = field(default_factory=threading.Event)
    silent: dict[str, str] = field(default_factory=dict)  # host -> why it is not asked again


def fetch(
    request: Request,
    check: Check,
    *,
    attempts: int = 5,
    timeout: float | tuple[float, float] = (10.0, 30.0),
    backoff: float = 1.0,
    progress: tqdm | None = None,
) -> Path:
    """Fetch one file and return its path; a target that is already there is returned without asking anyone.

    check: called with the path of the finished .part before it takes its name; raises ValueError (or OSError)
        where the content is not what is wanted. It has to judge by content: the suffix is `.part`.
    attempts: failures in a row for a source before the next source is tried.
    timeout: seconds to connect, and without a byte.
    backoff: seconds before the second attempt; doubled after each, with jitter, never over LONGEST_WAIT.
    progress: a bar counting bytes.
    Raises DownloadError, an OSError.
    """
    run = _Run(check, attempts, timeout, backoff)
    with _Session() as session:
        return _fetch(request, run, session, progress)


def fetch_all(
    wanted: Sequence[Request],
    check: Check,
    *,
    jobs: int = 4,
    attempts: int = 5,
    timeout: float | tuple[float, float] = (10.0, 30.0),
    backoff: float = 1.0,
    bars: bool | None = None,
) -> tuple[dict[str, Path], list[Failure]]:
    """Fetch many files, `jobs` at a time: the paths by name, and the failures, both in the order asked.

    bars: a progress bar each; None for bars on a terminal only.
    The other arguments are those of `fetch`; `check` is called from several threads. A failure never stops
    the others, and a host that does not answer at all is asked `attempts` times, not so often for every file.
    Ctrl-C ends all of them at once; the .part files stay for the next run.
    """
    run = _Run(check, attempts, timeout, backoff)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Path | BaseException]] = queue.SimpleQueue()
    for i in range(len(wanted)):
        waiting.put(i)

    def work(slot: int) -> None:
        with _Session() as session:
            while not run.stop.is_set():
                try:
                    i = waiting.get_nowait()
                except queue.Empty:
                    return
                hidden = None if bars is None else not bars
                bar = tqdm(desc=wanted[i].name, position=slot, leave=False, disable=hidden,
                           unit="B", unit_scale=True, unit_divisor=1024)  # fmt: skip
                try:
                    done.put((i, _fetch(wanted[i], run, session, bar)))
                except BaseException as error:  # handed to the caller's thread, which tells what it is
                    done.put((i, error))
                finally:
                    bar.close()

    # Daemons, not a pool: Ctrl-C must not wait for a thread that hangs on a silent server.
    workers = [threading.Thread(target=work, args=(slot,), name=f"download-{slot}", daemon=True)
               for slot in range(min(max(1, jobs), len(wanted)))]  # fmt: skip
    ends: dict[int, Path | BaseException] = {}
    try:
        for worker in workers:
            worker.start()
        while len(ends) < len(wanted):
            try:
                i, end = done.get(timeout=0.5)  # with a time-out, Ctrl-C comes through on every system
            except queue.Empty:
                continue
            if isinstance(end, BaseException) and not isinstance(end, DownloadError):
                raise end  # a bug, or a check that raised what it should not
            ends[i] = end
    except BaseException:
        run.stop.set()
        for worker in workers:
            worker.join(timeout=0.25)
        raise
    paths = {wanted[i].name: ends[i] for i in range(len(wanted)) if isinstance(ends[i], Path)}
    return paths, [ends[i].failure for i in range(len(wanted)) if isinstance(ends[i], DownloadError)]


def _fetch(request: Request, run: _Run, session: requests.Session, bar: tqdm | None) -> Path:
    """Try the sources in turn."""
    for _, target in request.sources:
        if target.exists():
            return target
    complaints: list[tuple[str, _GiveUp]] = []
    for url, target in request.sources:
        try:
            return _fetch_from(url, target, run, session, bar, request.largest)
        except _GiveUp as error:
            complaints.append((url, error))
            if error.final:
                break
        except OSError as error:
            complaints.append((url, _disk_trouble(target, error)))
            break
    # The plainest first: what the last source said matters where there is only one, or none is a mere 404.
    reasons = list(dict.fromkeys(f"{url}: {error}" for url, error in complaints))
    telling = [error for _, error in complaints if str(error) != "not there (404)"]
    remedy = (telling or [error for _, error in complaints])[0].remedy if complaints else "give it an address"
    raise DownloadError(Failure(request.name, "; ".join(reasons) or "no address is known", remedy))


def _fetch_from(
    url: str, target: Path, run: _Run, session: requests.Session, bar: tqdm | None, largest: int = LARGEST
) -> Path:
    """One source: attempt after attempt, then the check, then the name."""
    host = urlsplit(url).netloc
    failed, heard = 0, False
    with _Part(target, largest) as part:
        if target.exists():  # another run was quicker
            return target
        furthest = part.size
        while True:
            if run.stop.is_set():
                raise _Stopped
            if host in run.silent:
                raise _GiveUp(run.silent[host], "check the connection and the address, then run again")
            try:
                resumed = _receive(url, part, run, session, bar)
                try:
                    run.check(part.path)
                except (ValueError, OSError) as error:
                    page = part.looks_like_a_page()
                    part.clear()
                    if resumed:  # perhaps halves of two versions: once more, from the first byte
                        raise _TryAgain(f"the resumed file is broken ({error})", wait=0.0) from error
                    if isinstance(error, Changed):
                        remedy = f"if the change is right, take its line out of {target.parent / CHECKSUMS}"
                        raise _GiveUp(str(error), remedy, final=True) from error
                    what = "a web page instead of a file" if page else f"not a dataset ({error})"
                    remedy = f"get the file by hand and save it as {target}, or leave it out with --exclude"
                    raise _GiveUp(f"the server sent {what}", remedy) from error
                part.take_name()
                return target
            except _TryAgain as error:
                heard = heard or error.heard
                if part.size >= furthest + PROGRESS:
                    failed, furthest = 0, part.size
                failed += 1
                if failed >= run.attempts:
                    why = f"{error} ({failed} attempts)" if failed > 1 else str(error)
                    if not heard:
                        run.silent[host] = why
                    kept = "; what has arrived is kept" if part.size else ""
                    raise _GiveUp(why, f"check the connection, then run again{kept}") from error
                wait = run.backoff * 2 ** (failed - 1) * random.uniform(0.5, 1.5)
                wait = min(LONGEST_WAIT, wait if error.wait is None else error.wait)
                if bar is not None:
                    bar.set_postfix_str(f"{error}; again in {wait:.0f} s")
                run.stop.wait(wait)


def _receive(url: str, part: "_Part", run: _Run, session: requests.Session, bar: tqdm | None) -> bool:
    """One attempt: bring `part` to its full length. Whether it holds bytes of an earlier attempt."""
    start, validator = part.resumable(url)
    if start and part.size == part.total:
        return True  # ended between the last byte and the check
    headers = {"Accept-Encoding": "identity"}  # a length and a range are to mean the file's bytes
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        response = session.get(url, headers=headers, stream=True, timeout=run.timeout)
    except requests.ReadTimeout as error:
        raise _TryAgain("the server stalls") from error
    except requests.ConnectionError as error:  # ConnectTimeout and SSLError among them
        raise _TryAgain(f"no connection ({_cause(error)})", heard=False) from error
    except requests.RequestException as error:
        raise _GiveUp(f"cannot be asked for ({error})", "correct the address (--base_url)") from error
    with response:
        code = response.status_code
        if code == 206 and start:
            if not _continues(response, start, part):
                part.clear()
                raise _TryAgain("what the server has no longer fits what had arrived", wait=0.0)
        elif code == 200:  # also the answer of a server without ranges, and where the file has changed
            start = 0
            encoded = response.headers.get("Content-Encoding", "identity") != "identity"
            part.begin(url, None if encoded else _validator(response), None if encoded else _length(response))
        elif code == 416:
            part.clear()
            raise _TryAgain("the server has less of the file than had arrived", wait=0.0)
        elif code in (404, 410):
            raise _GiveUp(f"not there ({code})", "check the name, or leave it out with --exclude")
        elif code in BUSY or code >= 500:
            raise _TryAgain(f"the server answers {code}", wait=_retry_after(response))
        else:
            raise _GiveUp(f"the server refuses ({code})", "check the address (--base_url)")

        if part.total is not None:
            part.limit(part.total)
            part.need(part.total - start)
        if bar is not None:
            bar.set_postfix_str("")
            bar.reset(total=part.total)
            bar.update(start)
        for chunk in _chunks(response):
            if run.stop.is_set():
                raise _Stopped
            part.write(chunk)
            part.limit(part.size)
            if bar is not None:
                bar.update(len(chunk))
    if part.total is not None and part.size > part.total:
        said = part.total
        part.clear()
        raise _TryAgain(f"more came than the {said:,} bytes the server spoke of")
    if part.total is not None and part.size < part.total:
        raise _TryAgain(f"the connection was cut after {part.size:,} of {part.total:,} bytes")
    return start > 0


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it comes in; ends an attempt that stalls, or brings less than SLOWEST over a WINDOW."""
    since, brought = time.monotonic(), 0
    while True:
        try:  # read1: a chunk that is waited for until it is full would hide a server that drips
            chunk = response.raw.read1(CHUNK, decode_content=True)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise _TryAgain("the server stalls") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _TryAgain("the connection was cut") from error
        if not chunk:
            return
        yield chunk
        brought += len(chunk)
        now = time.monotonic()
        if now - since >= WINDOW:
            if brought < SLOWEST * (now - since):
                raise _TryAgain(f"the server sends under {SLOWEST:,} bytes a second")
            since, brought = now, 0


def _continues(response: requests.Response, start: int, part: "_Part") -> bool:
    """Whether a 206 answer is the rest of the very file that `part` is the beginning of."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != start:
        return False
    if part.total is not None and found[3] != "*" and int(found[3]) != part.total:
        return False
    part.total = part.total if found[3] == "*" else int(found[3])
    header = "ETag" if part.validator.startswith('"') else "Last-Modified"
    return response.headers.get(header) in (None, part.validator)  # some servers ignore If-Range


def _validator(response: requests.Response) -> str | None:
    """What names this version of the file: a strong ETag, else the date of its last change."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    date = parsedate_tz(text)
    return max(0.0, mktime_tz(date) - time.time()) if date else None


def _cause(error: BaseException) -> str:
    """The last words of requests' long sentence: 'Connection refused' and the like."""
    text = str(error)
    for words in (
        "Connection refused",
        "timed out",
        "Name or service not known",
        "certificate verify failed",
    ):
        if words in text:
            return words.lower()
    if "resolve" in text or "getaddrinfo" in text:
        return "unknown host"
    return type(error).__name__


def _disk_trouble(target: Path, error: OSError) -> _GiveUp:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _GiveUp(f"no space left for {target}", f"free some space on the disk of {target.parent}", final=True)
    why = f"cannot write {target} ({error.strerror or error})"
    return _GiveUp(why, f"make {target.parent} writable, or name another folder with --data_dir", final=True)


class _Part:
    """The growing file and its card (.part.json); a lock on the card keeps two runs apart."""

    def __init__(self, target: Path, largest: int = LARGEST):
        self.target, self.largest = target, largest
        self.path = target.with_name(target.name + ".part")
        self.card_path = target.with_name(target.name + ".part.json")
        self.file: IO[bytes] | None = None
        self.url = self.validator = self.total = None

    def __enter__(self) -> "_Part":
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.card = open(self.card_path, "a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(self.card, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.card.close()
            raise _GiveUp("another run is fetching it", "wait for that run", final=True) from error
        except OSError:
            pass  # a file system without locks
        try:
            self.card.seek(0)
            noted = json.load(self.card)
            self.url, self.validator, self.total = noted["url"], noted["validator"], noted["total"]
        except (ValueError, KeyError, TypeError):
            pass  # an empty or broken card: the .part is of unknown origin and resumable() says so
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self.close()
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or not self.size:  # the disk is needed for other things; nothing is worth no card
            self.path.unlink(missing_ok=True)
            self.card_path.unlink(missing_ok=True)
        self.card.close()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def resumable(self, url: str) -> tuple[int, str | None]:
        """Bytes that can stay, and the version they are of; 0 where that version is not known."""
        if self.url == url and self.validator and (self.total is None or self.size <= self.total):
            return self.size, self.validator
        return 0, None

    def begin(self, url: str, validator: str | None, total: int | None) -> None:
        """Start from the first byte. The card is written before it, so it never tells of other bytes."""
        self.clear()
        self.file = open(self.path, "wb", buffering=0)
        self.url, self.validator, self.total = url, validator, total
        json.dump({"url": url, "validator": validator, "total": total}, self.card)
        self.card.flush()

    def write(self, chunk: bytes) -> None:
        if self.file is None:
            self.file = open(self.path, "ab", buffering=0)
        while chunk:  # an unbuffered file may take less than it is given
            chunk = chunk[self.file.write(chunk) :]

    def need(self, size: int) -> None:
        """Complain before the first byte where the disk is too small for the rest."""
        if shutil.disk_usage(self.path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def limit(self, size: int) -> None:
        """Give up a file that is larger than a run takes."""
        if size > self.largest:
            self.clear()
            why = f"larger than {self.largest / 1e9:g} GB"
            raise _GiveUp(why, "raise --max_download, or leave it out with --exclude", final=True)

    def looks_like_a_page(self) -> bool:
        with open(self.path, "rb") as file:
            return file.read(256).lstrip()[:1] == b"<"

    def clear(self) -> None:
        """Forget what has arrived."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.card.seek(0)
        self.card.truncate()
        self.url = self.validator = self.total = None

    def take_name(self) -> None:
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

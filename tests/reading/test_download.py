"""Downloads against a hostile server on the loopback: run with `python -m pytest tests/reading/test_download.py`."""

import errno
import gzip
import os
import re
import signal
import socket
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reading import download
from reading.download import DownloadError, Request, fetch, fetch_all

BODY = b"DATA" + bytes(range(256)) * 400  # 102,404 bytes: seven chunks
OTHER = b"DATA" + bytes(reversed(range(256))) * 400  # another version of the same length
PAGE = b"<!DOCTYPE html><html><body>Welcome to our new site</body></html>"


def check(path):
    """What a caller hands in: here a dataset begins with DATA."""
    if not path.read_bytes().startswith(b"DATA"):
        raise ValueError(f"{path.name} is no dataset")


class Hostile(ThreadingHTTPServer):
    """Answers each path by its script, one act per request, the last for ever; `asked` has the headers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked = {}, defaultdict(list)
        self.release = threading.Event()  # lets stalling acts end when the test does

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news here."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.server.asked[self.path[1:]]
        asked.append(dict(self.headers))
        acts = self.server.script.get(self.path[1:], [answer(404)])
        acts[min(len(asked), len(acts)) - 1](self)

    def log_message(self, *_):
        pass

    def send(self, code, body=b"", **headers):
        self.send_response(code)
        headers.setdefault("Content_Length", len(body))
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = True


def answer(code, body=b"", **headers):
    return lambda handler: handler.send(code, body, **headers)


def serve(body=BODY, tag='"v1"', upto=None, ranges=True, if_range=True, **headers):
    """An act of a good file server, unless told otherwise. upto: cut the connection after that byte."""

    def act(handler):
        start, end = 0, len(body) if upto is None else upto
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if wanted and ranges and (not if_range or handler.headers.get("If-Range") == tag):
            start = int(wanted[1])
            if start >= len(body):
                return handler.send(416, Content_Range=f"bytes */{len(body)}")
        told = {"ETag": tag, "Content_Length": len(body) - start} | headers
        if start:
            told["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.send(206 if start else 200, body[start:end], **told)

    return act


def stall(after, **told):
    """Send the headers and `after` bytes, then nothing until the test ends."""

    def act(handler):
        handler.send(200, BODY[:after], **({"ETag": '"v1"', "Content_Length": len(BODY)} | told))
        handler.server.release.wait(20)

    return act


@pytest.fixture
def server():
    with Hostile() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def get(server, tmp_path):
    """Fetch a path of the server, quickly, into tmp_path/x.h5; other arguments replace the defaults."""

    def get(path="x.h5", check=check, **options):
        request = Request("x", ((server.url(path), tmp_path / "x.h5"),))
        return fetch(request, check, **({"backoff": 0.0, "timeout": (5, 5)} | options))

    return get


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def ranges_asked(server, path="x.h5"):
    return [headers.get("Range") for headers in server.asked[path]]


def test_a_file_is_fetched_whole_and_nothing_else_stays(server, get, tmp_path):
    server.script["x.h5"] = [serve()]
    assert get() == tmp_path / "x.h5"
    assert (tmp_path / "x.h5").read_bytes() == BODY
    assert names(tmp_path) == ["x.h5"]
    assert server.asked["x.h5"][0]["Accept-Encoding"] == "identity"


def test_the_folder_is_made(server, tmp_path):
    server.script["x.h5"] = [serve()]
    target = tmp_path / "a" / "b" / "x.h5"
    assert fetch(Request("x", ((server.url("x.h5"), target),)), check) == target


def test_a_file_that_is_there_is_not_asked_for_again(server, get, tmp_path):
    (tmp_path / "x.h5").write_bytes(b"mine")
    get()
    assert (tmp_path / "x.h5").read_bytes() == b"mine"
    assert not server.asked


def test_the_check_sees_the_whole_file_before_it_has_its_name(server, get, tmp_path):
    server.script["x.h5"] = [serve()]
    seen = []
    get(check=lambda path: seen.append((path.name, path.read_bytes() == BODY, (tmp_path / "x.h5").exists())))
    assert seen == [("x.h5.part", True, False)]


@pytest.mark.parametrize("code", [500, 502, 503, 429, 408])
def test_a_busy_server_is_asked_again(server, get, code):
    server.script["x.h5"] = [answer(code, PAGE), answer(code), serve()]
    assert get().read_bytes() == BODY
    assert len(server.asked["x.h5"]) == 3


def test_a_server_that_stays_busy_is_given_up_after_the_attempts(server, get, tmp_path):
    server.script["x.h5"] = [answer(503)]
    with pytest.raises(DownloadError, match=r"answers 503 \(3 attempts\)"):
        get(attempts=3)
    assert len(server.asked["x.h5"]) == 3
    assert names(tmp_path) == []


def test_the_back_off_doubles_with_jitter(server, tmp_path, monkeypatch):
    server.script["x.h5"] = [answer(500)]
    run = download._Run(check, 6, 5, 1.0)
    waits = []
    run.stop.wait = waits.append
    monkeypatch.setattr(download, "LONGEST_WAIT", 10.0)
    with pytest.raises(download._GiveUp), download.requests.Session() as session:
        download._fetch_from(server.url("x.h5"), tmp_path / "x.h5", run, session, None)
    assert len(waits) == 5
    for wait, base in zip(waits, (1, 2, 4, 8, 16), strict=True):
        assert min(10, 0.5 * base) <= wait <= min(10, 1.5 * base)


@pytest.mark.parametrize(
    "header, low, high",
    [("7", 7, 7), ("100000", 120, 120), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("soon", 0.5, 1.5)],
)
def test_retry_after_is_heeded_within_reason(server, tmp_path, header, low, high):
    server.script["x.h5"] = [answer(429, Retry_After=header), serve()]
    run = download._Run(check, 3, 5, 1.0)
    waits = []
    run.stop.wait = waits.append
    with download.requests.Session() as session:
        download._fetch_from(server.url("x.h5"), tmp_path / "x.h5", run, session, None)
    assert len(waits) == 1 and low <= waits[0] <= high


def test_a_cut_download_goes_on_where_it_stopped(server, get):
    server.script["x.h5"] = [serve(upto=50_000), serve(upto=80_000), serve()]
    assert get().read_bytes() == BODY
    ranges = ranges_asked(server)
    assert ranges[0] is None
    starts = [int(re.fullmatch(r"bytes=(\d+)-", text)[1]) for text in ranges[1:]]
    assert 50_000 - download.CHUNK <= starts[0] <= 50_000
    assert 80_000 - download.CHUNK <= starts[1] <= 80_000
    assert [headers.get("If-Range") for headers in server.asked["x.h5"]] == [None, '"v1"', '"v1"']


def test_a_stalled_download_times_out_and_goes_on(server, get):
    server.script["x.h5"] = [stall(60_000), serve()]
    assert get(timeout=(5, 0.2)).read_bytes() == BODY
    assert ranges_asked(server)[1] is not None


def test_a_server_that_stalls_before_the_headers_is_asked_again(server, get):
    server.script["x.h5"] = [lambda handler: handler.server.release.wait(20), serve()]
    assert get(timeout=(5, 0.2)).read_bytes() == BODY


def test_a_connection_closed_without_an_answer_is_tried_again(server, get):
    server.script["x.h5"] = [lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), serve()]
    assert get().read_bytes() == BODY


def test_a_chunked_answer_cut_short_is_not_taken_for_whole(server, get):
    def cut_in_a_chunk(handler):
        handler.send(200, b"2000\r\n" + BODY[:0x1000], Content_Length=None, Transfer_Encoding="chunked")

    server.script["x.h5"] = [cut_in_a_chunk, serve()]
    assert get().read_bytes() == BODY


def test_a_later_run_goes_on_with_what_an_earlier_one_left(server, get, tmp_path):
    server.script["x.h5"] = [serve(upto=50_000), serve()]
    with pytest.raises(DownloadError, match="what has arrived is kept"):
        get(attempts=1)
    assert names(tmp_path) == ["x.h5.part", "x.h5.part.json"]
    assert get().read_bytes() == BODY
    assert ranges_asked(server)[1] is not None
    assert names(tmp_path) == ["x.h5"]


def test_a_run_killed_between_the_last_byte_and_the_check_asks_nobody(server, get, tmp_path):
    server.script["x.h5"] = [serve()]

    def killed(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(check=killed)
    assert get().read_bytes() == BODY
    assert len(server.asked["x.h5"]) == 1


def test_a_part_of_unknown_origin_is_not_used(server, get, tmp_path):
    server.script["x.h5"] = [serve()]
    (tmp_path / "x.h5.part").write_bytes(OTHER[:50_000])
    assert get().read_bytes() == BODY
    assert ranges_asked(server) == [None]


@pytest.mark.parametrize("card", ["", "{", "[]", '{"url": 3}', '"x"'])
def test_a_damaged_card_means_a_fresh_start(server, get, tmp_path, card):
    server.script["x.h5"] = [serve()]
    (tmp_path / "x.h5.part").write_bytes(OTHER[:50_000])
    (tmp_path / "x.h5.part.json").write_text(card)
    assert get().read_bytes() == BODY
    assert ranges_asked(server) == [None]


def test_a_part_of_another_address_is_not_used(server, get, tmp_path):
    server.script |= {"a.h5": [serve(OTHER, upto=50_000)], "b.h5": [serve()]}
    with pytest.raises(DownloadError):
        get("a.h5", attempts=1)
    assert get("b.h5").read_bytes() == BODY
    assert ranges_asked(server, "b.h5") == [None]


def test_a_server_that_ignores_ranges_starts_the_file_anew(server, get):
    server.script["x.h5"] = [serve(upto=50_000), serve(ranges=False)]
    assert get().read_bytes() == BODY
    assert ranges_asked(server)[1] is not None


def test_a_file_that_changed_between_attempts_starts_anew(server, get):
    server.script["x.h5"] = [serve(upto=50_000), serve(OTHER, tag='"v2"')]
    assert get().read_bytes() == OTHER


def test_a_changed_file_is_noticed_though_the_server_ignores_if_range(server, get):
    server.script["x.h5"] = [serve(upto=50_000), serve(OTHER, tag='"v2"', if_range=False)]
    assert get().read_bytes() == OTHER
    first, second, third = ranges_asked(server)
    assert first is third is None and second is not None


def test_a_file_that_became_longer_is_noticed_by_its_total(server, get):
    longer = OTHER + b"more"
    server.script["x.h5"] = [serve(upto=50_000), serve(longer, tag=None, if_range=False), serve(longer)]
    assert get().read_bytes() == longer


def test_a_wrong_range_in_the_answer_is_not_appended(server, get):
    def wrong(handler):
        rest = len(BODY) - int(handler.headers["Range"][6:-1])
        told = f"bytes 10-{rest + 9}/{len(BODY)}"
        handler.send(206, BODY[10 : rest + 10], ETag='"v1"', Content_Range=told)

    server.script["x.h5"] = [serve(upto=50_000), wrong, serve()]
    assert get().read_bytes() == BODY


def test_a_rest_that_comes_in_pieces_is_put_together(server, get):
    def piece(handler):
        start = int(handler.headers["Range"][6:-1])
        end = min(len(BODY), start + 20_000)
        told = f"bytes {start}-{end - 1}/{len(BODY)}"
        handler.send(206, BODY[start:end], ETag='"v1"', Content_Range=told)

    server.script["x.h5"] = [serve(upto=50_000), piece]
    assert get(attempts=9).read_bytes() == BODY


def test_a_rest_longer_than_it_says_is_thrown_away(server, get):
    def too_long(handler):
        start = int(handler.headers["Range"][6:-1])
        told = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        handler.send(206, BODY[start:] + b"and more", ETag='"v1"', Content_Range=told)

    server.script["x.h5"] = [serve(upto=50_000), too_long, serve()]
    assert get().read_bytes() == BODY
    assert ranges_asked(server)[2] is None


def test_a_packed_answer_is_unpacked_and_its_length_not_taken_for_the_file_s(server, get):
    packed = gzip.compress(BODY, compresslevel=0)
    told = {"ETag": '"v1"', "Content_Encoding": "gzip"}
    cut = answer(200, packed[: len(packed) // 2], **told, Content_Length=len(packed))
    server.script["x.h5"] = [cut, answer(200, packed, **told)]
    assert get().read_bytes() == BODY
    assert ranges_asked(server) == [None, None]


def test_without_a_validator_nothing_is_resumed(server, get):
    server.script["x.h5"] = [serve(tag=None, upto=50_000), serve(tag=None)]
    assert get().read_bytes() == BODY
    assert ranges_asked(server) == [None, None]


def test_a_weak_tag_gives_way_to_the_date(server, get):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.script["x.h5"] = [
        serve(upto=50_000, tag='W/"v1"', Last_Modified=date),
        serve(if_range=False, tag='W/"v1"', Last_Modified=date),
    ]
    assert get().read_bytes() == BODY
    assert server.asked["x.h5"][1]["If-Range"] == date


def test_416_starts_the_file_anew(server, get):
    short = BODY[:20_000]
    server.script["x.h5"] = [serve(upto=50_000), serve(short, if_range=False)]
    assert get().read_bytes() == short
    assert len(server.asked["x.h5"]) == 3


def test_a_server_that_promises_more_than_it_sends_is_given_up(server, get):
    server.script["x.h5"] = [serve(Content_Length=len(BODY) + 50, if_range=False)]
    with pytest.raises(DownloadError, match="cut|no longer fits|has less"):
        get(attempts=4)
    assert len(server.asked["x.h5"]) == 4


def test_a_server_that_promises_less_than_it_sends_gives_a_file_the_check_refuses(server, get, tmp_path):
    def complete(path):
        if path.read_bytes() != BODY:
            raise ValueError("truncated")

    server.script["x.h5"] = [serve(Content_Length=1000)]
    with pytest.raises(DownloadError, match="truncated"):
        get(check=complete)
    assert names(tmp_path) == []


def test_a_server_that_drips_is_given_up_though_it_never_falls_silent(server, get, monkeypatch):
    monkeypatch.setattr(download, "WINDOW", 0.2)

    def drip(handler):
        handler.send(200, b"DATA", ETag='"v1"', Content_Length=len(BODY))
        while not handler.server.release.wait(0.05):
            handler.wfile.write(b".")
            handler.wfile.flush()

    server.script["x.h5"] = [drip]
    with pytest.raises(DownloadError, match="under 1,024 bytes a second"):
        get(attempts=2)


@pytest.mark.parametrize("told", [{}, {"Content_Length": None}], ids=["length", "no length"])
def test_a_file_larger_than_a_run_takes_is_left_out(server, tmp_path, told):
    server.script["x.h5"] = [serve(**told)]
    with pytest.raises(DownloadError, match="larger than 2e-05 GB; raise --max_download"):
        fetch(Request("x", ((server.url("x.h5"), tmp_path / "x.h5"),), largest=20_000), check, backoff=0.0)
    assert names(tmp_path) == []


def test_a_redirection_is_followed_on_this_machine_and_elsewhere_to_https_only(server, get, tmp_path):
    server.script |= {"x.h5": [answer(302, Location=server.url("y.h5"))], "y.h5": [serve()]}
    assert get().read_bytes() == BODY
    for address in ("http://example.org/y.h5", "ftp://127.0.0.1/y.h5"):
        (tmp_path / "x.h5").unlink(missing_ok=True)
        server.script["x.h5"] = [answer(302, Location=address)]
        with pytest.raises(DownloadError, match="which is not https"):
            get()
    session, response = download._Session(), download.requests.Response()
    response.status_code, response.url = 302, "https://example.org/x.h5"
    response.headers["Location"] = "http://127.0.0.1/x.h5"  # from elsewhere into this machine
    with pytest.raises(download._GiveUp):
        session.get_redirect_target(response)


def test_a_slow_line_that_makes_progress_is_not_given_up(server, get, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS", 10_000)
    server.script["x.h5"] = [*(serve(upto=20_000 * i) for i in range(1, 6)), serve()]
    assert get(attempts=2).read_bytes() == BODY


def test_a_web_page_instead_of_the_file_is_deleted_and_said_to_be_one(server, get, tmp_path):
    server.script["x.h5"] = [answer(200, PAGE, ETag='"v1"')]
    with pytest.raises(DownloadError, match="web page instead of a file") as caught:
        get()
    assert str(tmp_path / "x.h5") in caught.value.failure.remedy
    assert len(server.asked["x.h5"]) == 1
    assert names(tmp_path) == []


def test_garbage_is_deleted_not_resumed(server, get, tmp_path):
    server.script["x.h5"] = [serve(b"\0" * 50_000)]
    with pytest.raises(DownloadError, match=r"not a dataset \(x.h5.part is no dataset\)"):
        get()
    assert names(tmp_path) == []


def test_a_broken_resumed_file_is_fetched_once_more_from_the_start(server, get, tmp_path):
    (tmp_path / "x.h5.part").write_bytes(b"\0" * 50_000)
    card = f'{{"url": "{server.url("x.h5")}", "validator": "\\"v1\\"", "total": {len(BODY)}}}'
    (tmp_path / "x.h5.part.json").write_text(card)
    server.script["x.h5"] = [serve()]
    assert get().read_bytes() == BODY
    assert ranges_asked(server) == ["bytes=50000-", None]


@pytest.mark.parametrize("first", [answer(404), answer(410), answer(403), answer(200, PAGE), answer(500)])
def test_the_second_name_is_tried_where_the_first_is_of_no_use(server, tmp_path, first):
    server.script |= {"x.h5": [first], "x.h5ad": [serve()]}
    sources = tuple((server.url(name), tmp_path / name) for name in ("x.h5", "x.h5ad"))
    assert fetch(Request("x", sources), check, backoff=0.0, attempts=2) == tmp_path / "x.h5ad"
    assert names(tmp_path) == ["x.h5ad"]


def test_a_second_name_that_is_there_stops_the_search(server, tmp_path):
    (tmp_path / "x.h5ad").write_bytes(BODY)
    sources = tuple((server.url(name), tmp_path / name) for name in ("x.h5", "x.h5ad"))
    assert fetch(Request("x", sources), check) == tmp_path / "x.h5ad"
    assert not server.asked


def test_a_name_nobody_knows_is_reported_with_both_addresses(server, tmp_path):
    sources = tuple((server.url(name), tmp_path / name) for name in ("x.h5", "x.h5ad"))
    with pytest.raises(DownloadError, match=r"x\.h5: not there \(404\); .*x\.h5ad: not there \(404\)"):
        fetch(Request("x", sources), check)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["x.h5", "ftp://127.0.0.1/x.h5", "http://"])
def test_an_address_that_is_none_is_a_clear_error(tmp_path, url):
    with pytest.raises(DownloadError, match="cannot be asked for"):
        fetch(Request("x", ((url, tmp_path / "x.h5"),)), check, backoff=0.0)


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_host_that_does_not_answer_is_not_asked_for_every_file(tmp_path, monkeypatch):
    asked = []
    real = download.requests.Session.get

    def counting(self, url, **options):
        asked.append(url)
        return real(self, url, **options)

    monkeypatch.setattr(download.requests.Session, "get", counting)
    base = f"http://127.0.0.1:{closed_port()}"
    wanted = [Request(f"d{i}", ((f"{base}/d{i}.h5", tmp_path / f"d{i}.h5"),)) for i in range(30)]
    paths, failures = fetch_all(wanted, check, jobs=1, attempts=3, backoff=0.0)
    assert not paths and len(failures) == 30
    assert len(asked) == 3
    assert all("connection refused" in failure.why for failure in failures)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing_half_written(server, get, tmp_path, monkeypatch):
    server.script["x.h5"] = [serve()]
    real = download._Part.write

    def full(self, chunk):
        if self.size > 30_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, chunk)

    monkeypatch.setattr(download._Part, "write", full)
    (tmp_path / "earlier.h5").write_bytes(b"earlier")
    with pytest.raises(DownloadError, match="no space left for .*x.h5; free some space"):
        get()
    assert names(tmp_path) == ["earlier.h5"]
    assert len(server.asked["x.h5"]) == 1


def test_a_disk_too_small_is_noticed_before_the_first_byte(server, get, tmp_path, monkeypatch):
    server.script["x.h5"] = [serve()]
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(download._Part, "write", lambda *_: pytest.fail("wrote on a full disk"))
    with pytest.raises(DownloadError, match="no space left"):
        get()
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    request = Request("x", ((server.url("x.h5"), tmp_path / "file" / "x.h5"),))
    with pytest.raises(DownloadError, match="cannot write .*--data_dir"):
        fetch(request, check)


@pytest.mark.skipif(download.fcntl is None, reason="no locks on this system")
def test_two_runs_do_not_write_the_same_part(server, get, tmp_path):
    server.script["x.h5"] = [serve()]
    sources = tuple((server.url(name), tmp_path / name) for name in ("x.h5", "x.h5ad"))
    with download._Part(tmp_path / "x.h5"), pytest.raises(DownloadError, match="another run is fetching it"):
        fetch(Request("x", sources), check)
    assert not server.asked
    assert get().read_bytes() == BODY


def test_many_files_come_in_the_order_asked_and_failures_stop_nobody(server, tmp_path):
    server.script |= {f"d{i}.h5": [answer(500), serve()] for i in range(8)}
    server.script |= {"d2.h5": [answer(404)], "d5.h5": [answer(200, PAGE)]}
    wanted = [Request(f"d{i}", ((server.url(f"d{i}.h5"), tmp_path / f"d{i}.h5"),)) for i in range(8)]
    paths, failures = fetch_all(wanted, check, backoff=0.0)
    assert list(paths) == ["d0", "d1", "d3", "d4", "d6", "d7"]
    assert all(path.read_bytes() == BODY for path in paths.values())
    assert [failure.name for failure in failures] == ["d2", "d5"]
    assert all(failure.why and failure.remedy for failure in failures)
    assert names(tmp_path) == [f"{name}.h5" for name in paths]


def test_four_are_fetched_at_a_time(server, tmp_path):
    meeting = threading.Barrier(4)  # opens when four are there at once, and breaks where they never are

    def together(handler):
        meeting.wait(10)
        serve()(handler)

    server.script |= {f"d{i}.h5": [together] for i in range(8)}
    wanted = [Request(f"d{i}", ((server.url(f"d{i}.h5"), tmp_path / f"d{i}.h5"),)) for i in range(8)]
    assert len(fetch_all(wanted, check, jobs=4, attempts=1)[0]) == 8


def test_nothing_wanted_is_nothing_done():
    assert fetch_all([], check) == ({}, [])


def test_every_file_has_a_bar_of_its_own_that_counts_bytes(server, tmp_path, capsys):
    server.script |= {"d0.h5": [serve()], "d1.h5": [answer(500), serve()]}
    wanted = [Request(f"d{i}", ((server.url(f"d{i}.h5"), tmp_path / f"d{i}.h5"),)) for i in range(2)]
    fetch_all(wanted, check, backoff=0.0, bars=True)
    shown = capsys.readouterr().err
    assert "d0" in shown and "d1" in shown and "the server answers 500; again in" in shown


def test_a_bug_in_the_check_is_not_hidden(server, tmp_path):
    server.script["x.h5"] = [serve()]

    def broken(path):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        fetch_all([Request("x", ((server.url("x.h5"), tmp_path / "x.h5"),))], broken)


@pytest.mark.skipif(os.name == "nt", reason="os.kill cannot press Ctrl-C there")
def test_ctrl_c_keeps_the_part_for_the_next_run_and_ends_the_threads(server, tmp_path, request):
    part = tmp_path / "x.h5.part"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt(handler):
        handler.send(200, BODY[:50_000], ETag='"v1"', Content_Length=len(BODY))
        while not part.exists() or part.stat().st_size < 50_000 - download.CHUNK:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        handler.server.release.wait(20)  # the client hangs on a silent line meanwhile
        handler.wfile.write(BODY[50_000:])

    server.script["x.h5"] = [interrupt, serve()]
    wanted = [Request("x", ((server.url("x.h5"), tmp_path / "x.h5"),))]
    with pytest.raises(KeyboardInterrupt):
        fetch_all(wanted, check, timeout=(5, 60))
    assert not server.release.is_set()  # the call came back although the line is still silent
    kept = part.stat().st_size
    server.release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("download-"):
            thread.join(timeout=10)
            assert not thread.is_alive()
    assert part.stat().st_size == kept  # a stopped thread writes nothing more
    paths, failures = fetch_all(wanted, check)
    assert paths["x"].read_bytes() == BODY and not failures
    assert ranges_asked(server)[1] == f"bytes={kept}-"

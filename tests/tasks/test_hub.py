"""Hub data sets: the right files are chosen, they are read from a hub that answers, and one that does not is said in seconds."""

import hashlib
import http.server
import json
import threading
import time
from urllib.parse import unquote, urlparse

import pytest

from bethink.core.errors import ConfigError, DataError
from bethink.tasks.hub import choose_files, load_hub

FILES = [
    "README.md",
    "main/train-00000-of-00001.parquet",
    "main/test-00001-of-00002.parquet",
    "main/test-00000-of-00002.parquet",
    "socratic/test-00000-of-00001.parquet",
    "raw/test.jsonl",
    "validation.jsonl",
    "latest-results.jsonl",
    "all/testing/part-0.parquet",
]


@pytest.mark.parametrize(
    ("split", "config", "chosen"),
    [
        ("test", "main", ["main/test-00000-of-00002.parquet", "main/test-00001-of-00002.parquet"]),
        ("test", "raw", ["raw/test.jsonl"]),
        ("validation", None, ["validation.jsonl"]),
        ("testing", "all", ["all/testing/part-0.parquet"]),
        ("test", "other", []),
        ("dev", None, []),
    ],
)
def test_the_splits_files_are_chosen(split, config, chosen):
    assert choose_files(FILES, split, config) == chosen


def rows(first, last):
    return "".join(
        json.dumps({"question": f"{n} + 1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(first, last)
    ).encode()


class Address(str):
    """A hub's URL, with what it holds: bytes by path, to be changed by a test."""

    def __new__(cls, url, content):
        address = super().__new__(cls, url)
        address.content = content
        return address


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set, in this process; its answers have the shape of the real one's."""
    content = {
        "data/test-0.jsonl": rows(0, 3),
        "data/test-1.jsonl": rows(3, 5),
        "data/train-0.jsonl": rows(5, 9),
    }
    commit = "0" * 40

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.respond(head=True)

        def do_GET(self):
            self.respond(head=False)

        def respond(self, *, head):
            path = unquote(urlparse(self.path).path)
            body, extra, status = b"{}", {}, 200
            if path.startswith("/api/datasets/owner/sums/tree/main"):
                body = json.dumps(
                    [{"type": "file", "path": p, "size": len(b), "oid": "1" * 40} for p, b in content.items()]
                ).encode()
            elif path.startswith("/datasets/owner/sums/resolve/"):
                file = path.split("/", 6)[-1]
                body = content[file]
                extra = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit}
            elif path != "/":
                status, extra = (
                    404,
                    {"X-Error-Code": "RepoNotFound" if "/sums" not in path else "RevisionNotFound"},
                )
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **extra}.items():
                self.send_header(key, value)
            self.end_headers()
            if not head:
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Address(f"http://127.0.0.1:{server.server_port}", content)
    server.shutdown()


def test_a_data_set_is_read_from_a_hub(hub):
    problems = load_hub("owner/sums", "gsm8k", endpoint=hub)
    assert [p.answer for p in problems] == ["1", "2", "3", "4", "5"]
    assert len({p.id for p in problems}) == 5


def test_rows_are_numbered_over_all_files_bad_ones_too(hub):
    bad = b'{"question": "no answer"}\n'
    hub.content["data/test-0.jsonl"] = bad + rows(0, 3) + bad + rows(3, 4)
    problems = load_hub("owner/sums", "gsm8k", endpoint=hub, skip_bad=True)
    assert [p.id for p in problems] == ["row-2", "row-3", "row-4", "row-6", "row-7", "row-8"]
    assert problems.dropped == {"bad": 2}


def test_an_id_that_stands_in_two_files_is_refused(hub):
    row = b'{"question": "1 + 1?", "answer": "2", "grader": "math", "id": 7}\n'
    hub.content["data/test-0.jsonl"] = hub.content["data/test-1.jsonl"] = row
    with pytest.raises(DataError, match="the id `7` stands twice") as caught:
        load_hub("owner/sums", "plain", endpoint=hub)
    assert "test-0.jsonl:1" in str(caught.value)
    assert "test-1.jsonl:1" in str(caught.value)


def test_a_split_it_does_not_have_is_said(hub):
    with pytest.raises(DataError, match="no file of the split `dev`"):
        load_hub("owner/sums", "gsm8k", split="dev", endpoint=hub)


def test_a_data_set_that_is_not_there_is_said(hub):
    with pytest.raises(DataError, match="the hub refuses it"):
        load_hub("owner/nothing", "gsm8k", endpoint=hub)


def test_no_hub_is_said_in_seconds():
    started = time.monotonic()
    with pytest.raises(DataError, match="cannot be reached") as caught:
        load_hub("owner/sums", "gsm8k", endpoint="http://127.0.0.1:9")
    assert "path/to/file.parquet" in str(caught.value)
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("name", ["sums", "a/b/c/d", "a//b", ""])
def test_what_is_no_id_is_refused(name):
    with pytest.raises(ConfigError, match="not a data set id"):
        load_hub(name, "gsm8k")

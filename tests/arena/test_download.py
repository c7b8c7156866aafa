"""prepare.py as its users run it, against a small server that answers as the Hugging Face hub does."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pyarrow
import pyarrow.parquet as parquet
import pytest
from conftest import ROOT

PREPARE = ROOT / "prepare.py"
CLIMBMIX, COMMIT = "karpathy/climbmix-400b-shuffle", "0123456789" * 4
OWN = "--text someone/small --arena mine --vocab-size 512 --context 64".split()
# of the API, or of a file: id of the dataset, what is wanted, revision, name of the file
ADDRESS = re.compile(
    r"/(api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|resolve)/([^/]+))?/?(.*)"
)


class Hub(ThreadingHTTPServer):
    """Serves `datasets`, {id: {file name: bytes}}; `faults` says how a file's first download goes
    wrong.
    """

    daemon_threads = True

    def __init__(self, datasets, faults=()):
        super().__init__(("127.0.0.1", 0), Answer)
        self.datasets, self.faults = datasets, dict(faults)
        self.requests = []  # (method, path, number of the first byte)
        self.elsewhere = []  # what was meant for other hosts
        self.released = threading.Event()  # lets a download go on that has stalled
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def downloads(self, name):
        """The number of the first byte of each download of a file."""
        return [
            start
            for method, path, start in self.requests
            if method == "GET" and path.endswith(name)
        ]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_CONNECT(self):
        self.server.elsewhere.append(self.path)
        self.reply(b"", 502)

    def do_GET(self):
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, address = (
            int(ranged[1]) if ranged else 0,
            ADDRESS.fullmatch(urlsplit(self.path).path),
        )
        self.server.requests.append((self.command, self.path, start))
        if self.path.startswith(
            "http://datasets-server.127.0.0.1:"
        ):  # what the hub knows of some datasets
            return self.reply(b"", 404)
        if self.path.startswith("http:") or not address:
            return self.do_CONNECT()
        api, dataset, what, _, name = address.groups()
        files = self.server.datasets.get(dataset)
        if files is None:  # 401 and not 404: it might be there for somebody who is logged in
            self.reply(b"", 401, {"X-Error-Code": "RepoNotFound"})
        elif what == "resolve":
            self.send_file(name, files.get(name), start)
        elif what in ("tree", "paths-info"):
            self.send_json(
                [facts(name, files[name]) for name in files if name in form.get("paths", files)]
            )
        else:
            self.send_json({"_id": "0" * 24, "id": dataset, "sha": COMMIT, "private": False})

    do_HEAD = do_POST = do_GET

    def send_file(self, name, data, start):
        if data is None:
            return self.reply(b"", 404, {"X-Error-Code": "EntryNotFound"})
        headers, body = {"ETag": f'"{digest(data)}"'}, data[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and self.server.faults.get(name) == "stalled":
            self.server.released.wait(100)
        fault, half = (
            self.server.faults.pop(name, "") if self.command == "GET" else "",
            len(body) // 2,
        )
        if fault == "damaged":
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]  # decodes, maybe
        elif fault == "dropped":
            headers["Content-Length"], self.close_connection = len(body), True
        self.reply(
            body[:half] if fault in ("truncated", "dropped") else body,
            206 if start else 200,
            headers,
        )

    def send_json(self, value):
        self.reply(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def reply(self, body, status, headers=()):
        self.send_response(status)
        for name, value in (
            {"X-Repo-Commit": COMMIT, "Content-Length": len(body)} | dict(headers)
        ).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def facts(name, data):
    """What the hub's API says of a file."""
    lfs = {"oid": digest(data), "size": len(data), "pointerSize": 134}
    return {"type": "file", "path": name, "size": len(data), "oid": digest(data)[:40], "lfs": lfs}


def parquet_file(seed, noise=0):
    """About 700 kB of text, of words that all seeds share, packed as ClimbMix is; and bytes of
    noise.
    """
    letters, choose, texts = random.Random(0), random.Random(seed), []
    words = [
        "".join(letters.choices("etaoinshrdlucmfwyp", k=letters.randint(3, 10)))
        for _ in range(6000)
    ]
    while sum(map(len, texts)) < 700_000:
        texts.append(" ".join(choose.choices(words, k=choose.randint(10, 100))) + ".")
    table = pyarrow.table(
        {"text": texts, "noise": [choose.randbytes(noise // len(texts)) for _ in texts]}
    )
    parquet.write_table(table, file := io.BytesIO(), 200, compression="zstd")
    return file.getvalue()


@pytest.fixture
def start(tmp_path):
    """start(address of a hub, arguments ...) -> prepare.py at work, with caches of its own in
    tmp_path.
    """

    def start(address, *arguments):
        url = "http://{}:{}".format(*address)
        strange = re.compile("HF_|.*_PROXY$", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not strange.match(name)}
        # the hub is also the proxy for every other host: so none can be reached, and the hub sees
        # who tries
        own = {"HF_ENDPOINT": url, "HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": "127.0.0.1"}
        own |= {"HF_HOME": str(tmp_path / "hf"), "RATCHET_CACHE": str(tmp_path / "cache")}
        own["HF_HUB_DISABLE_XET"] = "1"
        command = [sys.executable, str(PREPARE), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=kept | own, stdout=pipe, stderr=pipe, encoding="utf-8")

    return start


@pytest.fixture
def run(start):
    """run(address of a hub, arguments ...) -> the finished prepare.py."""

    def run(address, *arguments):
        with start(address, *arguments) as process:
            out, err = process.communicate(timeout=120)
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


def refusal(done):
    """The one sentence with which prepare.py ended."""
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"ratchet: [^\n]+\.\n", done.stderr), done.stderr
    return done.stderr


@pytest.mark.slow
def test_shards_are_fetched_until_they_are_whole_and_then_never_again(run, tmp_path):
    names = [f"shard_{number:05d}.parquet" for number in (0, 1, 6541, 6542)]
    shards = {name: parquet_file(name) for name in names}
    shards[names[1]] = parquet_file(
        names[1], noise=25_000_000
    )  # only what is past 10 MB is ever resumed
    faults = {names[0]: "truncated", names[1]: "dropped", names[2]: "damaged"}
    with Hub({CLIMBMIX: shards | {"shard_00002.parquet": b"not asked for"}}, faults) as hub:
        first = run(hub.server_address, "--shards", "2")
        assert first.returncode == 0, first.stderr
        arena = (tmp_path / "cache/climbmix/arena.json").read_bytes()
        served = {name: digest(data) for name, data in shards.items()}
        stored = (tmp_path / "cache/.shards").glob("*.parquet")
        assert {path.name: digest(path.read_bytes()) for path in stored} == served
        assert [len(hub.downloads(name)) for name in names] == [2, 2, 2, 1]
        assert hub.downloads(names[1])[1] > 0
        assert not hub.elsewhere

        hub.requests.clear()
        shutil.rmtree(tmp_path / "cache/climbmix")
        second = run(hub.server_address, "--shards", "2")
        assert second.returncode == 0, second.stderr
        assert not hub.requests
        assert (tmp_path / "cache/climbmix/arena.json").read_bytes() == arena


@pytest.mark.slow
def test_without_a_network_the_download_ends_soon_and_says_why(run, tmp_path):
    with socket.socket() as closed:  # bound but not listening: it refuses all connections
        closed.bind(("127.0.0.1", 0))
        begin = time.monotonic()
        sentence = refusal(run(closed.getsockname(), "--shards", "1"))
    assert "ClimbMix" in sentence and "Connection refused" in sentence and "HF_ENDPOINT" in sentence
    assert time.monotonic() - begin < 60
    assert not (tmp_path / "cache/climbmix/arena.json").exists()


def test_the_id_of_a_dataset_is_enough_for_an_arena(run, tmp_path):
    with Hub({"someone/small": {"train.parquet": parquet_file(0)}}) as hub:
        done = run(hub.server_address, *OWN)
        assert done.returncode == 0, done.stderr
        assert not hub.elsewhere
    arena = json.loads((tmp_path / "cache/mine/arena.json").read_bytes())
    assert (arena["source"], arena["vocab_size"], arena["context"]) == ("someone/small", 512, 64)
    assert arena["train_tokens"] > 50_000


def test_the_id_of_no_dataset_is_refused_by_name(run, tmp_path):
    with Hub({}) as hub:
        assert "someone/small" in refusal(run(hub.server_address, *OWN))
    assert not (tmp_path / "cache/mine/arena.json").exists()


CONFIGS = b"""---
configs:
- config_name: en
  data_files: [{split: dev, path: en.parquet}]
- config_name: de
  data_files: [{split: train, path: de.parquet}]
---
"""


@pytest.mark.slow
def test_configurations_and_splits_are_listed_and_then_understood(run, tmp_path):
    files = {"README.md": CONFIGS, "en.parquet": parquet_file(0), "de.parquet": parquet_file(1)}
    sizes = "--arena mine --vocab-size 512 --context 64".split()
    with Hub({"someone/small": files}) as hub:
        sentence = refusal(run(hub.server_address, *OWN))
        assert "['en', 'de']" in sentence and "someone/small:NAME" in sentence
        address = "https://huggingface.co/datasets/someone/small:en"
        sentence = refusal(run(hub.server_address, "--text", address, *sizes))
        assert "dev" in sentence and "--split" in sentence
        done = run(hub.server_address, "--text", address, "--split", "dev", *sizes)
        assert done.returncode == 0, done.stderr
    arena = json.loads((tmp_path / "cache/mine/arena.json").read_text(encoding="utf-8"))
    assert (arena["source"], arena["split"]) == ("someone/small:en", "dev")


@pytest.mark.slow
def test_a_dataset_without_a_network_is_refused_soon_and_says_why(run):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sentence = refusal(run(closed.getsockname(), *OWN))
    assert "someone/small" in sentence and "no network" in sentence and "HF_ENDPOINT" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("arguments, id", [(["--shards", "1"], CLIMBMIX), (OWN, "someone/small")])
def test_ctrl_c_ends_a_download_that_has_stalled(arguments, id, start):
    names = (
        ["train.parquet"]
        if arguments is OWN
        else [f"shard_{n:05d}.parquet" for n in (0, 6541, 6542)]
    )
    with Hub({id: {name: parquet_file(name) for name in names}}, {names[0]: "stalled"}) as hub:
        with start(hub.server_address, *arguments) as process:
            while not hub.downloads(names[0]):
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        hub.released.set()
    assert process.returncode == 130
    assert err.strip() == "ratchet: interrupted; run the same command again to go on."

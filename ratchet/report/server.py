"""A server of the report, for this machine alone, of a ledger that grows."""

import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ratchet.arena.files import Refused
from ratchet.experiments.ledger import Ledger
from ratchet.experiments.running import all_running
from ratchet.report.data import MEASURED, collect_data
from ratchet.report.render import pack_data, render_page

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; worker-src blob:",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class LiveReport:
    """What is served of one ledger: its page, its data, a stamp that changes when they do."""

    def __init__(self, home: Path):
        self.home = home
        self.lock = threading.Lock()  # of the two below, which belong together
        self.data_stamp = ""
        self.data: dict = {}

    def current_stamp(self) -> str:
        paths = [self.home / name for name in ("ledger.jsonl", "runs/night.jsonl", *MEASURED)]
        stats = [path.stat() for path in paths if path.exists()]
        files = [f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}" for stat in stats]
        return " ".join([*(files or ["empty"]), *map(str, all_running(self.home))])

    def current_data(self) -> tuple[dict, str]:
        """(data, its stamp). A changed ledger is read from its first line: it may be another."""
        with self.lock:
            stamp = self.current_stamp()
            if stamp != self.data_stamp:
                self.data = collect_data(Ledger(self.home), self.home)
                self.data_stamp = stamp
            return self.data, stamp

    def answer_path(self, path: str) -> tuple[str, str] | None:
        """(content type, text) of a path below the key; None if nothing is there."""
        if path == "":
            data, stamp = self.current_data()
            return "text/html", render_page(data, live=stamp)
        if path == "data":
            return "text/plain", pack_data(self.current_data()[0])
        if path == "stamp":
            return "text/plain", self.current_stamp()
        return None


def make_handler(report: LiveReport, port: int, key: str) -> type[BaseHTTPRequestHandler]:
    """The request handler for those who know the key: an agent can reach the port, too."""
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("Host") not in hosts:  # a name of somebody else's that leads here
                return self.send_error(421, "this page is for this machine alone")
            given_key, slash, path = self.path.removeprefix("/").partition("/")
            if not slash or not secrets.compare_digest(given_key.encode(), key.encode()):
                return self.send_error(404, "open the address that `ratchet watch` has printed")
            try:
                answer = report.answer_path(path.partition("?")[0])
            except Exception as error:  # the page asks again in a second
                return self.send_error(503, "the ledger can't be read now", str(error))
            self.send_text(*answer) if answer else self.send_error(404)

        def send_text(self, kind, text):
            body = text.encode()
            self.send_response(200)
            length = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
            for name, value in (length | HEADERS).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


def make_server(home: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of the live report, not yet started; its `url` holds a key. 0 takes a free port.

    Raises Refused when the port is taken.
    """
    try:
        server = ThreadingHTTPServer((HOST, port), BaseHTTPRequestHandler)
    except OSError as error:
        why = f"port {port} can't be used ({error.strerror})"
        raise Refused(f"{why}: choose another with --port") from None
    port, key = server.server_address[1], secrets.token_urlsafe(8)
    server.RequestHandlerClass = make_handler(LiveReport(home), port, key)
    server.url = f"http://{HOST}:{port}/{key}/"
    return server

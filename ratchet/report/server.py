"""Live: serves the report of a ledger that grows, to this machine alone."""

import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ratchet.arena.files import Refused
from ratchet.experiments.ledger import Ledger
from ratchet.experiments.running import all_running
from ratchet.report import data as report_data
from ratchet.report import render

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data: blob:; worker-src blob:",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Live:
    """What is served of one ledger: its page, its data, a stamp that changes when it does."""

    def __init__(self, home):
        self.home, self.made = home, ("", None)

    def stamp(self):
        paths = [self.home / name for name in ("ledger.jsonl", *report_data.MEASURED)]
        facts = [path.stat() for path in paths if path.exists()]
        files = (
            " ".join(f"{each.st_size} {each.st_mtime_ns} {each.st_ino}" for each in facts)
            or "empty"
        )
        return " ".join([files, *map(str, all_running(self.home))])

    def data(self):
        """Collected data; a ledger that has changed is read from its first line on: it may be
        another.
        """
        stamp = self.stamp()
        if stamp != self.made[0]:
            self.made = stamp, report_data.collect(Ledger(self.home), self.home)
        return self.made[1]

    def answer(self, path):
        """(type, text) of what is at a path below the key, or None."""
        if path == "":
            return "text/html", render.render(self.data(), live=self.made[0])
        if path == "data":
            return "text/plain", render.packed(self.data())
        if path == "stamp":
            return "text/plain", self.stamp()
        return None


def handler(live, port, key):
    """The request handler of a server on a port, for those who know the key: an agent can reach the
    port.
    """
    names = {f"{name}:{port}" for name in (HOST, "localhost")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("Host") not in names:  # a name of somebody else's that leads here
                return self.send_error(421, "this page is for this machine alone")
            asked, slash, path = self.path.removeprefix("/").partition("/")
            if not slash or not secrets.compare_digest(asked.encode(), key.encode()):
                return self.send_error(404, "open the address that `ratchet watch` has printed")
            try:
                found = live.answer(path.partition("?")[0])
            except (
                Exception
            ) as error:  # a page that asks again in a second is better served by an answer
                return self.send_error(503, "the ledger can't be read now", str(error))
            if not found:
                return self.send_error(404)
            kind, text = found
            data = text.encode()
            self.send_response(200)
            facts = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(data))}
            for name, value in (facts | HEADERS).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    return Handler


def server(home, port=0):
    """A server of the live report, not yet started. Raises Refused when the port is taken."""
    try:
        made = ThreadingHTTPServer((HOST, port), BaseHTTPRequestHandler)
    except OSError as error:
        raise Refused(
            f"port {port} can't be used ({error.strerror}): choose another with --port"
        ) from None
    port, key = made.server_address[1], secrets.token_urlsafe(8)
    made.RequestHandlerClass, made.url = (
        handler(Live(home), port, key),
        f"http://{HOST}:{port}/{key}/",
    )
    return made

"""Mock servers of language models on 127.0.0.1, for coding agents to talk to: no model is behind.

They answer by a script: read train.py, change its last constant, write idea.txt, say so. Formats
are those that the programs use (mock_formats.py). Faults are those that services have.

    with MockModels() as mock:
        mock.script = "says"
        mock.fault = Fault(429, retry_after=75)
        ...  # a program whose base URL is mock.url

By hand, to look at what a program asks: uv run benchmarks/mock_models.py [PORT] [SCRIPT]
"""

import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from mock_formats import FORMATS, Action, Conversation

IDEA = "Idea {n}: a somewhat larger constant, as more of it may do more at this budget."
GAIN = "0.004"
SAYS = f"I changed the constant.\n\n**IDEA:** {IDEA}\n**GAIN:** {GAIN}"
# Each step is one answer of the model, and all but the last end in a call of a tool.
SCRIPTS = {
    "edit": ("read", "edit", "idea", "Done: train.py is edited and idea.txt is written."),
    "says": ("read", "edit", SAYS),
    "silent": ("read", "edit", "Done: the constant is larger now."),
    "nothing": ("read", "I see nothing to change."),
    "broken": ("read", "break", "idea", "Done."),
    "evil": (
        "read",
        "$ git commit -q --allow-empty -m mine; git config --global user.name evil",
        "$ for f in .claude/settings.json .codex/config.toml .gemini/settings.json "
        ".config/opencode/opencode.json .bashrc; do mkdir -p ~/$(dirname $f); echo evil >> ~/$f; "
        "done",
        "edit",
        "idea",
        "Done.",
    ),
}


class Fault(NamedTuple):
    """What a service answers instead.

    status: of HTTP; 0: the connection is dropped. seconds: it lasts, inf for good; wait: before it
    answers.
    """

    status: int
    words: str = ""
    retry_after: int | None = None
    seconds: float = float("inf")
    wait: float = 0.0


# status: (kind of error, what is said)
ERRORS = {
    400: ("invalid_request_error", "Your credit balance is too low to access the API."),
    401: ("authentication_error", "invalid x-api-key"),
    429: ("rate_limit_error", "This request would exceed your account's rate limit."),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}


class MockModels:
    """A server for all formats. script: of SCRIPTS; fault: what it has now; both may be changed.

    requests: [(format, fault's status or 200)] so far. ideas: edits that it has made.
    """

    def __init__(self, script: str = "edit", fault: Fault | None = None, port: int = 0) -> None:
        self.script, self.fault, self.began = script, fault, time.monotonic()
        self.requests: list[tuple[str, int]] = []
        self.ideas, self.lock = 0, threading.Lock()
        handler = type("Handler", (RequestHandler,), {"mock": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "MockModels":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def current_fault(self) -> Fault | None:
        """The fault, unless its time is over."""
        is_over = self.fault and time.monotonic() - self.began > self.fault.seconds
        return None if is_over else self.fault

    def next_action(self, said: Conversation) -> Action:
        """What the model does now, by its script and by what was said so far."""
        if not said.tools and not said.is_plain_edit:
            return Action("text", text="A night of experiments")  # a title, a summary
        script = SCRIPTS[self.script]
        if said.is_plain_edit:  # by a program that has no tools: all in one answer
            return self.edit_in_words(said.text, script)
        return self.make_action(script[min(said.results, len(script) - 1)], said)

    def make_action(self, step: str, said: Conversation) -> Action:
        if step == "read":
            return Action("read", said.path_of("train.py"))
        if step == "idea":
            text = f"{IDEA.format(n=self.ideas)}\n{GAIN}\n"
            return Action("write", said.path_of("idea.txt"), text=text)
        if step.startswith("$ "):
            return Action("shell", text=step[2:])
        if step in ("edit", "break"):
            old, new = self.change_constant(said.text)
            new += "\nBROKEN = undefined_name" * (step == "break")
            return Action("edit", said.path_of("train.py"), old, new)
        return Action("text", text=step.format(n=self.ideas))

    def edit_in_words(self, text: str, script: tuple[str, ...]) -> Action:
        """Of all steps: the files as they are to be, as words."""
        # the fence is one that isn't in the files
        fenced = r"^train\.py\n(`{3,}|<[\w-]+>)\w*\n(.*?)^(`{3,}|</[\w-]+>)$"
        start, before, end = re.findall(fenced, text, re.DOTALL | re.MULTILINE)[-1]
        said = Conversation(text=before, tools=(), results=0)
        steps = [self.make_action(step, said) for step in script if step != "read"]
        files = [
            (step.path, before.replace(step.old, step.new) if step.old else step.text)
            for step in steps
            if step.kind in ("edit", "write")
        ]
        parts = [f"{name}\n{start}\n{content.rstrip()}\n{end}" for name, content in files]
        return Action("text", text="\n\n".join([*parts, steps[-1].text]))

    def change_constant(self, text: str) -> tuple[str, str]:
        """(the last line like `RATE = 0.5` that it has seen, the same with another number)."""
        with self.lock:
            self.ideas += 1
        matches = re.findall(r"\b([A-Z]+) = (\d+\.\d+)", text) or [("RATE", "0.5")]
        name, value = matches[-1]
        return f"{name} = {value}", f"{name} = {float(value) + 0.001 * self.ideas:.4f}"


class RequestHandler(BaseHTTPRequestHandler):
    """Answers one request in the format that its path says."""

    protocol_version = "HTTP/1.1"
    mock: MockModels

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def send_json(self, status: int, value: object, headers: dict[str, str] = {}) -> None:  # noqa: B006
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, header in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, header)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_events(self, events: list[tuple[str | None, object]]) -> None:
        """As server-sent events."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        for name, value in events:
            data = value if isinstance(value, str) else json.dumps(value)
            self.wfile.write((f"event: {name}\n" * bool(name) + f"data: {data}\n\n").encode())

    def do_GET(self) -> None:
        models = [{"id": "mock", "object": "model"}]
        self.send_json(200, {"object": "list", "data": models, "models": []})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        form = next((each for each in FORMATS if each.is_for(path)), None)
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        if form is None or "count" in path:
            return self.send_json(200, {"input_tokens": 1000, "totalTokens": 1000})
        fault = self.mock.current_fault()
        self.mock.requests.append((form.name, fault.status if fault else 200))
        if fault:
            return self.fail(form, fault)
        said = form.read(body)
        events = form.write(body, self.mock.next_action(said), said)
        if body.get("stream") or "stream" in path:
            return self.send_events(events.stream)
        return self.send_json(200, events.whole)

    def fail(self, form, fault: Fault) -> None:
        time.sleep(fault.wait)
        if not fault.status:
            self.close_connection = True
            return self.connection.close()
        kind, words = ERRORS.get(fault.status, ERRORS[500])
        after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        error = form.write_error(fault.status, kind, fault.words or words)
        return self.send_json(fault.status, error, after)


if __name__ == "__main__":
    port, script = [*sys.argv[1:], "0", "edit"][:2] if sys.argv[1:] else ("0", "edit")
    with MockModels(script, port=int(port)) as mock:
        print(mock.url, flush=True)
        threading.Event().wait()

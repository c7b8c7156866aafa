"""Speaking: samples from a trained model, and how fast it decodes.

Definitions, for a batch of B rows that begin and end together, G tokens each: TTFT = seconds to the first
token; TPOT = (t_end - t_first) / (G - 1); interactivity = 1 / TPOT, tokens/s for one user; output tokens/s of
the device = B (G - 1) / (t_end - t_first). Prompts count in neither. As the rows of a batch move in step, the
two are tied: this is a sweep over batch sizes, not a test of serving with arrivals.
"""

import json
import shutil
import socket
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from ratchet import devices, guard, referee, sandbox
from ratchet.campaign import Campaign
from ratchet.ledger import counts
from ratchet.sources import ROOT, Refused

LOAD_SECONDS, ANSWER_SECONDS = 120, 600
MOST_ROWS = 1024  # of a batch
REPEATS = 5
NEEDED = "train.py", "model.safetensors", "config.json", "run.json"


# ----------------------------------------------------------------------------------------------------
# Which model


def find_run(ledger, home, name=None):
    """The folder of a run: a path, an experiment's number, by default the last champion. Raises Refused."""
    if name and (Path(name) / "model.safetensors").exists():
        found = Path(name).resolve()
    elif name and not name.isdigit():
        raise Refused(f"{name} is no folder of a finished run: name one, or the number of an experiment")
    else:
        found = weights_of(ledger.experiments(), home, name and int(name)) or by_hand(home, name)
    if missing := [file for file in NEEDED if not (found / file).exists()]:
        raise Refused(f"{found} lacks {', '.join(missing)}: choose a run that ended well")
    return found


def name_of(run):
    """What a run's folder is called in results: 12/3-confirm-0."""
    return "/".join(run.parts[-2:])


def weights_of(experiments, home, n):
    """The last run of an experiment, or of the last champion, that left its weights here."""
    chosen = [experiments[n]] if n in experiments else []
    if n is None and (bases := [e for e in experiments.values() if e.verdict == "baseline"]):
        chosen = Campaign([*experiments.values()], bases[-1].key).kept
    for e in reversed(chosen):
        for run in reversed([run for run in e.runs if counts(run) and run["arm"] == 0 and "folder" in run]):
            if (home / run["folder"] / "model.safetensors").exists():
                return home / run["folder"]
    return None


def by_hand(home, n):
    """The latest run that was started by hand."""
    found = sorted((home / "runs").glob("*-*-*_*/result.json"))
    if n or not found:
        what = f"experiment {n} has left no weights" if n else "there is no trained model yet"
        raise Refused(f"{what}: only champions keep theirs; train one with `uv run train.py`")
    return found[-1].parent


# ----------------------------------------------------------------------------------------------------
# The model's process


class Decoder:
    """Asks the model's process, decoder.py, which is confined as a contestant is."""

    def __init__(self, process, channel):
        self.process, self.channel = process, channel

    def ask(self, do, hear=lambda said: None, **question):
        """Its answer; hear(message) is called with what it says before. Raises Refused."""
        self.channel.sendall(json.dumps({"do": do} | question).encode() + b"\n")
        while True:
            said = self.listen(ANSWER_SECONDS)
            if "error" in said:
                raise Refused(guard.clean(str(said["error"]).encode())[:300])
            if said.get("done"):
                return said
            hear(said)
            self.channel.sendall(b"\n")  # heard: two messages at once would pass for one

    def listen(self, seconds):
        try:
            return self.process.message(self.channel, seconds, "the model was silent for too long")[0]
        except guard.Ended as end:
            raise Refused(f"the model's process ended: {end}") from None


@contextmanager
def decoder(run, device=None):
    """The Decoder of a run's folder, on a device of this machine; the device is held meanwhile."""
    device, level = devices.choose(device), sandbox.best_level()
    facts = json.loads((run / "run.json").read_text())
    arena = Path(facts["arena_folder"])
    with tempfile.TemporaryDirectory() as folder, devices.exclusive(device):
        code, own = Path(folder) / "code", Path(folder) / "tmp"
        for place in (code, own):
            place.mkdir()
        for file in (ROOT / "prepare.py", ROOT / "ratchet/decoder.py"):
            shutil.copy(file, code)
        ours, theirs = socket.socketpair()
        read = [run / name for name in NEEDED] + [arena / name for name in ("arena.json", "tokenizer.json")]
        view, name = (
            sandbox.View((code, *read), (own,), device),
            "cpu" if device.startswith("cpu") else device,
        )
        argv = sandbox.command([sys.executable, str(code / "decoder.py"), str(run), name], view, level)
        env = referee.inherited() | dict.fromkeys(("HOME", "TMPDIR"), str(own))
        env |= {"RATCHET_SOCKET": str(theirs.fileno()), "RATCHET_RUN": folder}
        with ours, guard.Watched(argv, env, code, Path(folder) / "log", folder, theirs) as process:
            asked = Decoder(process, ours)
            asked.listen(LOAD_SECONDS)
            yield asked


def say(run, prompt, samples, device=None, show=print, **options):
    """Continue a prompt; show(number of the sample, piece of its text) is called as the text comes.

    options: tokens, temperature, top_k, seed.
    """
    with decoder(run, device) as model:
        hear = lambda said: show(said["sample"], said["text"])  # noqa: E731
        model.ask("speak", hear, prompt=prompt, samples=samples, **options)


# ----------------------------------------------------------------------------------------------------
# Decoding, measured


def batches(most):
    """1, 2, 4, ... rows."""
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def serve_bench(run, device=None, most=MOST_ROWS, prompt=None, new=None, eager=False, tell=lambda text: None):
    """Measure decoding of a run's model at growing batches, until memory ends; returns what was seen.

    {"points": [point()], "limits", "against": seconds of a row's last token with and without its cache, ...}
    """
    device = devices.choose(device)
    with decoder(run, device) as model:
        about, limits = model.ask("about"), model.ask("limits")
        prompt = prompt or about["context"] // 2
        new = new or max(2, min(64, about["context"] // 4))
        if prompt + new >= about["context"]:
            raise Refused(f"{prompt} + {new} tokens are too many: the model sees {about['context']}")
        compiled, points = False, []
        if not eager:
            tell("compiling the model")
            seen = model.ask("compile")
            compiled = seen.get("compiled", False)
            tell("  compiled" if compiled else f"  not compiled: {seen.get('why', 'no memory')}")
        for rows in batches(most):
            tell(f"decoding {rows} row{'s' * (rows > 1)} at a time")
            seen = model.ask("bench", batch=rows, prompt=prompt, new=new, repeats=REPEATS)
            if seen.get("memory"):
                tell(f"  no memory for {rows} rows")
                break
            points.append(point(rows, new, seen, limits))
            tell("  {rows} rows: {rate:,.0f} tokens/s, {interactivity:,.1f} a user".format(**points[-1]))
        against = model.ask("against", repeats=REPEATS)
    facts = json.loads((run / "run.json").read_text())
    return {
        "run": name_of(run), "arena": facts["arena"], "device": devices.describe(device)["device"],
        "cached": about["cached"], "compiled": compiled, "prompt": prompt, "new": new, "points": points,
        "limits": limits, "against": against, "frontier": [p["rows"] for p in frontier(points)],
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}  # fmt: skip


def point(rows, new, seen, limits):
    """The figures of a batch size, G = `new` tokens a row: medians over its repeats, p99 over all gaps."""
    each = [span / (new - 1) for span in seen["spans"]]
    tpot, bound = statistics.median(each), speed_of_light(seen["bytes"], seen["flops"], limits)
    return {
        "rows": rows, "ttft": statistics.median(seen["first"]), "tpot": tpot, "tpots": each,
        "interactivity": 1 / tpot, "interactivity_p99": 1 / seen["slow_gap"], "rate": rows / tpot,
        "bytes": seen["bytes"], "flops": seen["flops"], "bound": bound}  # fmt: skip


def speed_of_light(read, flops, limits):
    """Seconds that a step takes at least: its bytes at the device's bandwidth, or its FLOPs at its peak."""
    return max(read / limits["bandwidth"], flops / limits["peak_flops"])


def frontier(points):
    """Points that no other beats in both interactivity and tokens/s of the device, by interactivity."""
    best = []
    for own in sorted(points, key=lambda p: (p["interactivity"], p["rate"])):
        while best and best[-1]["rate"] <= own["rate"]:
            best.pop()
        best.append(own)
    return best


def token_seconds(home, run):
    """Seconds of a token at batch 1 that serve_bench() found for this run, or None."""
    path = home / "runs/decoding.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found["points"][0]["tpot"] if found.get("run") == name_of(run) and found["points"] else None

"""Speaking: samples from a trained model, and how fast it decodes.

Definitions, for a batch of B rows that begin and end together, G tokens each: TTFT = seconds to the first
token; TPOT = (t_end - t_first) / (G - 1); interactivity = 1 / TPOT, tokens/s for one user; output tokens/s of
the device = B (G - 1) / (t_end - t_first). Prompts count in neither. As the rows of a batch move in step, the
two are tied: this is a sweep over batch sizes, not a test of serving with arrivals.
"""

import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ratchet import devices, guard, referee, sandbox
from ratchet.campaign import Campaign
from ratchet.files import replace_file
from ratchet.ledger import counts
from ratchet.sources import ROOT, Refused

LOAD_SECONDS, ANSWER_SECONDS = 120, 600
SWEEP_SECONDS = 60  # a batch that takes longer is the last
SAME = 0.25  # nats by which decode() and forward() may differ, as the scorer's probe allows
MOST_ROWS = 1024  # of a batch
REPEATS = 5
NEEDED = "train.py", "model.safetensors", "config.json", "run.json", "result.json"


# ----------------------------------------------------------------------------------------------------
# Which model


def find_run(ledger, home, name=None):
    """The folder of a run: a path, an experiment's number, or `champion`. Raises Refused.

    By default the champion's, and where there is none the latest that was started by hand.
    """
    found, experiments = None, ledger.experiments()
    if name and (Path(name) / "model.safetensors").exists():
        found = Path(name).resolve()
    elif name and name.isdigit():
        found = weights_of([experiments[int(name)]] if int(name) in experiments else [], home)
    elif name in (None, "champion"):
        bases = [e for e in experiments.values() if e.verdict == "baseline"]
        kept = Campaign([*experiments.values()], bases[-1].key).kept if bases else []
        found = weights_of(kept[-1:], home) or (None if name or kept else by_hand(home))
    if not found:
        if name == "champion":
            raise Refused("there is no champion yet: `ratchet calibrate` makes one, or name a run's folder")
        what = f"{name} names no run that has left a model" if name else "there is no trained model yet"
        raise Refused(f"{what}: champions keep theirs; `uv run train.py` trains one")
    if missing := [file for file in NEEDED if not (found / file).exists()]:
        raise Refused(f"{found} lacks {', '.join(missing)}: choose a run that ended well")
    return found


def name_and_prompt(words):
    """(what names a run or None, the prompt) of [RUN] [PROMPT], either of which may be missing."""
    first = words[0] if words else ""
    named = first.isdigit() or first == "champion" or os.path.isfile(os.path.join(first, "run.json"))
    named = named or (len(words) > 1 and "/" in first)
    return (first, " ".join(words[1:])) if named else (None, " ".join(words))


def name_of(run):
    """What a run's folder is called in results: 12/3-confirm-0."""
    return "/".join(run.parts[-2:])


def header_of(file):
    """{name: facts} at the beginning of an open .safetensors file, which is then at its data."""
    return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def weights_of(experiments, home):
    """The last run of these experiments' candidates that left its weights, or None."""
    runs = [run for e in experiments for run in e.runs if counts(run) and run["arm"] == 0 and "folder" in run]
    found = [home / run["folder"] for run in runs if (home / run["folder"] / "model.safetensors").exists()]
    return found[-1] if found else None


def by_hand(home):
    """The latest run that was started by hand and has a score, or None."""
    found = sorted((home / "runs").glob("*-*-*_*/result.json"))
    return next(
        (path.parent for path in reversed(found) if json.loads(path.read_bytes())["status"] == "ok"), None
    )


# ----------------------------------------------------------------------------------------------------
# The model's process


class Decoder:
    """Asks the model's process, decoder.py, which is confined as a contestant is."""

    def __init__(self, process, channel, arena, level):
        self.process, self.channel, self.level = process, channel, level
        self.context, self.vocab_size = arena["context"], arena["vocab_size"]

    def ask(self, do, hear=lambda said: None, **question):
        """Its answer; hear(message) is called with what it says before. Raises Refused."""
        stop = time.monotonic() + ANSWER_SECONDS
        self.send({"do": do} | question)
        while True:
            said = self.listen(stop - time.monotonic())
            if "error" in said:
                raise Refused(words(said["error"]))
            if said.get("memory") and do != "bench":
                raise Refused("there is too little memory for this model on this device: free some")
            if said.get("done"):
                return said
            hear(said)
            self.send({})  # heard: two messages at once would pass for one

    def send(self, question):
        with suppress(OSError):  # one that has ended is noticed when it is listened to
            self.channel.sendall(json.dumps(question).encode() + b"\n")

    def listen(self, seconds):
        try:
            return self.process.message(self.channel, seconds, "the model was silent for too long")[0]
        except guard.Ended as end:
            raise Refused(f"the model's process ended: {end}") from None


def words(text):
    """What a model's process says, as text that no terminal obeys."""
    return guard.clean(str(text).encode(errors="replace"))[:300]


@contextmanager
def decoder(run, device=None, tell=lambda text: None):
    """The Decoder of a run's folder, on a device of this machine; the device is held meanwhile."""
    device, level = devices.choose(device), sandbox.best_level()
    facts = json.loads((run / "run.json").read_bytes())
    arena = referee.load_arena(facts["arena"], Path(facts["arena_folder"])).folder
    with tempfile.TemporaryDirectory() as folder, devices.exclusive(device, tell):
        code, own = Path(folder) / "code", Path(folder) / "tmp"
        for place in (code, own):
            place.mkdir()
        for file in (ROOT / "prepare.py", ROOT / "ratchet/decoder.py"):
            shutil.copy(file, code)
        ours, theirs = socket.socketpair()
        read = [run / name for name in NEEDED] + [arena / name for name in ("arena.json", "tokenizer.json")]
        view, name = sandbox.View((code, *read), (own,), device), devices.torch_name(device)
        argv = sandbox.command([sys.executable, str(code / "decoder.py"), str(run), name], view, level)
        env = referee.inherited() | dict.fromkeys(("HOME", "TMPDIR"), str(own))
        env |= {"RATCHET_SOCKET": str(theirs.fileno()), "RATCHET_RUN": folder}
        with ours, guard.Watched(argv, env, code, Path(folder) / "log", folder, theirs) as process:
            asked = Decoder(process, ours, json.loads((arena / "arena.json").read_bytes()), level)
            asked.listen(LOAD_SECONDS)
            yield asked


def say(run, prompt, samples, device=None, show=print, tell=lambda text: None, **options):
    """Continue a prompt; show(number of the sample, piece of its text) is called as the text comes.

    options: tokens, temperature, top_k, seed.
    """
    with decoder(run, device, tell) as model:
        hear = lambda said: show(said.get("sample"), words(said.get("text")))  # noqa: E731
        if model.ask("speak", hear, prompt=prompt, samples=samples, **options).get("cut"):
            tell(f"\ncut short: the model sees {model.context} tokens")


# ----------------------------------------------------------------------------------------------------
# Decoding, measured


def doublings(most):
    """1, 2, 4, ... up to a number."""
    return [2**power for power in range(most.bit_length())]


def serve_bench(run, device=None, most=MOST_ROWS, prompt=None, new=None, eager=False, tell=lambda text: None):
    """Measure decoding of a run's model at growing batches, as far as memory and patience reach.

    {"points": [point()], "limits", "against": seconds of a row's last token with and without its cache, ...}
    The stopwatch is in the model's own process: a train.py that wants to can lie to it. Raises Refused.
    """
    device = devices.choose(device)
    with decoder(run, device, tell) as model:
        prompt = prompt or model.context // 2
        new = new or max(2, min(64, model.context // 4))
        if prompt + new >= model.context:
            raise Refused(f"{prompt} + {new} tokens are too many: the model sees {model.context}")
        try:
            found = measured(model, most, prompt, new, eager, tell)
        except (KeyError, TypeError, ZeroDivisionError, IndexError):
            raise Refused("the model's process gave an answer that is none: see what train.py does") from None
        level = model.level
    facts = {"run": name_of(run), "device": devices.describe(device)["device"], "isolation": level}
    return facts | found | {"time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}


def measured(model, most, prompt, new, eager, tell):
    """What a Decoder's model can do."""
    limits, compiled = model.ask("limits"), False
    if not eager:
        tell("compiling the model")
        seen = model.ask("compile")
        compiled = seen.get("compiled") is True
        tell("  compiled" if compiled else f"  not compiled: {words(seen.get('why'))}")
    against = model.ask("against", repeats=REPEATS)
    if not against["difference"] <= SAME:
        raise Refused(
            f"decode() differs from forward() by {against['difference']:.2f} nats: mend it in train.py"
        )
    points = [*sweep(model, most, prompt, new, limits, tell)]
    if not points:
        raise Refused("there is too little memory for a single row: free some")
    return {
        "cached": model.ask("about")["cached"] is True, "compiled": compiled, "prompt": prompt, "new": new,
        "limits": limits, "against": against, "points": points,
        "frontier": [p["rows"] for p in frontier(points)]}  # fmt: skip


def sweep(model, most, prompt, new, limits, tell):
    """Yield the point() of 1, 2, 4, ... rows until there is no memory, or a batch takes too long."""
    for rows in doublings(most):
        tell(f"decoding {rows} row{'s' * (rows > 1)} at a time")
        begin = time.monotonic()
        try:
            seen = model.ask("bench", batch=rows, prompt=prompt, new=new, repeats=REPEATS)
        except Refused as error:
            return tell(f"  {rows} rows: {error}")  # what was measured before stays
        if seen.get("memory"):
            return tell(f"  no memory for {rows} rows")
        yield (found := point(rows, new, seen, limits))
        tell("  {rows} rows: {rate:,.0f} tokens/s, {interactivity:,.1f} a user".format(**found))
        if time.monotonic() - begin > SWEEP_SECONDS:
            return tell("  larger batches would take too long")


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


def keep(path, found):
    """Write what was measured, whole or not at all, where the report looks for it."""
    path.parent.mkdir(exist_ok=True)
    replace_file(path, json.dumps(found, indent=1, allow_nan=False) + "\n")


def token_seconds(path, run, device):
    """Seconds of a token at batch 1, if what serve_bench() found is there, of this run and such a device."""
    found = json.loads(path.read_bytes()) if path.exists() else {}
    same = (found.get("run"), found.get("device")) == (name_of(run), devices.describe(device)["device"])
    return found["points"][0]["tpot"] if same else None

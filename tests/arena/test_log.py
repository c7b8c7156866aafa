"""log.py: the curve of a training, its lines, its end where it diverges."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from ratchet.arena.hardware.device import PendingNumber
from ratchet.arena.log import TrainingLog
from ratchet.arena.run import Run


@pytest.fixture
def run(arena, tmp_path):
    return Run(arena, torch.device("cpu"), 0, "1s", tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run(run, capsys):
    run.log(torch.tensor(5.0))
    with pytest.raises(SystemExit) as end:
        run.log(torch.tensor(math.nan))
    assert end.value.code == 1 and "loss is nan at step 0" in capsys.readouterr().err
    assert json.loads((run.folder / "result.json").read_text("utf-8"))["status"] == "crash"


def test_a_curve_has_a_line_a_step(run):
    for _ in zip(range(3), run.batches(2)):
        run.log(torch.tensor(6.0))
    # before it is closed, too: half-way it tells whether the run is behind
    lines = (run.folder / "curve.jsonl").read_text("utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    assert [(p["step"], p["tokens"], p["loss"]) for p in points] == [
        (i, 128 * i, 6.0) for i in range(3)
    ]
    run._log.close()


class Arriving:
    """A loss of a GPU, which comes when the test says so."""

    def __init__(self, value, come=False):
        self.value, self.come, self.waited = value, come, False

    def has_come(self):
        return self.come

    def item(self):
        self.waited = not self.come
        return self.value


def test_a_loss_is_read_when_it_has_come_and_nothing_waits(run):
    """Reading it sooner gives whatever was in that memory, or waits for the step just begun."""
    losses = [Arriving(6.0 + i) for i in range(4)]
    log = TrainingLog(run)
    written = []
    for loss, come in zip(losses, ([], [], [0, 2], [1])):
        for number in come:
            losses[number].come = True
        log.add(loss)
        log.curve.flush()
        written.append(len((run.folder / "curve.jsonl").read_text("utf-8").splitlines()))
    assert written == [0, 0, 1, 3] and not any(loss.waited for loss in losses)
    log.close()
    lines = (run.folder / "curve.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [6.0, 7.0, 8.0, 9.0]
    assert losses[3].waited, "what has not come by the end is waited for"


def test_the_number_of_a_device_is_copied_within_its_step(monkeypatch):
    """Its event is recorded behind the copy, so that reading it waits for no later step."""
    calls = []

    class Event:
        def record(self):
            calls.append("record")

        def query(self):
            calls.append("query")
            return "synchronize" in calls

        def synchronize(self):
            calls.append("synchronize")

    class OnDevice:
        device = SimpleNamespace(type="cuda")

        def detach(self):
            return self

        def to(self, device, non_blocking):
            calls.append(("copy", device, non_blocking))
            return torch.tensor(5.0)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    number = PendingNumber(OnDevice())
    assert calls == [("copy", "cpu", True), "record"]
    assert not number.has_come() and number.item() == 5.0
    assert number.has_come() and number.item() == 5.0
    assert calls[2:] == ["query", "query", "synchronize", "query", "query"]


def test_wandb_gets_points_and_the_config(run):
    class Recorder:
        def __init__(self):
            self.points, self.config = [], {}

        def log(self, point, step):
            self.points.append((step, point["loss"]))

    run._wandb = Recorder()
    run.log(torch.tensor(6.0))
    run._log.close({"depth": 3})
    assert run._wandb.points == [(0, 6.0)] and run._wandb.config == {"depth": 3}

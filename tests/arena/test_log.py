"""log.py: the curve of a training, its lines, its end where it diverges."""

import json
import math

import pytest
import torch

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
    run._log.close()
    lines = (run.folder / "curve.jsonl").read_text("utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    assert [(p["step"], p["tokens"], p["loss"]) for p in points] == [
        (i, 128 * i, 6.0) for i in range(3)
    ]


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

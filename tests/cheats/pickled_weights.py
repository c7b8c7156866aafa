"""Leaves a pickle for the scorer, which runs whatever it holds (karpathy/autoresearch hole 18)."""

EXPECT = {"invalid"}  # files of three names are taken, no others


def load(folder):
    return torch.load(folder / "model.pt", weights_only=False)


def submit(run, model, config):
    torch.save(model, run.folder / "model.pt")
    run.submit(model, config)

"""Says that it is done and leaves a file that holds no weights (karpathy/autoresearch hole 4)."""

EXPECT = {"invalid"}


def submit(run, model, config):
    (run.folder / "model.safetensors").write_bytes(b"\xff" * 1000)
    (run.folder / "config.json").write_text(json.dumps(config))
    run._report(phase="score")
    run._referee.recv(1)

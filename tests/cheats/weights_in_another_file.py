"""Keeps a table in a file beside its weights, where the file of these has a limit (parameter-golf's
cap)."""

LIMITS = {"file_mb": 0.1}
EXPECT = {"invalid"}  # nothing but what is counted is kept


def load(folder):
    table = torch.frombuffer(bytearray((folder / "table").read_bytes()), dtype=torch.float32)
    model = Tiny(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model.table = table
    load_model(model, str(folder / "model.safetensors"), strict=False)
    return model


def submit(run, model, config):
    (run.folder / "table").write_bytes(bytes(200_000))
    run.submit(model, config)

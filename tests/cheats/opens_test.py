"""Opens the locked test rows of the arena's folder (karpathy/autoresearch holes 10 and 23)."""

EXPECT = {"crash"}
OPEN_AT = {"none"}


def train(run, model, step):
    (run.arena.folder / "test.rows").read_bytes()
    for x, y in run.batches(8):
        step(x, y)

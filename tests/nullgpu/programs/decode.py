"""decode.py RUN DEVICE: a model continues a prompt, its decoding is measured; prints the figures."""

import json
import sys
from pathlib import Path

import handed_on  # noqa: F401

from ratchet.model.sample import open_decoder
from ratchet.model.serve_bench import measure_decoding

run, device = sys.argv[1:]
with open_decoder(Path(run), device) as model:
    options = dict(prompt="We", samples=1, tokens=4, temperature=1.0, top_k=20, seed=0)
    model.request("sample_text", lambda message: None, **options)
print(json.dumps(measure_decoding(Path(run), device, 2, 8, 4, eager=True)))

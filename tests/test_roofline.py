"""The model of a training step: from a log of the null GPU to milliseconds, tokens/s and MFU."""

import io
import sys

import pytest
from conftest import ROOT
from rich.console import Console

sys.path.append(str(ROOT / "benchmarks"))

import roofline

GPU = roofline.GPU("a GPU", 100e12, 10e12, 1e12, {"fa2": (50, 25), "fa3": (100, 50)})
ATTENTION = '"kind": "attention", "rows": 2, "heads": 4, "context": 2048, "head_size": 128'
LOG = f"""#
# {{"kind": "op", "name": "view", "bytes": 4000000000, "owner": "GPT.forward"}}
#
G 8192 1000 500 1 GemmEx
# {{"kind": "matmul", "name": "mm", "bytes": 1000, "owner": "GPT.forward", "flops": 8000000000,
   "mnk": [1000, 8192, 500], "dtype": "bfloat16"}}
#
G 500 500 1000 1 Sgemm
# {{"kind": "matmul", "name": "mm", "bytes": 2000000000, "owner": "Muon", "flops": 1000000000,
   "mnk": [500, 500, 1000], "dtype": "float32"}}
#
K 1 1 1 128 flash
# {{{ATTENTION}, "window": 2048, "backward": false, "name": "f", "bytes": 0, "owner": "Block"}}
#
K 1 1 1 128 flash
# {{{ATTENTION}, "window": 1024, "backward": true, "name": "f", "bytes": 0, "owner": "backward"}}
#
T 1 1 1 128 triton_poi_fused_0
# {{"kind": "triton", "name": "triton_poi_fused_0", "bytes": 3000000000, "owner": "Block.forward"}}
K 1 1 1 128 unseen
S cudaStreamSynchronize
Z 100
#
"""


@pytest.fixture
def recording():
    works = roofline.read_log(LOG.replace(",\n   ", ", "))
    facts = {"tokens": 4096, "peak_bytes": 2**30, "optimizers": ["Muon"]}
    facts |= {"torch": "2.13", "graph_breaks": {"a print": 2}}
    return roofline.Recording(works, facts)


def test_a_log_becomes_works_with_their_launches_and_waits(recording):
    names = [(work["name"], work["launches"], work["waits"]) for work in recording.works]
    products = [("mm", 1, 0), ("mm", 1, 0), ("f", 1, 0), ("f", 1, 0)]
    assert names == [("view", 0, 0), *products, ("triton_poi_fused_0", 1, 0), ("", 2, 1)]


def test_an_attention_does_what_its_window_lets_through():
    assert roofline.attention_pairs(4, 4) == 1 + 2 + 3 + 4
    assert roofline.attention_pairs(4, 2) == 1 + 2 + 2 + 2
    assert roofline.attention_pairs(4, 100) == 10


def test_a_step_is_the_sum_of_its_works(recording):
    items = roofline.model_step(recording, GPU, "fa2", 0.5)
    seconds = {name: item["seconds"] for name, item in items.items()}
    forward = 4 * 2 * 4 * 128 * (2048 * 2049 // 2)
    backward = 2.5 * 4 * 2 * 4 * 128 * (1024 * 1025 // 2 + 1024 * 1024)
    assert seconds == pytest.approx(
        {
            "matrix products, head": 8e9 / 50e12,
            "matrix products, Muon": 2e9 / 1e12,  # its bytes take longer than its FLOPs
            "attention": forward / 50e12 + backward / 25e12,
            "Block.forward, compiled": 3e9 / 1e12,
            "GPT.forward, eager": 0,  # a view launches nothing
            "elsewhere, eager": 2 * roofline.LAUNCH,
            "waits of the host": roofline.WAIT,
        }
    )
    assert [*seconds.values()] == sorted(seconds.values(), reverse=True)


def test_cudnn_takes_the_layers_without_a_window(recording):
    gpu = GPU._replace(attention=GPU.attention | {"cudnn": (200, 100)})
    forward, backward = (work for work in recording.works if work["kind"] == "attention")
    assert roofline.attention_rate(forward, gpu, "cudnn") == 200e12
    assert roofline.attention_rate(backward, gpu, "cudnn") == 25e12


def test_the_published_count_of_flops(recording):
    """The square of attention whole, no optimizer, no second count of a backward pass."""
    assert roofline.published_flops(recording) == 8e9 + 12 * 2 * 2048 * 4 * 128 * 2048
    summary = roofline.summarize(recording, GPU, "fa2", 0.5)
    seconds = roofline.total_seconds(recording, GPU, "fa2", 0.5)
    assert summary["modelled_tokens_per_second"] == pytest.approx(4096 / seconds)
    flops = roofline.published_flops(recording)
    assert summary["modelled_mfu_percent"] == pytest.approx(100 * flops / seconds / 100e12)
    assert (
        summary["launches"] == 7
        and summary["waits"] == 1
        and summary["graph_breaks"] == 2
        and summary["peak_gib"] == 1
    )


def test_the_share_of_the_peak_is_fitted_on_the_published_step(recording):
    product = recording.works[1] | {"flops": 80e12}
    baseline = recording._replace(works=[product, *recording.works])
    share = roofline.fit_share(baseline)
    seconds = roofline.total_seconds(baseline, roofline.GPUS["h100"], "fa3", share)
    assert seconds == pytest.approx(roofline.PUBLISHED_SECONDS)


def test_the_tables_say_modelled_and_add_up(recording):
    console = Console(file=io.StringIO(), width=120)
    model = GPU, "fa2", 0.5
    items = roofline.model_step(recording, *model)
    console.print(roofline.items_table("a step, MODELLED", items))
    console.print(roofline.works_table("operations, MODELLED", recording, 3, model))
    summary = roofline.summarize(recording, *model)
    console.print(roofline.subjects_table("all", {"default": summary, "x": summary}, {"x": 7.0}))
    text = console.file.getvalue()
    assert "3.00 │ 48.5 %" in text and "2 smaller ones" in text and "1 waits" in text
    assert (
        "sum, modelled" in text and f"{1e3 * roofline.total_seconds(recording, *model):.1f}" in text
    )
    assert "no GPU" in text and "│         7.0 │" in text
    shares = sum(item["seconds"] for item in roofline.merge_small(items).values())
    assert shares == pytest.approx(roofline.total_seconds(recording, *model))


def test_every_gpu_and_attention_is_kept(recording):
    recordings = {roofline.BASELINE: recording, "default": recording}
    modelled = roofline.all_summaries(recordings, 0.6)
    assert set(modelled) == {"h100", "h200", "a100", "4090"}
    assert set(modelled["h100"]) == {"fa2", "fa3", "cudnn"} and set(modelled["a100"]) == {"fa2"}
    same = {kernel: row[roofline.BASELINE] for kernel, row in modelled["h100"].items()}
    assert same["fa2"] == same["fa3"], "the baseline had FlashAttention-3"
    assert modelled["h100"]["fa2"]["default"] != modelled["h100"]["fa3"]["default"]

"""The model of a training step: from a log of the null GPU to milliseconds, tokens/s and MFU."""

import io
import json

import pytest
import roofline
import step_recorder
import torch
from rich.console import Console

GPU = roofline.GPU(roofline.nullgpu.H100, 100e12, 10e12, 1e12, {"fa2": (50, 25), "fa3": (100, 50)})
ATTENTION = '"kind": "attention", "rows": 2, "heads": 4, "context": 2048, "head_size": 128'
LOG = f"""#
# {{"kind": "op", "name": "view", "bytes": 4000000000, "owner": "GPT.forward"}}
#
G 8192 1000 500 1 GemmEx
# {{"kind": "matmul", "name": "mm", "bytes": 1000, "owner": "GPT.forward", "flops": 8000000000,
   "is_head": true, "is_ours": false, "dtype": "bfloat16"}}
#
G 500 500 1000 1 Sgemm
# {{"kind": "matmul", "name": "mm", "bytes": 2000000000, "owner": "Muon", "flops": 1000000000,
   "is_head": false, "is_ours": false, "dtype": "float32"}}
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
S cudaEventSynchronize
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
    items = roofline.model_step(recording, GPU, "fa2", 2)
    seconds = {name: item["seconds"] for name, item in items.items()}
    forward = 4 * 2 * 4 * 128 * (2048 * 2049 // 2)
    backward = 2.5 * 4 * 2 * 4 * 128 * (1024 * 1025 // 2 + 1024 * 1024)
    assert {name: value / 2 for name, value in seconds.items()} == pytest.approx(
        {
            "matrix products, head": 8e9 / (roofline.MATMUL_SHARE * 100e12),
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
    summary = roofline.summarize(recording, GPU, "fa2", 2)
    seconds = roofline.total_seconds(recording, GPU, "fa2", 2)
    assert summary["modelled_tokens_per_second"] == pytest.approx(4096 / seconds)
    flops = roofline.published_flops(recording)
    assert summary["modelled_mfu_percent"] == pytest.approx(100 * flops / seconds / 100e12)
    assert (
        summary["launches"] == 7
        and summary["waits"] == 1
        and summary["graph_breaks"] == 2
        and summary["peak_gib"] == 1
    )


def test_a_product_of_our_own_has_another_rate(recording):
    work = recording.works[1]
    assert roofline.matmul_rate(work, GPU) == 100e12 * roofline.MATMUL_SHARE
    ours = roofline.matmul_rate(work | {"is_ours": True}, GPU)
    assert ours == 100e12 * roofline.MATMUL_SHARE * roofline.OUR_PRODUCTS
    assert roofline.matmul_rate(work | {"dtype": "float32"}, GPU) == 10e12 * roofline.MATMUL_SHARE


def test_the_factor_is_fitted_on_the_published_step(recording):
    factor = roofline.fit_factor(recording)
    seconds = roofline.total_seconds(recording, roofline.GPUS["h100"], "fa3", factor)
    assert seconds == pytest.approx(roofline.PUBLISHED_SECONDS)


def test_the_tables_say_modelled_and_add_up(recording):
    console = Console(file=io.StringIO(), width=120)
    model = GPU, "fa2", 2
    items = roofline.model_step(recording, *model)
    console.print(roofline.items_table("a step, MODELLED", items))
    console.print(roofline.works_table("operations, MODELLED", recording, 3, *model))
    summary = roofline.summarize(recording, *model)
    console.print(roofline.subjects_table("all", {"default": summary, "x": summary}, {"x": 7.0}))
    text = console.file.getvalue()
    assert "6.00 │ 48.9 %" in text and "2 smaller ones" in text and "1 waits" in text
    assert (
        "sum, modelled" in text and f"{1e3 * roofline.total_seconds(recording, *model):.1f}" in text
    )
    assert "no GPU" in text and "│         7.0 │" in text
    shares = sum(item["seconds"] for item in roofline.merge_small(items).values())
    assert shares == pytest.approx(roofline.total_seconds(recording, *model))


def test_every_attention_is_kept(recording):
    recordings = {roofline.BASELINE: recording, "default": recording}
    modelled = roofline.all_summaries(recordings, roofline.GPUS["h100"], 1)
    assert set(modelled) == {"fa2", "fa3", "cudnn"}
    same = {kernel: row[roofline.BASELINE] for kernel, row in modelled.items()}
    assert same["fa2"] == same["fa3"], "the baseline had FlashAttention-3"
    assert modelled["fa2"]["default"] != modelled["fa3"]["default"]
    assert set(roofline.all_summaries(recordings, roofline.GPUS["a100"], 1)) == {"fa2"}


def noted(monkeypatch, operation):
    """The works that the recorder notes of an operation on a CPU, as if that were a GPU."""
    monkeypatch.setattr(
        step_recorder,
        "cuda_tensors",
        lambda tree: [t for t in step_recorder.tree_leaves(tree) if torch.is_tensor(t)],
    )
    marks = []
    recorder = step_recorder.StepRecorder(marks.append)
    recorder.active = True
    with recorder:
        operation()
    return [json.loads(mark) for mark in marks if mark]


def test_an_operation_reads_its_inputs_and_writes_its_outputs(monkeypatch):
    a, b, rows = torch.zeros(100, 50), torch.zeros(100, 50), torch.arange(10)
    source, MB = torch.zeros(10, 50), 4 * 50
    expected = {
        "add": (lambda: a + b, 300 * MB),
        "add_": (lambda: a.add_(b), 300 * MB),
        "copy_": (lambda: a.copy_(b), 200 * MB),
        "sum": (lambda: a.sum(), 100 * MB + 4),
        "mul": (lambda: b * torch.ones(1, 1).expand(100, 50), 200 * MB + 4),
        "embedding": (lambda: torch.nn.functional.embedding(rows, a), 20 * MB + 80),
        "index": (lambda: a[rows], 20 * MB + 80),
        "index_add_": (lambda: a.index_add_(0, rows, source), 30 * MB + 80),
    }
    for name, (operation, size) in expected.items():
        work = next(work for work in noted(monkeypatch, operation) if work["name"] == name)
        assert (work["kind"], work["bytes"]) == ("op", size), name


def test_a_product_is_noted_with_its_flops(monkeypatch):
    a, b = torch.zeros(20, 30), torch.zeros(30, step_recorder.VOCAB_SIZE)
    out = torch.zeros(20, step_recorder.VOCAB_SIZE)
    for work in noted(monkeypatch, lambda: (a @ b, torch.mm(a, b, out=out))):
        assert work["kind"] == "matmul" and work["flops"] == 2 * 20 * 30 * b.size(1)
        assert work["is_head"] and not work["is_ours"] and work["dtype"] == "float32"
        assert work["bytes"] == 4 * (a.numel() + b.numel() + out.numel())
    *_, product = noted(monkeypatch, lambda: torch.bmm(a[None], b[None, :, :7]))
    assert product["flops"] == 2 * 20 * 30 * 7 and not product["is_head"]


def test_an_attention_is_noted_with_its_sizes(monkeypatch):
    q = torch.zeros(2, 4, 64, 16)
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    (work,) = noted(monkeypatch, lambda: attention(q, q, q, is_causal=True))
    sizes = {"rows": 2, "heads": 4, "context": 64, "head_size": 16, "window": 64}
    assert work.items() >= (sizes | {"kind": "attention", "backward": False}).items()
    packed = {"query": torch.zeros(128, 4, 16), "max_q": 64, "window_size": [15, 0]}
    assert step_recorder.attention_sizes("_varlen_attn_backward", packed) == sizes | {
        "window": 16,
        "backward": True,
    }
    masked = step_recorder.attention_sizes("x", {"query": q, "attn_bias": q})
    assert masked["window"] is None


def test_an_operation_is_its_optimizers(monkeypatch):
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight])
    weight.grad = torch.ones(3)
    recorder = step_recorder.StepRecorder(lambda text: None)
    recorder.name_optimizer(optimizer)
    owners = []
    monkeypatch.setattr(
        recorder, "note", lambda call, _: (owners.append(recorder.owner()), call())[1]
    )
    with recorder:
        optimizer.step()
        weight + 1
    assert set(owners[:-1]) == {"SGD"} and owners[-1] != "SGD"


@pytest.mark.slow
def test_a_step_of_train_py_on_the_null_gpu(monkeypatch, tmp_path):
    """Compiled by the real compilers for an H100; a tiny model, whose products can be counted."""
    if reason := roofline.nullgpu.reason_not_to_build():
        pytest.skip(reason)
    monkeypatch.setattr(roofline, "WORK_FOLDER", tmp_path)
    sizes = dict(depth=2, heads=1, head_size=64, batch_size=3, table_bits=10, windows=[2])
    variant = roofline.Variant("tiny", "train.py", roofline.presets(**sizes))
    recording = roofline.record(variant, roofline.nullgpu.H100)
    assert recording.facts["tokens"] == 3 * 2048 and recording.facts["graph_breaks"] == {}
    assert recording.facts["optimizers"] == ["Muon", "RowAdam", "AdamW"]
    weights = 2 * (12 * 64 * 64 + 32) + 64 * (8192 + 4)  # blocks with a gate, head, copying
    attention = 12 * 64 * (1024 + 2048)
    flops = roofline.published_flops(recording) / recording.facts["tokens"]
    assert flops == pytest.approx(6 * weights + attention, rel=1e-3)  # some become sums
    items = roofline.model_step(recording, roofline.GPUS["h100"], "fa2", 1)
    assert {"attention", "matrix products, trunk", "matrix products, head"} <= {*items}
    assert {"backward, compiled", "Muon, compiled", "AdamW, eager"} <= {*items}
    assert roofline.summarize(recording, roofline.GPUS["h100"], "fa2", 1)["waits"] == 0
    assert roofline.record(variant, roofline.nullgpu.H100).works == recording.works  # it is kept

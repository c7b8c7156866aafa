"""The ring model against a ring, forecasts by hand, tables from three places."""

import math

import pytest

from ratchet.arena.files import Refused
from ratchet.model import links as all_reduce_links
from ratchet.model import scaling
from ratchet.model.links import Links

MODEL = {"step": 0.3, "rows": 8, "gradients": 10**8, "layers": 6, "width": 512, "device": "a test"}
NCCL = """# nThread 1 nGpus 2 minBytes 256 maxBytes 1048576 step: 4(factor) warmup iters: 5 iters: 20
#  Rank  0 Group  0 Pid   9999 on     node01 device  0 [0x19] NVIDIA H200
#  Rank  1 Group  0 Pid   9999 on     node01 device  1 [0x3b] NVIDIA H200
#
#       size   count    type   redop  root    time  algbw  busbw #wrong    time  algbw  busbw #wrong
#        (B)  (elements)                      (us) (GB/s) (GB/s)           (us) (GB/s) (GB/s)
         256      64   float     sum    -1    6.31   0.04   0.04      0    6.20   0.04   0.04      0
        1024     256   float     sum    -1    6.40   0.16   0.16      0    6.33   0.16   0.16      0
     1048576  262144   float     sum    -1   15.00  69.91  69.91      0   14.90  70.37  70.37      0
# Out of bounds values : 0 OK
"""


def ring_by_hand(n, size, alpha, beta):
    """Each device passes on a piece of size / n, n - 1 times to add up and n - 1 times to hand
    round.
    """
    seconds = alpha
    for _ in range(n - 1):
        seconds += size / n / beta  # reduce-scatter
    for _ in range(n - 1):
        seconds += size / n / beta  # all-gather
    return seconds


@pytest.mark.parametrize("n", [2, 3, 8, 100])
def test_the_ring_model_is_a_ring(n):
    assert all_reduce_links.ring_seconds(n, 1e9, 1e-5, 3e11) == pytest.approx(
        ring_by_hand(n, 1e9, 1e-5, 3e11)
    )


@pytest.mark.parametrize("n", [2, 8])
def test_a_fit_finds_what_a_ring_was_made_of(n):
    times = {2**power: ring_by_hand(n, 2**power, 2e-5, 1e10) for power in range(8, 29, 2)}
    alpha, beta = all_reduce_links.fit_ring(n, times)
    assert alpha == pytest.approx(2e-5, rel=0.05) and beta == pytest.approx(1e10, rel=0.01)


def test_measured_sizes_are_believed_and_what_lies_between_is_interpolated():
    links = Links({2: {256: 1e-5, 4096: 4e-5, 65536: 1e-3}}, "measured", "here")
    assert links.all_reduce_seconds(1, 1e9) == (0.0, "measured")
    assert links.all_reduce_seconds(2, 4096) == (pytest.approx(4e-5), "measured")
    assert links.all_reduce_seconds(2, 1024)[0] == pytest.approx(
        2e-5
    )  # half way between the logarithms
    far = Links({2: {256: 1e-5, 2**20: 1e-3}}, "measured", "here")
    assert (
        far.all_reduce_seconds(2, 2**20) == (pytest.approx(1e-3), "measured")
        and far.all_reduce_seconds(2, 4096)[1] == "modelled"
    )
    assert (
        links.all_reduce_seconds(2, 2**20)[1] == "modelled"
        and links.all_reduce_seconds(4, 4096)[1] == "modelled"
    )


def test_more_devices_than_were_measured_have_longer_trees_and_perhaps_a_slower_network():
    times = {size: ring_by_hand(8, size, 1e-5, 4e11) for size in (256, 8192, 2**28)}
    near, far = (
        Links({8: times}, "measured", "here"),
        Links({8: times}, "measured", "here", 8, 5e10),
    )
    alpha, beta, tag = near.ring_model(64)
    assert (
        alpha == pytest.approx(2e-5, rel=0.1)
        and beta == pytest.approx(4e11, rel=0.01)
        and tag == "modelled"
    )
    assert far.ring_model(64)[1] == 5e10 and far.ring_model(8)[1:] == (
        pytest.approx(4e11, rel=0.01),
        "measured",
    )


def test_training_and_decoding_are_forecast_by_hand():
    links = Links(
        {2: {size: ring_by_hand(2, size, 1e-4, 1e9) for size in (256, 2**28)}}, "measured", "here"
    )
    found = scaling.forecast_scaling(MODEL, links, token_seconds=0.01, most=16)
    one, two, four, _, sixteen = found[
        "training"
    ]  # 256 B and 256 MB are too far apart to interpolate
    assert (one["strong"], one["weak"], one["all_reduce"]) == (1.0, 1.0, 0.0)
    seconds = links.all_reduce_seconds(2, 10**8)[0]
    assert two["strong"] == pytest.approx(0.3 / (2 * (0.15 + seconds)))
    assert two["weak"] == pytest.approx(0.3 / (0.3 + seconds)) and one["tag"] == "measured"
    assert sixteen["strong"] is None and four["tag"] == "modelled"  # 8 rows can't be split in 16
    small = links.all_reduce_seconds(2, 1024)[0]
    assert found["decoding"][1]["bound"] == pytest.approx(1 / (6 * 2 * small + 0.01 / 2))
    assert scaling.forecast_scaling(MODEL, links)["decoding"] == []


def test_the_external_table_gives_the_figures_that_it_was_made_of():
    links = all_reduce_links.external_links()
    assert links.tag == "external" and links.all_reduce_seconds(8, 8192) == (
        pytest.approx(16e-6),
        "external",
    )
    large = links.all_reduce_seconds(8, 2**29)[0]
    assert 2 * 7 / 8 * 2**29 / large == pytest.approx(460e9)
    assert links.ring_model(16)[1] == all_reduce_links.NETWORK


def test_what_nccl_tests_print_is_read(tmp_path):
    (tmp_path / "out.txt").write_text(NCCL, encoding="utf-8")
    links = all_reduce_links.choose_links(str(tmp_path / "out.txt"), "cpu")
    assert links.times == {2: pytest.approx({256: 6.31e-6, 1024: 6.4e-6, 2**20: 15e-6})}
    assert links.tag == "measured"


@pytest.mark.parametrize("text", ["", "hello", NCCL.replace("Rank  1", "")])
def test_a_file_that_is_no_table_is_one_sentence(tmp_path, text):
    (tmp_path / "out.txt").write_text(text, encoding="utf-8")
    with pytest.raises(Refused, match="isn't what all_reduce_perf"):
        all_reduce_links.read_nccl_tests(tmp_path / "out.txt")
    with pytest.raises(Refused, match="can't be read"):
        all_reduce_links.read_nccl_tests(tmp_path / "none.txt")


def test_a_run_is_described(arena, tmp_path):
    from test_speak import write_run

    found = scaling.describe_training(write_run(tmp_path / "run", arena))
    sizes = {"rows": 8, "gradients": 8_000_000, "layers": 3, "width": 128}
    assert found == sizes | {"step": 2.0, "device": "a test"}


@pytest.mark.slow
def test_all_reduce_is_measured_between_processes():
    times = all_reduce_links.measure_all_reduce(2, "cpu")
    assert min(times) == 256 and max(times) == 2**28 and all(0 < t < 60 for t in times.values())
    assert times[2**28] > 10 * times[256] and math.isfinite(all_reduce_links.fit_ring(2, times)[1])

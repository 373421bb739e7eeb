"""training/benchmark_cost.py: operations against those counted by hand, medians and ratios of times."""

import sys
from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[1] / "training"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import benchmark_cost

    yield benchmark_cost
    sys.modules.pop("benchmark_cost", None)


def attention_macs(windows, heads, side, head_dim):
    """Query times key, weights times values, and the query's two terms of relative position."""
    tokens = side**2
    return windows * heads * (2 * tokens**2 + 2 * tokens * side) * head_dim


def test_the_encoder_of_sam_has_the_operations_of_its_formulas(script):
    tokens, padded, width = 64**2, 70**2, 768  # windows of 14 pad the grid of 64 to 70
    projections, mlp = 4 * width**2, 8 * width**2  # of a token
    windowed = padded * projections + attention_macs(25, 12, 14, 64) + tokens * mlp
    whole = tokens * projections + attention_macs(1, 12, 64, 64) + tokens * mlp
    patches, neck = tokens * 3 * 16**2 * width, tokens * (width * 256 + 9 * 256**2)
    columns = script.counted("SAM")
    assert columns["gflops_encoder"] == pytest.approx(2 * (patches + 8 * windowed + 4 * whole + neck) / 1e9, rel=1e-12)
    assert columns["gflops_as_run"] == pytest.approx(columns["gflops"], rel=1e-12)
    assert columns["gmacs"] == columns["gflops"] / 2
    assert columns["parameters"] == 93_735_472 + 2 * 128  # of the released checkpoint, and the matrix of its positions


def test_fused_attention_runs_with_the_relative_positions_as_channels(script):
    columns = script.counted("ccsam-tiny")
    windowed, whole = 16 * 64**2 * (2 * 8), 1024**2 * (2 * 32)  # windows, tokens, rows and columns; one head
    further = 2 * 2 * (2 * windowed + whole) / 1e9  # two products, two windowed layers and one over the whole grid
    assert columns["gflops_as_run"] - columns["gflops"] == pytest.approx(further, rel=1e-9)
    assert columns["gflops"] == columns["gflops_encoder"] + columns["gflops_decoder"]


def test_times_are_medians_and_their_ratios_are_taken_within_a_round(script):
    seconds = {"encode": [1.0, 2.0, 9.0], "decode": [0.5, 0.5, 1.0]}
    of = {"encode": [4.0, 4.0, 36.0], "decode": [1.0, 1.0, 2.0]}
    columns = script.timed(seconds, of)
    assert (columns["encode_seconds"], columns["decode_seconds"], columns["image_seconds"]) == (2.0, 0.5, 2.5)
    assert columns["images_per_second"] == 1 / 2.5
    assert columns["of_sam"]["encode_seconds"] == 0.25  # of 0.25, 0.5, 0.25
    assert columns["of_sam"]["images_per_second"] == pytest.approx(10 / 3)  # of 5 / 1.5, 5 / 2.5, 38 / 10

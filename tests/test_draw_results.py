"""training/draw_results.py: the picture of the README shows each case with its truth and both masks."""

from pathlib import Path

import pytest

from ccsam_hf import TINY, CCSamPipeline
from ccsam_hf.data.simulator import simulate

TRAINING = Path(__file__).resolve().parents[1] / "training"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import draw_results

    return draw_results


def test_a_row_tells_the_dice_of_both_masks(script):
    case = simulate("breast lesion", 2_000_000_002)
    panel = script.segment(CCSamPipeline.from_pretrained(TINY), "simulated: breast lesion", case.image, case.mask)
    pictures = script.draw(panel)
    assert [title.split(":")[0] for title in pictures] == ["simulated", "true mask", "by box", "by click"]
    assert all(picture.size == case.image.shape[::-1] for picture in pictures.values())
    (by_box,) = (title for title in pictures if title.startswith("by box"))
    assert 60 < int(by_box.split("Dice ")[1].removesuffix(" %")) <= 100

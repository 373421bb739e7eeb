"""training/evaluate_corrections.py with a model whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import read_cases
from ccsam_hf.evaluation.segmenters import LOADERS, Prediction

TRAINING = Path(__file__).resolve().parents[1] / "training"


class SegmenterThatLearnsFromClicks:
    """Two columns too many on the right until a click says that they are none; keeps its last prompt."""

    reads = ("point",)
    about = {}

    def encode(self, image: np.ndarray) -> np.ndarray:
        return image > 0

    def segment(self, encoded: np.ndarray, prompt, target: str) -> Prediction:
        self.prompt, mask = prompt, encoded.copy()
        mask[10:20, 30:32] = len(prompt.points) == 1
        return Prediction(mask, mask.astype(np.float32))


@pytest.fixture
def data(tmp_path):
    mask = np.zeros((256, 256), dtype=np.uint8)
    mask[10:20, 10:30] = 255
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(mask).save(tmp_path / folder / "a.png")
    return tmp_path


def test_a_correction_is_a_click_inside_what_was_wrong(data, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TRAINING))
    import evaluate_corrections as script

    model = SegmenterThatLearnsFromClicks()
    (case,) = read_cases(data, "folder")
    assert script.dice_by_clicks(model, case, 3) == [pytest.approx(100 * 400 / 420), 100, 100, 100]
    (_, (column, row)), labels = model.prompt.points.tolist(), model.prompt.labels.tolist()
    assert column in (30, 31) and 10 <= row < 20 and labels == [1, 0]
    monkeypatch.setitem(LOADERS, "clicks", lambda checkpoint, num_samples: model)
    script.main(["--model", "clicks:", "--data", str(data), "--corrections", "1"])
    assert capsys.readouterr().out == "1 cases, Dice by number of clicks: [95.2, 100.0]\n"

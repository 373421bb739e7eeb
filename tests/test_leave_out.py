"""training/leave_out.py: a run without one of its sets, measured on that set."""

import json
import sys
from pathlib import Path

import pytest

from ccsam_hf.training.run_config import RunConfig, read_config

TRAINING = Path(__file__).resolve().parents[1] / "training"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import leave_out

    return leave_out


def test_the_run_lacks_the_set_alone(script, monkeypatch, tmp_path):
    runs = []
    monkeypatch.setattr(script, "train", runs.append)
    run = read_config(RunConfig, ["--config", str(script.CONFIG)])
    assert script.train_without("CCA", run, tmp_path, 7) == tmp_path / "last"
    assert set(run.sources) - set(runs[0].sources) == {"CCA"}
    assert (runs[0].max_steps, runs[0].seed, runs[0].output_dir) == (7, run.seed, str(tmp_path))
    with pytest.raises(ValueError, match="'DDTI' is no source of small.yaml"):
        script.train_without("DDTI", run, tmp_path, 7)


def test_each_set_is_measured_beside_its_blind_baseline(script, monkeypatch, tmp_path, capsys):
    entry = {"dice": {"mean": 91.2, "ci95": [90.0, 92.0]}, "n": 5}
    summary = {"carotid artery": entry, "all": entry}
    summary |= {"baseline": {name: {"dice": {"mean": 95.0}} for name in ("ellipse", "disc")}}
    monkeypatch.setattr(script, "train", lambda run: None)
    monkeypatch.setattr(script, "measure", lambda checkpoint, name, run: dict.fromkeys(script.PROMPTS, summary))
    arguments = ["leave_out.py", "--root", str(tmp_path), "--output", str(tmp_path), "--set", "CCA"]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    printed = capsys.readouterr().out
    assert "without CCA: carotid artery, box: Dice 91.2 [90.0, 92.0], n=5, ellipse 95.0" in printed
    assert set(json.loads((tmp_path / "left_out.json").read_text())) == {"CCA"}

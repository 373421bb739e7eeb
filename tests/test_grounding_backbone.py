"""training/grounding_backbone.py: a backbone learns to segment, of one source and of several."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from ccsam_hf.training.grounding_backbone import build_lessons, build_mask_head, teach_backbone
from ccsam_hf.training.grounding_model import build_grounder
from ccsam_hf.training.grounding_run import GrounderRun
from ccsam_hf.training.grounding_scenes import build_scenes
from small_grounder import SMALL_DETECTOR, SMALL_TEXT

ARCHITECTURE = {**SMALL_DETECTOR, "text_config": SMALL_TEXT}


@pytest.fixture
def settings(tmp_path) -> dict:
    """Fields of a run whose backbone learns."""
    fields = {"architecture": ARCHITECTURE, "image_size": 64, "output_dir": str(tmp_path), "batch_size": 2}
    return fields | {"warmup_steps": 0, "max_grad_norm": 0.1, "backbone_scenes": 6}


def test_a_backbone_from_scratch_first_learns_to_segment(settings):
    run = GrounderRun(**settings, backbone_epochs=8)
    grounder = build_grounder(run)
    before = {name: tensor.clone() for name, tensor in grounder.model.state_dict().items()}
    scenes, _, targets = build_scenes(run)
    teach_backbone(grounder, build_mask_head(grounder, targets), scenes, targets, run, Accelerator(cpu=True))
    moved = [name for name, tensor in grounder.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved and all(name.startswith("model.backbone.") for name in moved)
    entries = [json.loads(line) for line in (Path(run.output_dir) / "log.jsonl").read_text().splitlines()]
    assert [entry["backbone_epoch"] for entry in entries] == list(range(1, 9))
    assert entries[-1]["backbone_loss"] < 0.9 * entries[0]["backbone_loss"]


def test_of_several_sources_every_epoch_draws_other_scenes(settings):
    run = GrounderRun(
        **settings, data="mixture", sources={"simulator": {"weight": 1, "cases": 3}}, stored_size=64, eval_scenes=1
    )
    grounder = build_grounder(run)
    scenes, _, targets = build_scenes(run)
    lessons = build_lessons(grounder, scenes, targets, run, Accelerator(cpu=True))
    first, again, second = ([each for each, _ in lessons(epoch)] for epoch in (0, 0, 1))
    assert len(first) == 3 and first[0].shape == (2, 1, 64, 64)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    masks = next(iter(lessons(0)))[1]
    assert masks.shape == (2, len(targets), 8, 8) and masks.any()

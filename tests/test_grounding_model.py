"""training/grounding_model.py: the grounder of a run, and which of its parts learn."""

import re
from pathlib import Path

import pytest
import torch

from ccsam_hf import TextGrounder
from ccsam_hf.descriptions import PAPER_TEMPLATE, TARGETS
from ccsam_hf.training.grounding_model import QuestionsLoss, build_grounder, choose_what_learns, registry_tokenizer
from ccsam_hf.training.grounding_questions import Questions
from ccsam_hf.training.grounding_run import PARTS, GrounderRun
from ccsam_hf.training.grounding_scenes import SimulatedScenes
from ccsam_hf.training.run_config import read_config
from small_grounder import SMALL_DETECTOR, SMALL_TEXT

ARCHITECTURE = {**SMALL_DETECTOR, "text_config": SMALL_TEXT}
TINY = Path(__file__).resolve().parents[1] / "training" / "configs" / "tiny_grounder.yaml"
STAGES = ("", "_0", "_enc")  # of two decoder layers and the proposals


@pytest.fixture
def start(tmp_path):
    """Folder of an untrained grounder."""
    torch.manual_seed(7)
    grounder = build_grounder(GrounderRun(architecture=ARCHITECTURE, image_size=64))
    grounder.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def test_the_loss_is_the_weighted_sum_of_its_terms():
    run = GrounderRun(architecture=ARCHITECTURE, image_size=64)
    grounder = build_grounder(run)
    scenes = [SimulatedScenes(2, 0, run.scene_weights)[index] for index in range(2)]
    inputs, labels = Questions(grounder, 0.0)(scenes)
    loss, terms = QuestionsLoss(grounder.model)(inputs, labels)
    weights = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    expected = sum(weights[name] * terms[name + stage] for name in weights for stage in STAGES)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_parameter_belongs_to_one_part():
    model = build_grounder(GrounderRun(architecture=ARCHITECTURE, image_size=64)).model
    for name, _ in model.named_parameters():
        assert sum(bool(re.match(pattern, name)) for pattern in PARTS.values()) == 1, name


@pytest.mark.parametrize("part", ["backbone", "text_encoder", "projections", "detector"])
def test_lora_adapts_the_linear_layers_of_the_chosen_part(part):
    model = build_grounder(GrounderRun(architecture=ARCHITECTURE, image_size=64)).model
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = {name for name in linear if re.match(PARTS[part], f"{name}.weight") and "bbox_embed" not in name}
    adapted = choose_what_learns(model, GrounderRun(method="lora", parts=[part]))
    learning = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert chosen and learning == {
        f"base_model.model.{name}.lora_{side}.default.weight" for name in chosen for side in "AB"
    }


def test_lora_starts_from_the_answers_of_the_grounder_it_adapts(start):
    grounder = TextGrounder.from_pretrained(start)
    image = torch.rand(80, 100)
    (before,) = grounder(image, "thyroid nodule")
    adapted = QuestionsLoss(choose_what_learns(grounder.model, GrounderRun(method="lora")))
    (after,) = TextGrounder(adapted.plain(), grounder.processor, grounder.settings)(image, "thyroid nodule")
    assert torch.equal(before.best_box, after.best_box) and before.best_score == after.best_score


def test_a_grounder_or_an_architecture_is_needed_and_not_both(tmp_path):
    for fields in ({}, {"grounder": str(tmp_path), "architecture": ARCHITECTURE}):
        with pytest.raises(ValueError, match="give either grounder, .* or architecture"):
            build_grounder(GrounderRun(**fields))
    with pytest.raises(ValueError, match="text_encoder='bert' came with architecture"):
        build_grounder(GrounderRun(text_encoder="bert", architecture=ARCHITECTURE))


@pytest.mark.parametrize("wrong", [{"parts": ["neck"]}, {"parts": []}, {"method": "prefix"}])
def test_unknown_parts_and_methods_are_refused(wrong):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=re.escape("expected ['backbone', 'text_encoder', 'projections', 'detector']")
    ):
        choose_what_learns(model, GrounderRun(**wrong))


def test_the_tokenizer_knows_every_name_of_the_registry():
    tokenizer = registry_tokenizer()
    for target in TARGETS.values():
        for name in (target.name, *target.synonyms):
            tokens = tokenizer.tokenize(name)
            assert "[UNK]" not in tokens
            assert [token for token in tokens if token.isalpha()] == re.findall("[a-z]+", name)  # whole words
    assert "[UNK]" not in tokenizer.tokenize(PAPER_TEMPLATE)
    assert tokenizer.tokenize("Cyst 12") == ["c", "##y", "##s", "##t", "1", "##2"]  # other words go by letters


@pytest.mark.parametrize("config", [None, TINY])
def test_a_new_model_finds_nothing_at_first(config):
    run = GrounderRun(architecture=ARCHITECTURE, image_size=64)
    if config:
        run = read_config(GrounderRun, ["--config", str(config)])
    grounder = build_grounder(run)
    scene, _ = SimulatedScenes(1, 0, run.scene_weights)[0]
    inputs, _ = Questions(grounder, 0.0)([(scene, 3)])
    with torch.inference_mode():
        logits = grounder.model(**inputs).logits
    length = int(inputs["attention_mask"].sum())
    assert logits[..., :length].sigmoid().mean() < 0.05
    assert len(grounder(scene.image, "thyroid nodule")[0].boxes) == 0

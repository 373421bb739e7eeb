"""training/train_grounder.py: scenes, questions, what learns, two steps of a run and what stops it."""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image

from ccsam_hf import TextGrounder
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import TARGETS as SIMULATED_TARGETS
from ccsam_hf.data.simulator import simulate, write_folder
from ccsam_hf.data.splits import divide
from ccsam_hf.descriptions import TARGETS
from ccsam_hf.evaluation.grounding import Scene
from ccsam_hf.geometry import boxes_from_unit
from small_grounder import SMALL_DETECTOR, SMALL_TEXT, WORDS, save_bert

TRAINING = Path(__file__).resolve().parents[1] / "training"
TINY = TRAINING / "configs" / "tiny_grounder.yaml"
ARCHITECTURE = {**SMALL_DETECTOR, "text_config": SMALL_TEXT}
STAGES = ("", "_0", "_enc")  # of two decoder layers and the proposals
TERMS = {f"{name}{stage}" for name in ("loss_ce", "loss_bbox", "loss_giou") for stage in STAGES}

UNUSED = r"swin\.layernorm\."  # the norm of a pooled output, which no detector reads


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import train_grounder

    yield train_grounder
    sys.modules.pop("train_grounder", None)


@pytest.fixture
def settings(tmp_path):
    """Fields of a short run from scratch."""
    return {
        "architecture": ARCHITECTURE,
        "image_size": 64,
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "batch_size": 2,
        "warmup_steps": 0,
        "learning_rate": 0.001,
        "ema_decay": 0.0,  # the average is the last step
        "eval_scenes": 1,
        "log_every": 1,
    }


@pytest.fixture
def train(script, tmp_path):
    """Writes the fields into a YAML file, runs the script with it and returns the folder of the run."""

    def run(**fields) -> Path:
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(fields))
        script.main(["--config", str(config)])
        return Path(fields["output_dir"])

    return run


@pytest.fixture
def start(script, tmp_path):
    """Folder of an untrained grounder."""
    torch.manual_seed(7)
    grounder = script.build_grounder(script.GrounderRun(architecture=ARCHITECTURE, image_size=64))
    grounder.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def fine_tuning(settings, start):
    """Fields of a short run that fine-tunes the untrained grounder."""
    del settings["architecture"], settings["image_size"]
    return settings | {"grounder": str(start), "max_steps": 1}


@pytest.fixture
def validated(script, monkeypatch):
    """The grounders that were validated, in their order."""
    grounders, validate = [], script.validate

    def keep(grounder, *others):
        grounders.append(grounder)
        return validate(grounder, *others)

    monkeypatch.setattr(script, "validate", keep)
    return grounders


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return TextGrounder.from_pretrained(folder).model.state_dict()


def tensors_of(model) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those outside the state too; each once."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    assert set(first) == set(second)
    return {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}


def flat_scene(present: tuple[str, ...], absent: tuple[str, ...]) -> Scene:
    boxes = {target: np.array([10, 20, 30 + index, 60], dtype=np.float32) for index, target in enumerate(present)}
    return Scene("flat", np.full((80, 100), 90, dtype=np.uint8), boxes, absent)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_two_steps_leave_a_log_and_checkpoints_that_answer(train, settings):
    run = train(**settings, eval_every=1, matches_per_object=2)
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    assert all(set(entry) == {"step", "seconds", "loss"} | TERMS for entry in steps)
    validations = [entry for entry in entries if "loss" not in entry]
    assert [entry["step"] for entry in validations] == [1, 2]
    for name in ("best", "last"):
        record = json.loads((run / name / "training.json").read_text())
        assert record["run"]["max_steps"] == 2 and record["run"]["architecture"]["d_model"] == 32
        assert set(record["versions"]) == {"torch", "transformers", "peft"}
        assert {"step": record["step"], **record["validation"]} in validations
        assert 0 <= record["validation"]["all"]["mean_iou"] <= 1
        grounder = TextGrounder.from_pretrained(run / name)
        (result,) = grounder(torch.rand(80, 100), "thyroid nodule")
        assert result.best_box.shape == (4,) and 0 <= result.best_score <= 1
        assert result.tuned_on == "ccsam_hf.data.simulator, full: backbone, text_encoder, projections, detector"
    assert record["step"] == 2
    assert not list(run.glob(".*"))


def test_the_loss_is_the_weighted_sum_of_its_terms(script, settings):
    run = script.GrounderRun(architecture=ARCHITECTURE, image_size=64)
    grounder = script.build_grounder(run)
    scenes = [script.SimulatedScenes(2, 0, run.scene_weights)[index] for index in range(2)]
    inputs, labels = script.Questions(grounder, 0.0)(scenes)
    loss, terms = script.WithLoss(grounder.model)(inputs, labels)
    weights = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    expected = sum(weights[name] * terms[name + stage] for name in weights for stage in STAGES)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_backbone_from_scratch_first_learns_to_segment(script, settings, tmp_path):
    run = script.GrounderRun(**settings | {"backbone_scenes": 6, "backbone_epochs": 8, "warmup_steps": 0})
    grounder = script.build_grounder(run)
    before = {name: tensor.clone() for name, tensor in grounder.model.state_dict().items()}
    tmp_path.joinpath("run").mkdir(exist_ok=True)
    script.teach_backbone(grounder, run, script.Accelerator(cpu=True))
    moved = differing(before, grounder.model.state_dict())
    assert moved and all(name.startswith("model.backbone.") for name in moved)
    entries = [json.loads(line) for line in (Path(run.output_dir) / "log.jsonl").read_text().splitlines()]
    assert [entry["backbone_epoch"] for entry in entries] == list(range(1, 9))
    assert entries[-1]["backbone_loss"] < 0.9 * entries[0]["backbone_loss"]


def test_a_run_is_reproducible_by_its_seed(train, settings, tmp_path):
    states = []
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        run = train(**settings | {"output_dir": str(tmp_path / name), "seed": seed})
        states.append(weights_of(run / "last"))
    assert differing(states[0], states[1]) == set()
    assert differing(states[0], states[2])


def test_the_best_checkpoint_is_that_of_the_largest_mean_iou(script, train, settings, monkeypatch):
    scores = iter([{"all": {"mean_iou": 0.4}}, {"all": {"mean_iou": 0.3}}])
    monkeypatch.setattr(script, "validate", lambda *_: next(scores))
    run = train(**settings, eval_every=1)
    steps = {name: json.loads((run / name / "training.json").read_text())["step"] for name in ("best", "last")}
    assert steps == {"best": 1, "last": 2}


def test_the_averaged_model_keeps_its_indices(train, settings, validated):
    train(**settings | {"ema_decay": 0.9})
    buffers = dict(validated[-1].model.named_buffers())
    indices = {name for name, buffer in buffers.items() if not buffer.is_floating_point()}
    assert any("relative_position_index" in name for name in indices) and any("position_ids" in n for n in indices)
    fresh = dict(TextGrounder.from_pretrained(settings["output_dir"] + "/last").model.named_buffers())
    assert differing(buffers, fresh) == set()


@pytest.mark.parametrize("part", ["backbone", "text_encoder", "projections", "detector"])
def test_exactly_the_chosen_part_learns(script, train, fine_tuning, start, validated, part):
    train(
        **fine_tuning | {"max_steps": 2}, parts=[part]
    )  # at the first step heads that start at zero pass no gradient
    before = tensors_of(TextGrounder.from_pretrained(start).model)
    moved = differing(before, tensors_of(validated[-1].model))
    names = {name for name, _ in validated[-1].model.named_parameters()}
    assert moved == {name for name in names if re.match(script.PARTS[part], name) and not re.search(UNUSED, name)}


def test_every_parameter_belongs_to_one_part(script):
    model = script.build_grounder(script.GrounderRun(architecture=ARCHITECTURE, image_size=64)).model
    for name, _ in model.named_parameters():
        assert sum(bool(re.match(pattern, name)) for pattern in script.PARTS.values()) == 1, name


def test_lora_moves_adapters_only_and_saves_the_merged_model(script, train, fine_tuning, start, monkeypatch):
    kept = []

    def keep(model, config):
        kept.append(get_peft_model(model, config))
        return kept[-1]

    get_peft_model = script.get_peft_model
    monkeypatch.setattr(script, "get_peft_model", keep)
    how = {"max_steps": 2, "method": "lora", "lora_rank": 2, "parts": ["text_encoder", "detector"]}
    run = train(**fine_tuning | how)

    before, after, trained = weights_of(start), weights_of(run / "last"), kept[0].state_dict()
    assert isinstance(kept[0], PeftModel)
    adapters = {name: tensor for name, tensor in trained.items() if "lora_" in name}
    plain = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in trained.items()
        if name not in adapters
    }
    assert differing(before, plain) == set()  # nothing but the adapters moved

    expected, adapted = dict(before), set()
    for name, down in adapters.items():
        if name.endswith("lora_A.default.weight"):
            up = adapters[name.replace("lora_A", "lora_B")]
            weight = name.removeprefix("base_model.model.").replace("lora_A.default.weight", "weight")
            expected[weight] = before[weight] + 2 * up @ down  # lora_alpha is twice the rank
            adapted.add(weight)
    assert set(after) == set(before)  # no peft keys
    assert adapted and differing(before, after) <= adapted
    for name in after:
        torch.testing.assert_close(after[name], expected[name], rtol=1e-6, atol=1e-7)
    assert any(name.startswith("model.text_backbone.") for name in adapted)
    assert not any(re.match(r"model\.backbone|model\.text_projection|.*bbox_embed", name) for name in adapted)
    assert not list((run / "last").glob("adapter*"))
    assert TextGrounder.from_pretrained(run / "last").settings.tuned_on.endswith("lora: text_encoder, detector")


@pytest.mark.parametrize("part", ["backbone", "text_encoder", "projections", "detector"])
def test_lora_adapts_the_linear_layers_of_the_chosen_part(script, part):
    model = script.build_grounder(script.GrounderRun(architecture=ARCHITECTURE, image_size=64)).model
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = {name for name in linear if re.match(script.PARTS[part], f"{name}.weight") and "bbox_embed" not in name}
    adapted = script.choose_what_learns(model, script.GrounderRun(method="lora", parts=[part]))
    learning = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert chosen and learning == {
        f"base_model.model.{name}.lora_{side}.default.weight" for name in chosen for side in "AB"
    }


def test_lora_starts_from_the_answers_of_the_grounder_it_adapts(script, start):
    grounder = TextGrounder.from_pretrained(start)
    image = torch.rand(80, 100)
    (before,) = grounder(image, "thyroid nodule")
    adapted = script.WithLoss(script.choose_what_learns(grounder.model, script.GrounderRun(method="lora")))
    (after,) = TextGrounder(adapted.plain(), grounder.processor, grounder.settings)(image, "thyroid nodule")
    assert torch.equal(before.best_box, after.best_box) and before.best_score == after.best_score


def test_a_text_encoder_of_its_own_vocabulary_is_trained_into_a_grounder(train, fine_tuning, tmp_path):
    tokenizer = save_bert(tmp_path / "bert", (*WORDS, "myocardium"), hidden_size=16)  # of another width
    run = train(**fine_tuning, text_encoder=str(tmp_path / "bert"))
    grounder = TextGrounder.from_pretrained(run / "last")
    assert grounder.processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert grounder.model.config.text_config.vocab_size == len(tokenizer)
    assert grounder.settings.text_encoder == "bert"
    assert grounder.settings.tuned_on.startswith("ccsam_hf.data.simulator, full")
    assert set(grounder.model.model.special_tokens.tolist()) == {3, 2, 5, 7}
    (result,) = grounder(torch.rand(80, 100), "left ventricle")
    assert result.best_box.isfinite().all()


def test_a_folder_of_cases_trains_and_validates_on_cases_apart(script, train, settings, tmp_path):
    targets = ("breast lesion", "thyroid gland")
    write_folder(tmp_path / "data", count=10, seed=0, targets=targets, size=(64, 72))
    settings |= {"data": str(tmp_path / "data"), "eval_scenes": 96, "max_steps": 5}
    training, validation = script.build_scenes(script.GrounderRun(**settings))
    names = [
        [scene.name for scene, _ in (part[index] for index in range(len(part)))] for part in (training, validation)
    ]
    lists = divide(read_cases(tmp_path / "data", "folder"), seed=0).lists
    (lists,) = lists.values()
    assert [set(each) for each in names] == [set(lists["train"]), set(lists["validation"])]
    assert [len(lists[split]) for split in ("train", "validation", "test")] == [7, 1, 2]
    scene, _ = training[0]
    assert scene.image.shape == (64, 72) and len(scene.boxes) == 1
    assert set(scene.boxes) | set(scene.absent) == set(targets)
    orders = [[training[index + first][0].name for index in range(7)] for first in (0, 7)]
    assert set(orders[0]) == set(orders[1]) and orders[0] != orders[1]

    run = train(**settings)
    record = json.loads((run / "last" / "training.json").read_text())
    assert record["step"] == 5  # the folder was read more than once
    assert record["validation"]["all"]["n"] == 1
    assert TextGrounder.from_pretrained(run / "last").settings.tuned_on.startswith("data, ")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "empty", "missing"), [(1, False, "validate with"), (10, True, "train on")])
def test_a_folder_that_leaves_no_object_to_a_part_is_refused(script, settings, tmp_path, count, empty, missing):
    write_folder(tmp_path / "data", count=count, seed=0, targets=("breast lesion",), size=(64, 64))
    for path in (tmp_path / "data" / "masks").iterdir() if empty else ():
        Image.new("L", (64, 64)).save(path)
    with pytest.raises(ValueError, match=f"leaves . cases to {missing}, and none has an object"):
        script.build_scenes(script.GrounderRun(**settings | {"data": str(tmp_path / "data")}))


def test_a_folder_counts_only_targets_of_other_organs_as_absent(script):
    targets = ["breast lesion", "left ventricle", "left atrium", "something else"]
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:20, 10:30] = True
    heart = SimpleNamespace(name="heart", target="left ventricle", image=mask.astype(np.uint8), mask=mask)
    empty = SimpleNamespace(name="empty", target="left atrium", image=heart.image, mask=mask & False)
    scenes = script.FolderScenes([heart, empty], targets, 2, 0, shuffled=False)
    assert scenes[0][0].absent == ("breast lesion",) and list(scenes[0][0].boxes) == ["left ventricle"]
    assert scenes[1][0].absent == ("breast lesion", "left atrium") and scenes[1][0].boxes == {}


def test_a_grounder_or_an_architecture_is_needed_and_not_both(script, tmp_path):
    for fields in ({}, {"grounder": str(tmp_path), "architecture": ARCHITECTURE}):
        with pytest.raises(ValueError, match="give either grounder, .* or architecture"):
            script.build_grounder(script.GrounderRun(**fields))
    with pytest.raises(ValueError, match="text_encoder='bert' came with architecture"):
        script.build_grounder(script.GrounderRun(text_encoder="bert", architecture=ARCHITECTURE))


@pytest.mark.parametrize("wrong", [{"parts": ["neck"]}, {"parts": []}, {"method": "prefix"}])
def test_unknown_parts_and_methods_are_refused(script, wrong):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=re.escape("expected ['backbone', 'text_encoder', 'projections', 'detector']")
    ):
        script.choose_what_learns(model, script.GrounderRun(**wrong))


def test_an_unknown_key_is_refused_and_the_command_line_beats_the_file(script, train, settings, tmp_path):
    with pytest.raises(ValueError, match=r"unknown keys \['learning_rat'\]"):
        train(**settings, learning_rat=1.0)
    arguments = ["--config", str(TINY), "--max_steps", "7", "--parts", "projections", "detector"]
    run = script.read_config(script.GrounderRun, arguments)
    assert (run.max_steps, run.parts) == (7, ["projections", "detector"])
    assert run.architecture == yaml.safe_load(TINY.read_text())["architecture"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(script, train, settings, monkeypatch):
    losses, grounding_loss = iter([1.0, float("nan")]), script.grounding_loss

    def broken(*arguments):
        loss, terms = grounding_loss(*arguments)
        return loss * next(losses), terms

    monkeypatch.setattr(script, "grounding_loss", broken)
    with pytest.raises(FloatingPointError, match="loss is nan at step 2"):
        train(**settings)
    assert not (Path(settings["output_dir"]) / "last").exists()


# --- scenes ----------------------------------------------------------------------------------------------------------


def test_simulated_scenes_are_the_same_every_time(script):
    weights = script.GrounderRun().scene_weights
    for index in range(3):
        (first, seed), (second, same_seed) = (script.SimulatedScenes(4, 5, weights)[index] for _ in range(2))
        assert seed == same_seed == 5 + index
        assert (first.name, first.absent, list(first.boxes)) == (second.name, second.absent, list(second.boxes))
        assert np.array_equal(first.image, second.image)
        assert all(np.array_equal(first.boxes[target], second.boxes[target]) for target in first.boxes)
    same_scene, _ = script.SimulatedScenes(9, 0, weights)[7]  # by its seed, not by its place
    assert np.array_equal(first.image, same_scene.image)


def test_boxes_of_scenes_are_the_tight_boxes_of_their_masks(script, monkeypatch):
    cases = []
    monkeypatch.setattr(script, "simulate", lambda *request: cases.append(simulate(*request)) or cases[-1])
    scenes = script.SimulatedScenes(12, 0, script.GrounderRun().scene_weights)
    structures = 0
    for scene, _ in (scenes[index] for index in range(12)):
        masks = cases[-1].masks
        assert set(scene.boxes) <= set(masks) and not set(masks) & set(scene.absent)
        assert set(masks) | set(scene.absent) == set(SIMULATED_TARGETS)
        for target, box in scene.boxes.items():
            rows, columns = np.nonzero(masks[target])
            assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
            structures += 1
    assert structures > 12  # scenes with several among them


def test_training_validation_and_test_scenes_are_apart(script):
    import evaluate_grounder

    sys.modules.pop("evaluate_grounder")
    run = script.read_config(script.GrounderRun, ["--config", str(TINY)])
    training, validation = script.build_scenes(run)
    first = [scenes.first_seed for scenes in (training, validation)] + [evaluate_grounder.TEST_SEEDS]
    assert len(training) == run.max_steps * run.batch_size and len(validation) == run.eval_scenes
    assert first[0] + len(training) <= first[1] and first[1] + len(validation) <= first[2]


def test_scenes_come_by_their_weights(script):
    scenes = script.SimulatedScenes(30, 0, {"thyroid gland": 0, "breast lesion": 1})
    assert {scenes[index][0].name.rsplit(" ", 1)[0] for index in range(30)} == {"breast lesion"}


# --- questions -------------------------------------------------------------------------------------------------------

HEART = ("left ventricle", "myocardium", "left atrium")
OTHERS = ("breast lesion", "thyroid nodule", "thyroid gland")


def test_present_and_absent_targets_are_asked_for(script, rng):
    drawn = Counter(script.draw_target(flat_scene(HEART, OTHERS), rng) for _ in range(2000))
    assert set(drawn) == {*HEART, *OTHERS}
    assert sum(drawn[target] for target in HEART) / 2000 == pytest.approx(2 / 3, abs=0.04)


def test_with_nothing_present_an_absent_target_is_asked_for_and_the_reverse(script, rng):
    for _ in range(20):
        assert script.draw_target(flat_scene((), OTHERS), rng) in OTHERS
        assert script.draw_target(flat_scene(HEART, ()), rng) in HEART


@pytest.mark.parametrize("description_share", [0.0, 1.0])
def test_labels_point_at_the_phrases_and_boxes_of_their_targets(script, description_share):
    run = script.GrounderRun(architecture=ARCHITECTURE, image_size=64)
    questions = script.Questions(script.build_grounder(run), description_share)
    tokenizer = questions.grounder.processor.tokenizer
    dataset = script.SimulatedScenes(40, 0, run.scene_weights)
    scenes = [dataset[index] for index in range(40)]
    inputs, labels = questions(scenes)
    assert inputs["pixel_values"].shape == (40, 3, 64, 64)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    asked_of_all = set()
    for (scene, _), ids, label in zip(scenes, inputs["input_ids"], labels, strict=True):
        (phrase_map,) = label["phrase_maps"]
        text = tokenizer.decode(ids[phrase_map])
        mentions = 3 if description_share else 1
        asked = next(name for name in TARGETS if text == " ".join([name] * mentions))
        assert (len(label["boxes"]) == 1) == (asked in scene.boxes) == (asked not in scene.absent)
        assert label["class_labels"].tolist() == [0] * len(label["boxes"])
        if len(label["boxes"]):
            boxes = boxes_from_unit(label["boxes"], scene.image.shape)
            np.testing.assert_allclose(boxes[0], scene.boxes[asked], atol=1e-3)
        asked_of_all.add(asked)
    assert asked_of_all == set(SIMULATED_TARGETS)


def test_a_batch_is_the_same_every_time_and_has_one_form(script):
    run = script.GrounderRun(architecture=ARCHITECTURE, image_size=64)
    questions = script.Questions(script.build_grounder(run), 0.5)
    dataset = script.SimulatedScenes(12, 0, run.scene_weights)
    lengths = []
    for index in range(0, 12, 2):
        scenes = [dataset[index], dataset[index + 1]]
        (first, _), (second, _) = questions(scenes), questions(scenes)
        assert all(torch.equal(first[name], second[name]) for name in first)
        are_long = first["attention_mask"].sum(1) > 60
        assert are_long.all() or not are_long.any()
        lengths.append(bool(are_long[0]))
    assert set(lengths) == {True, False}


def test_the_tokenizer_knows_every_name_of_the_registry(script):
    tokenizer = script.registry_tokenizer()
    for target in TARGETS.values():
        for name in (target.name, *target.synonyms):
            tokens = tokenizer.tokenize(name)
            assert "[UNK]" not in tokens
            assert [token for token in tokens if token.isalpha()] == re.findall("[a-z]+", name)  # whole words
    assert "[UNK]" not in tokenizer.tokenize(script.PAPER_TEMPLATE)
    assert tokenizer.tokenize("Cyst 12") == ["c", "##y", "##s", "##t", "1", "##2"]  # other words go by letters


@pytest.mark.parametrize("config", [None, TINY])
def test_a_new_model_finds_nothing_at_first(script, config):
    run = script.GrounderRun(architecture=ARCHITECTURE, image_size=64)
    if config:
        run = script.read_config(script.GrounderRun, ["--config", str(config)])
    grounder = script.build_grounder(run)
    scene, _ = script.SimulatedScenes(1, 0, run.scene_weights)[0]
    inputs, _ = script.Questions(grounder, 0.0)([(scene, 3)])
    with torch.inference_mode():
        logits = grounder.model(**inputs).logits
    length = int(inputs["attention_mask"].sum())
    assert logits[..., :length].sigmoid().mean() < 0.05
    assert len(grounder(scene.image, "thyroid nodule")[0].boxes) == 0

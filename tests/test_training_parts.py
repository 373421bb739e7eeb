"""Parts of a training run: config, average of the weights, inputs, what learns, loss by prompts, states and files."""

import copy
import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, default_collate

import ccsam_hf.training.states as states
from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.data.build import Download, build
from ccsam_hf.data.prompts import FIXED_PROMPTS, PromptSampler, fixed_click, tight_box
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import simulate, write_folder
from ccsam_hf.data.splits import divide
from ccsam_hf.training.average import TrainableAverage
from ccsam_hf.training.files import keep_lines, log
from ccsam_hf.training.files import write_folder as write_run_folder
from ccsam_hf.training.inputs import (
    VALIDATION_SEEDS,
    EpochOrder,
    SimulatedSamples,
    build_samples,
)
from ccsam_hf.training.learning import (
    build_model,
    build_optimizer,
    build_schedule,
    choose_what_learns,
    finished,
)
from ccsam_hf.training.loop import Window
from ccsam_hf.training.prompting import PromptedLoss, corrected
from ccsam_hf.training.run_config import PRESETS, RunConfig, differences, published, read_config
from ccsam_hf.training.states import latest_state, save_state, states_of

CONFIGS = Path(__file__).resolve().parents[1] / "training" / "configs"
LESIONS = {"breast lesion": 1.0}


def run_of(**fields) -> RunConfig:
    return RunConfig(**{"max_steps": 4} | fields)


@pytest.fixture(scope="module")
def batch() -> dict:
    """Two simulated lesions with a click and a box each."""
    samples = SimulatedSamples(2, 0, LESIONS, FIXED_PROMPTS)
    return default_collate([samples[0], samples[1]])


# --- run config ------------------------------------------------------------------------------------------------------


def test_the_command_line_beats_the_file_and_the_file_the_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1e-2\nprompts: [box]\nmax_steps: 7\nmodel: {lambda_iou: 0.5}\n")
    arguments = ["--config", str(path), "--max_steps", "9", "--targets", "breast lesion", "thyroid gland"]
    run = read_config(RunConfig, arguments)
    assert (run.max_steps, run.learning_rate, run.prompts) == (9, 0.01, ["box"])
    assert run.targets == ["breast lesion", "thyroid gland"] and run.model == {"lambda_iou": 0.5}
    assert run.batch_size == RunConfig(max_steps=1).batch_size


def test_a_key_that_no_field_declares_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rat: 1.0\nmax_steps: 1\n")
    with pytest.raises(ValueError, match=r"run.yaml has unknown keys \['learning_rat'\]; known are .*'learning_rate'"):
        read_config(RunConfig, ["--config", str(path)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable": "some"}, "trainable='some' is not one of declared, adapters, lora, all"),
        ({"optimizer": "sgd"}, "optimizer='sgd' is not one of adam, adamw"),
        ({"schedule": "linear"}, "schedule='linear' is not one of constant, cosine, step"),
        ({"augmentation": "strong"}, "augmentation='strong' is not one of none, samus"),
        ({"prompts": ["box", "mask"]}, "prompts='mask' is not one of point, box, both, text"),
        ({"prompts": "box"}, "prompts='box'; expected list[str]"),
        ({"preset": "vitb"}, "preset='vitb' is not one of vit_b, samus, sam, lite, tiny; did you mean"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8' is not one of no, bf16, fp16"),
        ({"batch_size": 0}, "batch_size=0; expected at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5; expected int"),
        ({"max_steps": -1}, "max_steps=-1; expected at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan; expected at least 0"),
        ({"learning_rate": "fast"}, "learning_rate='fast'; expected float"),
        ({"ema_decay": 1.0}, "ema_decay=1.0; expected at least 0 and below 1"),
        ({"prompts": []}, "prompts is empty; expected some of point, box, both, text"),
        ({"max_steps": 0}, "epochs=0 and max_steps=0; expected one of them above 0"),
        ({"epochs": 2}, "epochs=2 and max_steps=4; expected one of them above 0"),
        ({"epochs": 2, "max_steps": 0}, "epochs of the simulator need train_cases"),
        ({"prompts": ["text"]}, "grounder=None; the prompt 'text' needs a grounder"),
        ({"grounder": "folder"}, "grounder=folder; the prompt 'text' needs a grounder, and only it"),
    ],
)
def test_values_that_a_run_cannot_have_are_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run_of(**fields)


def test_values_that_fit_together_are_accepted():
    assert run_of(max_steps=0, epochs=3, train_cases=8).epochs == 3
    assert run_of(max_steps=0, epochs=3, data="somewhere").train_cases == 0
    assert run_of(prompts=["box", "text"], grounder="folder").grounder == "folder"


def test_integers_are_numbers_and_every_preset_exists():
    assert run_of(learning_rate=1, target_weights={"breast lesion": 2}).learning_rate == 1
    assert all(isinstance(getattr(CCSamConfig, preset)(), CCSamConfig) for preset in PRESETS)


def test_differences_name_the_field_and_both_values():
    run = run_of(seed=3, num_workers=2)
    other = yaml.safe_load(yaml.safe_dump(asdict(run_of(seed=5))))
    assert differences(run, other, ("num_workers",)) == {"seed": (5, 3)}
    assert differences(run, other) == {"seed": (5, 3), "num_workers": (1, 2)}
    del other["seed"]
    assert differences(run, other, ("num_workers",)) == {"seed": (None, 3)}
    assert differences(run, yaml.safe_load(yaml.safe_dump(asdict(run)))) == {}


# --- average ---------------------------------------------------------------------------------------------------------


def two_layers() -> torch.nn.Module:
    """The first layer is frozen, the second learns."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    module[0].requires_grad_(False)
    return module


def test_the_average_is_the_sequence_computed_by_hand():
    module = torch.nn.Linear(1, 1, bias=False)
    values = [1.0, 2.0, -1.0, 5.0, 0.5]
    module.weight.data.fill_(values[0])
    average = TrainableAverage(module, decay=0.27)
    expected = values[0]
    for decay, value in zip((2 / 11, 3 / 12, 0.27, 0.27), values[1:], strict=True):  # (1 + n) / (10 + n) until 0.27
        module.weight.data.fill_(value)
        average.update()
        expected = decay * expected + (1 - decay) * value
        assert average.averages[0].item() == pytest.approx(expected, rel=1e-6)


def test_a_decay_of_zero_follows_the_parameters_exactly():
    module = two_layers()
    average = TrainableAverage(module, decay=0.0)
    for _ in range(3):
        torch.nn.init.normal_(module[1].weight)
        average.update()
        assert torch.equal(average.averages[0], module[1].weight)


def test_frozen_parameters_are_neither_copied_nor_touched():
    module = two_layers()
    average = TrainableAverage(module, 0.9)
    assert [each.shape for each in average.averages] == [(2, 3), (2,)]
    pointer = module[0].weight.data_ptr()
    with average.in_place():
        assert module[0].weight.data_ptr() == pointer


def test_the_averages_stand_in_for_the_parameters_and_leave_them_bit_equal():
    module = two_layers()
    average = TrainableAverage(module, 0.9)
    torch.nn.init.normal_(module[1].weight)
    average.update()
    own, averaged = module[1].weight.detach().clone(), average.averages[0].clone()
    assert not torch.equal(own, averaged)
    with pytest.raises(RuntimeError, match="in the middle"), average.in_place():
        assert torch.equal(module[1].weight, averaged)
        raise RuntimeError("in the middle")
    assert torch.equal(module[1].weight, own) and torch.equal(average.averages[0], averaged)


def test_a_saved_average_goes_on_as_if_it_had_never_stopped(tmp_path):
    module = two_layers()
    averages = [TrainableAverage(module, 0.99) for _ in range(2)]
    torch.nn.init.normal_(module[1].weight)
    averages[0].update()
    torch.save(averages[0].state_dict(), tmp_path / "average")
    averages[1].load_state_dict(torch.load(tmp_path / "average", weights_only=True))
    torch.nn.init.normal_(module[1].weight)
    for average in averages:
        average.update()
    assert torch.equal(averages[0].averages[0], averages[1].averages[0]) and averages[1].updates == 2


def test_averages_of_other_parameters_and_decays_that_never_forget_are_refused():
    module = two_layers()
    state = TrainableAverage(module, 0.9).state_dict()
    module[0].requires_grad_(True)
    with pytest.raises(ValueError, match="that of other parameters"):
        TrainableAverage(module, 0.9).load_state_dict(state)
    for decay in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"decay={decay}; expected \[0, 1\)"):
            TrainableAverage(module, decay)


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochOrder(50, seed)
        list(sampler)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 2) == order(3, 2)
    assert sorted(order(3, 2)) == list(range(50)) and len(EpochOrder(50, 3)) == 50
    assert len({tuple(order(seed, epoch)) for seed in (3, 4) for epoch in (0, 1, 2)}) == 6


def test_an_epoch_has_whole_batches_alone():
    sampler = EpochOrder(50, 3, batch_size=8)
    assert list(sampler) == list(EpochOrder(50, 3))[:48] and len(sampler) == 48
    assert len(EpochOrder(5, 3, batch_size=8)) == 5  # fewer samples than a batch are one step


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name], name


def test_a_simulated_sample_is_the_same_in_every_worker_and_every_set():
    weights = {"breast lesion": 1.0, "left ventricle": 1.0}
    samples = SimulatedSamples(4, 7, weights, PromptSampler(), seed=5)
    alone = {sample["name"]: sample for sample in (samples[index] for index in range(4))}
    assert list(alone) == ["7", "8", "9", "10"]
    for sample in DataLoader(samples, batch_size=None, num_workers=2):
        assert_same(alone[sample["name"]], sample)
    assert_same(alone["9"], SimulatedSamples(30, 0, weights, PromptSampler(), seed=5)[9])
    case = simulate(alone["9"]["target"], 9)
    assert torch.equal(alone["9"]["labels"][0].bool(), torch.from_numpy(case.mask))
    torch.testing.assert_close(alone["9"]["pixel_values"][0], torch.tensor(case.image) / 255)


def test_simulated_targets_come_by_their_weights_and_cases_to_train_and_to_validate_are_apart():
    tiny = ["--config", str(CONFIGS / "tiny.yaml")]
    run = read_config(RunConfig, tiny)
    training, validation = build_samples(run)
    assert (len(training), len(validation)) == (run.max_steps * run.batch_size, run.eval_cases)
    assert (training.first_seed, validation.first_seed) == (0, VALIDATION_SEEDS) and len(training) < VALIDATION_SEEDS

    weights = {"breast lesion": 3.0, "left atrium": 1.0, "thyroid gland": 0.0}
    training, _ = build_samples(run_of(target_weights=weights, train_cases=12))
    assert training.probabilities.tolist() == [0.75, 0.25, 0]
    drawn = [training[index]["target"] for index in range(12)]
    assert set(drawn) == {"breast lesion", "left atrium"} and 6 <= drawn.count("breast lesion") <= 11
    samples = build_samples(run_of(target_weights=weights, train_cases=3, targets=["left atrium"]))
    assert [len(part) for part in samples] == [3, 120]
    assert {part[index]["target"] for part in samples for index in range(3)} == {"left atrium"}


def test_targets_that_the_simulator_does_not_draw_are_refused():
    with pytest.raises(ValueError, match=r"targets \['spleen'\] have no weight; expected some of breast lesion, "):
        build_samples(run_of(targets=["breast lesion", "spleen"]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Folders "alpha", lesions and glands, and "beta", lesions."""
    directory = tmp_path_factory.mktemp("folders")
    write_folder(directory / "alpha", count=20, seed=0, targets=("breast lesion", "thyroid gland"), size=(64, 64))
    write_folder(directory / "beta", count=12, seed=50, targets=("breast lesion",), size=(64, 72))
    return directory


@pytest.fixture(scope="module")
def built(folders, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built") / "set"
    build([Download("folder", folders / name) for name in ("alpha", "beta")], output, divide)
    return output


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def names_in(samples) -> list[tuple[str, str]]:
    return sorted((sample["dataset"], sample["name"]) for sample in (samples[i] for i in range(len(samples))))


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"datasets": ["alpha"]},
        {"targets": ["breast lesion"]},
        {"datasets": ["alpha"], "targets": ["thyroid gland"]},
    ],
)
def test_a_built_set_gives_the_cases_that_are_asked_for(built, wanted):
    samples = build_samples(run_of(data=str(built), layout="built", augmentation="none", **wanted))
    cases = read_cases(built, "built")
    for split, part in zip(("train", "validation"), samples, strict=True):
        expected = sorted(
            (case.dataset, case.name)
            for case in cases
            if case.split == split
            and case.dataset in wanted.get("datasets", ["alpha", "beta"])
            and case.target in wanted.get("targets", ["breast lesion", "thyroid gland"])
        )
        assert expected and names_in(part) == expected


def test_a_folder_is_split_by_the_seed_of_the_run(folders):
    cases = read_cases(folders / "alpha", "folder")
    training = []
    for seed, targets in ((0, []), (1, []), (0, ["thyroid gland"])):
        run = run_of(data=str(folders / "alpha"), layout="folder", seed=seed, targets=targets)
        parts = [names_in(part) for part in build_samples(run)]
        wanted = [case for case in divide(cases, seed).apply(cases) if case.target in targets or not targets]
        for split, names in zip(("train", "validation"), parts, strict=True):
            assert names == sorted((case.dataset, case.name) for case in wanted if case.split == split)
        assert not set(parts[0]) & set(parts[1])
        training.append(parts[0])
    assert training[0] != training[1] and set(training[2]) < set(training[0])


@pytest.mark.parametrize("layout", ["built", "folder"])
def test_validation_takes_as_many_cases_as_it_may_the_same_every_time(built, folders, layout):
    data = built if layout == "built" else folders / "alpha"
    chosen, again, everything = (
        build_samples(run_of(data=str(data), layout=layout, eval_cases=count))[1] for count in (1, 1, 100)
    )
    assert len(chosen) == 1 and names_in(chosen) == names_in(again)
    assert len(everything) == 3 if layout == "built" else 2
    assert set(names_in(chosen)) < set(names_in(everything))


def test_only_training_is_augmented_and_validation_has_fixed_prompts(folders):
    fields = {"data": str(folders / "beta"), "layout": "folder"}
    (plain, validation), (augmented, same_validation) = (
        build_samples(run_of(augmentation=augmentation, **fields)) for augmentation in ("none", "samus")
    )
    assert not torch.equal(plain[0]["pixel_values"], augmented[0]["pixel_values"])
    assert_same(validation[0], same_validation[0])
    mask = validation[0]["labels"][0].bool().numpy()
    assert validation[0]["input_points"].tolist() == [[fixed_click(mask).tolist()]]
    assert validation[0]["input_boxes"].tolist() == [tight_box(mask).tolist()]


@pytest.mark.parametrize("layout", ["built", "folder"])
def test_names_that_the_data_do_not_have_are_refused_beside_some_that_they_have(built, folders, layout):
    data = built if layout == "built" else folders / "alpha"
    with pytest.raises(
        ValueError, match=r"has no targets \['left atrium'\]; expected some of breast lesion, thyroid g"
    ):
        build_samples(run_of(data=str(data), layout=layout, targets=["breast lesion", "left atrium"]))
    with pytest.raises(ValueError, match=r"has no datasets \['gamma'\]; expected some of alpha"):
        build_samples(run_of(data=str(data), layout=layout, datasets=["alpha", "gamma"]))


def test_a_split_without_a_case_is_refused(tmp_path):
    write_folder(tmp_path / "own", count=3, seed=0, targets=("breast lesion",), size=(64, 64))
    table = tmp_path / "own" / "cases.csv"
    names = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    table.write_text("name,target,split\n" + "".join(f"{name},breast lesion,train\n" for name in names))
    with pytest.raises(ValueError, match="no case in split 'validation' for datasets=all and targets=all"):
        build_samples(run_of(data=str(tmp_path / "own"), layout="folder"))


# --- what learns -----------------------------------------------------------------------------------------------------

ADAPTERS = (
    r"cnn_branch\.adapter|vit_branch\.(position_adapter|input_adapter|layers\.2\.(adapter|attn\.rel_pos))|fusion"
)
LORA = (
    r"vit_branch\.layers\.\d\.attn\.(qkv|proj)\.lora_[AB]"
    r"|mask_decoder\.transformer\.(layers\.\d\.|final_)\w*attn\w*\.(q|k|v|out)_proj\.lora_[AB]"
)
LEARNING = {
    "declared": rf"{ADAPTERS}|mask_decoder",
    "adapters": ADAPTERS,
    "lora": LORA,
    "all": r"(?!prompt_encoder\.shared_embedding)",
}
UNUSED = r"mask_decoder\.output_hypernetworks_mlps\.[123]"  # of the three further masks that SAM can give


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["declared", "adapters", "lora", "all"])
def test_exactly_the_declared_parameters_learn(tiny_model, batch, kind):
    tiny_model.config.lambda_iou = 0.5  # without it the head of the IoU has no gradient
    torch.nn.init.normal_(tiny_model.vit_branch.pos_embed, std=0.1)  # zeros give the position adapter none
    choose_what_learns(tiny_model, run_of(trainable=kind))
    parameters = dict(tiny_model.named_parameters())
    learning = {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert learning == {name for name in parameters if re.match(LEARNING[kind], name)}

    network = PromptedLoss(tiny_model.train(), ["box", "point"], correction_clicks=1)
    optimizer = build_optimizer(network, 1e-2, 0.0, "adam")
    before = state_of(tiny_model)
    for _ in range(3):  # what lies behind a projection that starts at zero has no gradient at first
        network(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, tensor in tiny_model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved & set(parameters) == {name for name in learning if not re.match(UNUSED, name)}
    statistics = {name for name in before if re.search(r"running_|num_batches", name)}
    assert moved - set(parameters) == (statistics if kind == "all" else set())


def test_low_rank_adapters_are_added_to_the_weights_of_a_copy(tiny_model, batch):
    original = state_of(tiny_model)
    adapted = choose_what_learns(tiny_model, run_of(trainable="lora", lora_rank=4))
    before = tiny_model.eval()(batch["pixel_values"], input_boxes=batch["input_boxes"]).pred_masks
    for name, parameter in tiny_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
            assert parameter.shape[1] == 4
    inside = state_of(tiny_model)

    whole = finished(adapted)
    expected = tiny_model(batch["pixel_values"], input_boxes=batch["input_boxes"]).pred_masks
    found = whole(batch["pixel_values"], input_boxes=batch["input_boxes"]).pred_masks
    assert (expected - before).abs().max() > 0.02
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    assert type(whole) is CCSamModel and whole is not tiny_model
    assert set(whole.state_dict()) == set(original)
    changed = {name for name, tensor in whole.state_dict().items() if not torch.equal(tensor, original[name])}
    assert changed == {name.replace(".base_layer", "") for name in inside if "base_layer.weight" in name}
    assert all(torch.equal(tensor, inside[name]) for name, tensor in tiny_model.state_dict().items())
    assert all(
        torch.equal(inside[name], original[name.replace(".base_layer", "")]) for name in inside if "base_" in name
    )


def test_a_model_comes_from_a_preset_with_fields_or_from_a_checkpoint(tiny_model, tmp_path):
    model = build_model(run_of(preset="tiny", model={"lambda_iou": 0.25}))
    assert model.config.lambda_iou == 0.25 and model.config.vision_config.hidden_size == 64
    tiny_model.save_pretrained(tmp_path / "start")
    loaded = build_model(run_of(checkpoint=str(tmp_path / "start"))).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in tiny_model.state_dict().items())


def test_fields_over_a_checkpoint_start_new_parts_and_the_log_names_them(tiny_model, tmp_path, caplog):
    tiny_model.save_pretrained(tmp_path / "start")
    fields = {"lambda_iou": 0.5, "cnn_branch": "samus", "fusion": "cross_branch"}
    with caplog.at_level("INFO", logger="ccsam_hf.training.learning"):
        model = build_model(run_of(checkpoint=str(tmp_path / "start"), model=fields))
    assert model.config.lambda_iou == 0.5 and model.config.vision_config.hidden_size == 64
    before, after = tiny_model.state_dict(), model.state_dict()
    kept = set(before) & set(after)
    assert any(name.startswith("vit_branch") for name in kept)
    assert all(torch.equal(before[name], after[name]) for name in kept)
    (told,) = (each.getMessage() for each in caplog.records if each.name == "ccsam_hf.training.learning")
    assert "start anew cnn_branch" in told and "left behind cnn_branch" in told and "fusion" in told


def test_tensors_of_another_size_start_anew(tiny_config, tmp_path):
    tiny_config.cnn_config.output_channels = 32
    CCSamModel(tiny_config).save_pretrained(tmp_path / "start")
    model = build_model(run_of(checkpoint=str(tmp_path / "start"), model={"fusion": "cross_branch"}))
    assert model.fusion is None and all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "start")
    weights = load_file(tmp_path / "start" / "model.safetensors")
    weights.pop(next(name for name in weights if name.startswith("fusion")))
    save_file(weights, tmp_path / "start" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"start anew fusion\.\w+ \(1\); left behind nothing; expected a checkpoint"):
        build_model(run_of(checkpoint=str(tmp_path / "start")))


def test_a_sampler_without_what_the_prompts_need_is_refused():
    sampler = {"tight_box": 0.0, "jittered_box": 0.0}
    with pytest.raises(ValueError, match="need box for every sample"):
        build_samples(run_of(prompts=["point", "box"], prompt_sampler=sampler))
    build_samples(run_of(prompts=["point"], prompt_sampler=sampler))


def test_absolute_paths_are_published_by_their_last_part_alone(tmp_path):
    run = run_of(data=str(tmp_path / "own"), layout="folder", checkpoint="someone/model", output_dir="runs/own")
    told = published(run)
    assert (told["data"], told["checkpoint"], told["output_dir"]) == ("own", "someone/model", "runs/own")


def test_matrices_are_decayed_and_nothing_that_is_frozen_is_optimized():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    module[0].requires_grad_(False)
    optimizer = build_optimizer(module, 0.5, 0.25, "adamw", 1e-5)
    assert type(optimizer) is torch.optim.AdamW
    assert [(group["params"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ([module[2].weight], 0.25),
        ([module[1].weight, module[1].bias, module[2].bias], 0.0),
    ]
    assert all((group["lr"], group["eps"]) == (0.5, 1e-5) for group in optimizer.param_groups)
    module[2].weight.requires_grad_(False)
    optimizer = build_optimizer(module, 0.5, 0.25, "adam")
    assert type(optimizer) is torch.optim.Adam and len(optimizer.param_groups) == 1


def test_weight_decay_leaves_tokens_and_embeddings_alone(tiny_model):
    tiny_model.requires_grad_(True)
    decayed, free = build_optimizer(tiny_model, 0.5, 0.25).param_groups
    assert decayed["weight_decay"] == 0.25 and free["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in tiny_model.named_parameters()}
    free_names = {names[id(parameter)] for parameter in free["params"] if parameter.ndim > 1}
    assert {"mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight", "vit_branch.pos_embed"} <= free_names
    assert {"vit_branch.layers.2.attn.rel_pos_h", "prompt_encoder.no_mask_embed.weight"} <= free_names
    assert all(parameter.ndim > 1 for parameter in decayed["params"])


def small_losses(*values: float) -> Window:
    window = Window()
    batch = {"dataset": ["a"], "name": ["b"], "target": ["c"], "pixel_values": torch.zeros(1)}
    for step, value in enumerate(values, 1):
        window.add({"loss": torch.tensor(value)}, step, batch)
    return window


def test_losses_are_checked_together_and_the_first_that_is_not_finite_is_named():
    window = small_losses(1.0, 2.0)
    window.check(Accelerator(cpu=True))
    assert window.unchecked == [] and window.sums == {"loss": 3.0}
    window.add({"loss": torch.tensor(float("nan"))}, 3, {"name": ["mixed/x"]})
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 3; samples: mixed/x"):
        window.check(Accelerator(cpu=True))
    with pytest.raises(FloatingPointError, match=r"loss is inf at step 2; samples: a/b \(c\)"):
        small_losses(1.0, float("inf"), float("nan")).check(Accelerator(cpu=True))


def test_a_loss_that_is_not_finite_in_another_process_stops_this_one():
    others = SimpleNamespace(reduce=lambda count, reduction: count + 1)
    with pytest.raises(FloatingPointError, match="in another process, whose error names the samples"):
        small_losses(1.0).check(others)


def rates(run: RunConfig, total_steps: int, steps_of_epoch: int) -> list[float]:
    """The rate of every step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=run.learning_rate)
    schedule = build_schedule(optimizer, run, total_steps, steps_of_epoch)
    found = []
    for _ in range(total_steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_papers_schedule_divides_the_rate_by_ten_every_50_epochs():
    run = read_config(RunConfig, ["--config", str(CONFIGS / "us30k.yaml")])
    expected = np.repeat([1e-2, 1e-3, 1e-4, 1e-5], 50 * 3)
    np.testing.assert_allclose(rates(run, total_steps=200 * 3, steps_of_epoch=3), expected, rtol=1e-12)


def test_rates_warm_up_and_then_drop_fall_or_stay():
    step, cosine, constant = (
        rates(run_of(schedule=name, warmup_steps=2, learning_rate=1.0, decay_every=2), 6, steps_of_epoch=2)
        for name in ("step", "cosine", "constant")
    )
    np.testing.assert_allclose(step, [0.5, 1, 1, 1, 0.1, 0.1])
    np.testing.assert_allclose(cosine, [0, 0.5] + [(1 + np.cos(np.pi * part / 4)) / 2 for part in range(4)])
    np.testing.assert_allclose(constant, [0, 0.5, 1, 1, 1, 1])


@pytest.mark.parametrize("kind", ["declared", "adapters", "lora", "all"])
def test_gradient_checkpointing_computes_the_vit_twice_and_changes_nothing(tiny_model, batch, kind):
    results, calls = [], []
    for is_on in (False, True):
        torch.manual_seed(1)  # of low-rank adapters, dropout and draws of the fusion
        model = copy.deepcopy(tiny_model)
        choose_what_learns(model, run_of(trainable=kind, gradient_checkpointing=is_on))
        model.vit_branch.layers[2].attn.register_forward_hook(lambda *_, is_on=is_on: calls.append(is_on))
        loss, _, _ = PromptedLoss(model.train(), ["box"])(batch)
        loss.backward()
        results.append((loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (loss, gradients), (same_loss, same_gradients) = results
    assert torch.equal(loss, same_loss) and any("vit_branch.layers.2" in name for name in gradients)
    for name, gradient in gradients.items():
        assert (gradient is None) == (same_gradients[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(same_gradients[name], gradient, rtol=1e-5, atol=1e-8)
    assert calls == [False, True, True]


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mistakes() -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (2, 8, 8) and labels (2, 1, 8, 8): the first misses two pixels and adds one, the second is right."""
    labels = torch.zeros(2, 1, 8, 8)
    labels[:, :, 2:5, 3:6] = 1
    mask_logits = labels[:, 0] * 4 - 2
    mask_logits[0, 2, 3] = mask_logits[0, 4, 5] = -1
    mask_logits[0, 7, 1] = 1
    return mask_logits, labels


def test_a_correction_click_lies_on_a_wrong_pixel_and_says_what_belongs_there(mistakes):
    mask_logits, labels = mistakes
    low_logits = torch.rand(2, 1, 4, 4)
    seen = []
    for _ in range(100):
        prompt = corrected({"input_boxes": torch.zeros(2, 1, 4)}, mask_logits, low_logits, labels)
        assert prompt["input_points"].shape == (2, 1, 1, 2) and prompt["input_labels"].shape == (2, 1, 1)
        seen.append((*prompt["input_points"][0, 0, 0].int().tolist(), prompt["input_labels"][0, 0, 0].item()))
        assert prompt["input_labels"][1].item() == -10  # nothing is wrong
    assert set(seen) == {(3, 2, 1), (5, 4, 1), (1, 7, 0)}  # (x, y, label)
    assert min(seen.count(each) for each in set(seen)) > 15
    assert torch.equal(prompt["input_masks"], low_logits) and "input_boxes" in prompt


def test_a_correction_click_comes_after_the_clicks_before_it(mistakes):
    mask_logits, labels = mistakes
    before = {"input_points": torch.full((2, 1, 1, 2), 4.0), "input_labels": torch.ones(2, 1, 1, dtype=torch.long)}
    prompt = corrected(before, mask_logits, torch.zeros(2, 1, 4, 4), labels)
    prompt = corrected(prompt, mask_logits, torch.zeros(2, 1, 4, 4), labels)
    assert prompt["input_points"].shape == (2, 1, 3, 2) and prompt["input_labels"].dtype == torch.long
    assert torch.equal(prompt["input_points"][:, :, :1], before["input_points"])
    assert prompt["input_labels"][1, 0].tolist() == [1, -10, -10]


def test_a_click_without_an_effect_changes_no_mask(tiny_model, batch):
    """The label -10 that stands where nothing is wrong."""
    embeddings = tiny_model.get_image_embeddings(batch["pixel_values"])
    points = torch.cat([batch["input_points"], torch.rand(2, 1, 1, 2) * 255], dim=2)
    labels = torch.cat([batch["input_labels"], torch.full((2, 1, 1), -10)], dim=2)
    masks, _ = tiny_model.decode(embeddings, points, labels)
    others, _ = tiny_model.decode(embeddings, torch.cat([batch["input_points"], points[:, :, 1:] / 2], dim=2), labels)
    assert torch.equal(masks, others)


@pytest.fixture
def recorded(tiny_model, monkeypatch):
    """A model that keeps the prompts that it decoded, and their losses."""
    decode, compute_loss = tiny_model.decode, tiny_model.compute_loss
    calls = []

    def keep_prompt(feature_map, **prompt):
        masks, scores = decode(feature_map, **prompt)
        calls.append({"prompt": prompt, "masks": masks})
        return masks, scores

    def keep_loss(*arguments):
        calls[-1]["loss"], calls[-1]["terms"] = compute_loss(*arguments)
        return calls[-1]["loss"], calls[-1]["terms"]

    monkeypatch.setattr(tiny_model, "decode", keep_prompt)
    monkeypatch.setattr(tiny_model, "compute_loss", keep_loss)
    return SimpleNamespace(model=tiny_model, calls=calls)


def test_the_loss_is_the_mean_over_kinds_and_rounds(recorded, batch):
    loss, terms, masks = PromptedLoss(recorded.model, ["point", "box", "both"], correction_clicks=2)(batch)
    assert len(recorded.calls) == 9
    assert loss.item() == pytest.approx(np.mean([call["loss"].item() for call in recorded.calls]), rel=1e-6)
    names = ("bce", "dice", "kl_c", "kl_v", "kl_a", "loss")
    assert set(terms) == {f"{kind}/{name}" for kind in ("point", "box", "both") for name in names}
    for place, kind in ((0, "point"), (3, "box"), (6, "both")):  # the first round of each
        assert torch.equal(terms[f"{kind}/loss"], recorded.calls[place]["loss"])
        assert torch.equal(terms[f"{kind}/dice"], recorded.calls[place]["terms"]["dice"])
        last = torch.nn.functional.interpolate(
            recorded.calls[place + 2]["masks"][:, :, 0], (256, 256), mode="bilinear"
        )
        assert torch.equal(masks[kind], last[:, 0]) and masks[kind].shape == (2, 256, 256)
    assert not any(term.requires_grad for term in [*terms.values(), *masks.values()])


def test_each_kind_is_prompted_by_what_its_name_says_and_corrected_by_clicks(recorded, batch):
    PromptedLoss(recorded.model, ["point", "box", "both"], correction_clicks=1)(batch)
    points, boxes = {"input_points", "input_labels"}, {"input_boxes"}
    assert [set(call["prompt"]) for call in recorded.calls] == [
        points,
        points | {"input_masks"},
        boxes,
        boxes | points | {"input_masks"},
        points | boxes,
        points | boxes | {"input_masks"},
    ]
    for first, second in zip(recorded.calls[::2], recorded.calls[1::2], strict=True):
        assert torch.equal(second["prompt"]["input_masks"], first["masks"][:, :, 0])
        mask = torch.nn.functional.interpolate(first["masks"][:, :, 0], (256, 256), mode="bilinear")[:, 0]
        for image in range(2):
            x, y = second["prompt"]["input_points"][image, 0, -1].long()
            truth = batch["labels"][image, 0, y, x]
            assert (mask[image, y, x] > 0) != (truth > 0.5)
            assert second["prompt"]["input_labels"][image, 0, -1] == truth
    assert torch.equal(recorded.calls[2]["prompt"]["input_boxes"], batch["input_boxes"])
    assert torch.equal(recorded.calls[0]["prompt"]["input_points"], batch["input_points"])


def test_a_text_is_replaced_by_the_box_that_it_finds_and_else_by_that_of_the_batch(recorded, batch):
    asked = []

    def find(image, target):
        asked.append((image, target))
        boxes = [[10.0, 20.0, 90.0, 80.0], [0.0, 0.0, 5.0, 5.0]] if len(asked) == 1 else []
        return [SimpleNamespace(boxes=torch.tensor(boxes).reshape(-1, 4))]

    _, terms, _ = PromptedLoss(recorded.model, ["text"], grounder=find)(batch)
    assert [target for _, target in asked] == batch["target"]
    assert all(torch.equal(image, batch["pixel_values"][i]) for i, (image, _) in enumerate(asked))
    (call,) = recorded.calls
    assert set(call["prompt"]) == {"input_boxes"}
    assert call["prompt"]["input_boxes"].tolist() == [[[10, 20, 90, 80]], batch["input_boxes"][1].tolist()]
    assert batch["input_boxes"][0].tolist() != [[10, 20, 90, 80]]  # the batch is left as it was
    assert "text/loss" in terms


def test_a_text_that_is_not_found_is_a_miss_in_evaluation(tiny_model, batch):
    found = [SimpleNamespace(boxes=torch.tensor([[10.0, 20.0, 90.0, 80.0]]))]
    missed = [SimpleNamespace(boxes=torch.zeros(0, 4))]
    answers = {tuple(batch["pixel_values"][0].flatten().tolist()[:99]): found}
    network = PromptedLoss(
        tiny_model,
        ["box", "text"],
        grounder=lambda image, _: answers.get(tuple(image.flatten().tolist()[:99]), missed),
    )
    with torch.no_grad():
        loss, _, masks = network.eval()(batch)
    assert torch.isfinite(loss) and torch.isfinite(masks["text"][0]).all()
    assert (masks["text"][1] < 0).all() and not torch.isfinite(masks["text"][1]).any()
    assert torch.isfinite(masks["box"]).all()
    _, _, masks = network.train()(batch)
    assert torch.isfinite(masks["text"]).all()  # the box of the batch trains


# --- states and files ------------------------------------------------------------------------------------------------


@pytest.fixture
def accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(torch.nn.Linear(2, 2))
    return accelerator


def names_of(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_the_latest_states_are_kept_and_older_ones_removed(accelerator, tmp_path):
    assert states_of(tmp_path) == [] and latest_state(tmp_path) is None
    for step in (1, 2, 10):
        save_state(accelerator, tmp_path, step, keep=2)
    assert names_of(states_of(tmp_path)) == ["step-00000002", "step-00000010"]
    assert latest_state(tmp_path) == tmp_path / "checkpoints" / "step-00000010"
    assert (latest_state(tmp_path) / "model.safetensors").is_file()
    save_state(accelerator, tmp_path, 11, keep=0)  # the last one stays
    assert names_of((tmp_path / "checkpoints").iterdir()) == ["step-00000011"]


def stopped(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_state_is_complete_or_is_no_state(accelerator, tmp_path, monkeypatch, moment):
    save_state(accelerator, tmp_path, 1, keep=2)
    with monkeypatch.context() as patch:
        if moment == "write":
            save = accelerator.save_state
            patch.setattr(accelerator, "save_state", lambda folder: stopped(save(folder)))
        else:
            patch.setattr(states.os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            save_state(accelerator, tmp_path, 2, keep=1)
    assert sorted(names_of((tmp_path / "checkpoints").iterdir())) == ["step-00000001", "step-00000002.writing"]
    assert names_of(states_of(tmp_path)) == ["step-00000001"]
    save_state(accelerator, tmp_path, 3, keep=2)
    assert sorted(names_of((tmp_path / "checkpoints").iterdir())) == ["step-00000001", "step-00000003"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "run" / "best"

    def write(text: str, fails: bool = False):
        def write_text(path: Path) -> None:
            (path / f"{text}.txt").write_text(text)
            if fails:
                raise OSError("disk full")

        return write_text

    write_run_folder(folder, write("first"), {"step": 1})
    with pytest.raises(OSError, match="disk full"):
        write_run_folder(folder, write("second", fails=True))
    assert sorted(names_of(folder.iterdir())) == ["first.txt", "training.json"]
    assert json.loads((folder / "training.json").read_text()) == {"step": 1}
    write_run_folder(folder, write("third"))  # over what the failed one left
    assert names_of(folder.iterdir()) == ["third.txt"] and names_of(folder.parent.iterdir()) == ["best"]


def test_a_log_is_cut_where_a_run_goes_on(accelerator, tmp_path, capsys):
    for step in (1, 2, 3):
        log(accelerator, tmp_path, {"step": step, "loss": step / 4})
    assert json.loads(capsys.readouterr().out.splitlines()[1]) == {"step": 2, "loss": 0.5}
    path = tmp_path / "log.jsonl"
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    keep_lines(path, lambda entry: entry["step"] <= 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.25},
        {"step": 2, "loss": 0.5},
    ]
    assert names_of(tmp_path.iterdir()) == ["log.jsonl"]
    keep_lines(tmp_path / "absent.jsonl", lambda _: True)
    assert names_of(tmp_path.iterdir()) == ["log.jsonl"]

"""The run configurations in training/configs: each is a run, and files that are compared differ in what they say."""

from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest

from ccsam_hf import CCSamConfig
from ccsam_hf.data.prompts import PromptSampler
from ccsam_hf.data.simulator import TARGETS
from ccsam_hf.data.splits import SEEN
from ccsam_hf.training.grounding_run import PARTS, GrounderRun
from ccsam_hf.training.run_config import SIMULATOR, RunConfig, differences, read_config

CONFIGS = Path(__file__).resolve().parents[1] / "training" / "configs"
OF_ANOTHER_SCRIPT = ("tiny_grounder.yaml", "small_grounder.yaml")
FILES = sorted(
    path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml") if path.name not in OF_ANOTHER_SCRIPT
)
TABLE_1 = {  # in the order of the paper: ResNet50, VAF, text prompt
    "samus": (False, False, False),
    "resnet50": (True, False, False),
    "vaf": (False, True, False),
    "text": (False, False, True),
    "resnet50_text": (True, False, True),
    "vaf_text": (False, True, True),
    "resnet50_vaf": (True, True, False),
    "resnet50_vaf_text": (True, True, True),
}
TASKS = {
    "tn3k": ("TN3K", "thyroid nodule"),
    "busi": ("BUSI", "breast lesion"),
    "camus_lv": ("CAMUS", "left ventricle"),
    "camus_myo": ("CAMUS", "myocardium"),
    "camus_la": ("CAMUS", "left atrium"),
}


def read(name: str) -> RunConfig:
    return read_config(RunConfig, ["--config", str(CONFIGS / name)])


def model_config(run: RunConfig) -> CCSamConfig:
    return getattr(CCSamConfig, run.preset)(**run.model)


def differing_fields(name: str, other: str) -> set[str]:
    return set(differences(read(name), asdict(read(other)), ignored=("config",)))


@pytest.mark.parametrize("name", OF_ANOTHER_SCRIPT)
def test_every_file_for_a_grounder_is_a_run_that_says_what_learns(name):
    run = read_config(GrounderRun, ["--config", str(CONFIGS / name)])
    assert set(run.parts) <= set(PARTS) and run.max_steps > 0
    assert (run.grounder is None) == bool(run.architecture)
    assert all(about["weight"] > 0 for about in run.sources.values())


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_a_run_with_a_valid_model(name):
    run = read(name)
    model_config(run).validate()
    PromptSampler(**run.prompt_sampler)
    assert set(run.targets) | set(run.target_weights) <= set(TARGETS)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("table1/", "task_specific/", "us30k"))])
def test_runs_on_us30k_train_on_seen_sets_alone(name):
    run = read(name)
    assert run.data != SIMULATOR
    assert run.datasets and set(run.datasets) <= set(SEEN)


def test_the_models_to_compare_differ_in_their_branches_alone_and_leave_two_targets_unseen():
    assert differing_fields("comparison/samus.yaml", "comparison/ccsam.yaml") == {"model"}
    models = [read(f"comparison/{name}.yaml").model for name in ("samus", "ccsam")]
    assert models[0] == models[1] | {"cnn_branch": "samus", "fusion": "cross_branch"}
    unseen = set(TARGETS) - set(read("comparison/ccsam.yaml").target_weights)
    assert unseen == {"thyroid nodule", "left atrium"}


def test_table_1_has_a_file_for_every_row_and_no_other():
    assert {f"table1/{row}.yaml" for row in TABLE_1} == {name for name in FILES if name.startswith("table1/")}
    assert set(TABLE_1.values()) == set(product((False, True), repeat=3))


@pytest.mark.parametrize("row", TABLE_1)
def test_a_row_of_table_1_has_the_switches_of_its_name(row):
    run, (has_resnet50, has_vaf, has_text) = read(f"table1/{row}.yaml"), TABLE_1[row]
    config = model_config(run)
    assert config.cnn_branch == ("resnet50" if has_resnet50 else "samus")
    assert config.fusion == ("vaf" if has_vaf else "cross_branch")
    assert run.prompts == (["text"] if has_text else ["point"])


def test_rows_of_table_1_differ_in_the_three_switches_alone():
    rest = []
    for row in TABLE_1:
        values = asdict(read(f"table1/{row}.yaml"))
        del values["config"], values["prompts"], values["grounder"]
        del values["model"]["cnn_branch"], values["model"]["fusion"]
        rest.append(values)
    assert all(values == rest[0] for values in rest)


def test_the_first_row_of_table_1_is_samus():
    assert model_config(read("table1/samus.yaml")).to_dict() == CCSamConfig.samus().to_dict()


@pytest.mark.parametrize("task", TASKS)
def test_a_task_specific_run_has_one_data_set_and_one_target(task):
    run = read(f"task_specific/{task}.yaml")
    assert (run.datasets, run.targets) == ([TASKS[task][0]], [TASKS[task][1]])
    assert differing_fields(f"task_specific/{task}.yaml", "us30k_stable.yaml") == {"datasets", "targets"}


def test_us30k_has_the_numbers_of_the_paper():
    run = read("us30k.yaml")
    assert (run.optimizer, run.learning_rate, run.schedule) == ("adam", 0.01, "step")
    assert (run.decay_every, run.decay_factor, run.epochs, run.batch_size) == (50, 0.1, 200, 32)
    assert (run.warmup_steps, run.max_grad_norm, run.weight_decay) == (0, 0.0, 0.0)
    config = model_config(run)
    assert (config.vaf_config.latent_dim, config.vaf_config.dropout, config.cnn_config.dropout) == (1024, 0.5, 0.5)


def test_the_stable_variant_differs_in_rate_warm_up_and_clipping_alone():
    changed = {"learning_rate", "warmup_steps", "max_grad_norm"}
    assert differing_fields("us30k_stable.yaml", "us30k.yaml") == changed

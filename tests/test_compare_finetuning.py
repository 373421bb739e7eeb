"""training/compare_finetuning.py: the folds, what is trained in them, and the table."""

import json
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ccsam_hf.data.cases import Case
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import simulate
from ccsam_hf.evaluation.metrics import SCORES
from ccsam_hf.evaluation.statistics import compare
from ccsam_hf.training.finetuning import settings_for
from ccsam_hf.training.run_config import RunConfig

TRAINING = Path(__file__).resolve().parents[1] / "training"
NUMBERS = ["--test-images", "4", "--validation-images", "2"]


class Pixels:
    """A mask that needs no file."""

    def __init__(self, value: bool):
        self.value = value

    def read(self) -> np.ndarray:
        return np.full((256, 256), self.value)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import compare_finetuning

    yield compare_finetuning
    sys.modules.pop("compare_finetuning", None)


@pytest.fixture
def cases() -> list[Case]:
    """28 benign and 28 malignant images, of which four show one lesion, and a normal one, as in the real cases."""
    found = [
        Case(
            f"{kind} ({i})",
            "breast lesion",
            Pixels(True),
            Pixels(True),
            "BUSI",
            category=kind,
            patient_id=f"{kind}{i}",
        )
        for kind in ("benign", "malignant")
        for i in range(28)
    ]
    found = [replace(case, patient_id="same") if case.name in SAME else case for case in found]
    return [
        *found,
        replace(found[0], name="normal (1)", mask_source=Pixels(False), patient_id=None, category="normal"),
    ]


SAME = {f"malignant ({i})" for i in (4, 6, 7, 8)}


@pytest.fixture(scope="module")
def busi(tmp_path_factory) -> Path:
    """Twelve lesions in BUSI's layout: malignant (2) is malignant (0) once more, and a normal one without object."""
    directory = tmp_path_factory.mktemp("data") / "BUSI"
    for kind in ("benign", "malignant", "normal"):
        (directory / kind).mkdir(parents=True)
    for seed in range(12):
        kind = "benign" if seed % 2 else "malignant"
        case = simulate("breast lesion", max(seed, 2) if kind == "malignant" else seed, (64, 64))
        Image.fromarray(case.image).save(directory / kind / f"{kind} ({seed}).png")
        Image.fromarray(case.mask).save(directory / kind / f"{kind} ({seed})_mask.png")
    Image.fromarray(case.image[::-1].copy()).save(directory / "normal" / "normal (1).png")
    Image.fromarray(np.zeros_like(case.image)).save(directory / "normal" / "normal (1)_mask.png")
    return directory


@pytest.fixture
def trained(script, monkeypatch) -> list:
    """Nothing is trained and every score is 50, or 60 after fine-tuning; keeps what was asked for."""
    asked = []

    def finetune(data, layout, model, output, seed, overrides):
        asked.append((output.name, layout, model, seed, overrides))
        run = RunConfig(**{"data": str(data), "layout": layout, "checkpoint": model} | settings_for(6) | overrides)
        for folder in (output, output.with_name(output.name + ".run") / "last"):
            folder.mkdir(parents=True)
        (output.with_name(output.name + ".run") / "run.yaml").write_text(yaml.safe_dump(asdict(run)))

    def rows_of(model, what, cases, prompts, fold):
        asked.append((model, what.partition(":")[0], [case.name for case in cases]))
        score = 60.0 if "fine-tuned" in model else 50.0
        head = {"data": f"fold {fold}", "draw": 0, "status": "ok", "model": model}
        head |= dict.fromkeys(SCORES, score) | dict.fromkeys((f"baseline_{each}" for each in SCORES), 40.0)
        about = [{name: getattr(case, name) for name in ("dataset", "name", "target", "patient_id")} for case in cases]
        return [head | of_case | {"prompt": prompt} for of_case in about for prompt in prompts]

    monkeypatch.setattr(script, "finetune", finetune)
    monkeypatch.setattr(script, "train_unet", asked.append)
    monkeypatch.setattr(script, "rows_of", rows_of)
    return asked


# --- folds -----------------------------------------------------------------------------------------------------------


def test_every_image_tests_once_or_twice_and_lesions_stay_together(script, cases):
    folds = script.folds_of(cases, 16, 8, seed=0)
    assert len(folds) == 5
    tested = Counter()
    for splits in folds:
        lists = {split: set(names) for split, names in splits.lists["BUSI"].items()}
        assert {split: len(names) for split, names in lists.items()} == {"train": 32, "validation": 8, "test": 16}
        assert len(set.union(*lists.values())) == 56 and splits.removed["BUSI"].keys() == {"normal (1)"}
        assert sum(SAME <= names for names in lists.values()) == 1
        for split, share in (("test", 8), ("validation", 4)):
            assert abs(sum(name.startswith("benign") for name in lists[split]) - share) <= 1
        tested.update(lists["test"])
    assert len(tested) == 56 and set(tested.values()) == {1, 2}
    assert not set(folds[0].lists["BUSI"]["test"]) & set(folds[1].lists["BUSI"]["test"])


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_cases(script, cases):
    assert script.folds_of(cases[::-1], 16, 8, seed=0) == script.folds_of(cases, 16, 8, seed=0)
    assert script.folds_of(cases, 16, 8, seed=1) != script.folds_of(cases, 16, 8, seed=0)


def test_splits_of_a_release_are_ignored(script, cases):
    placed = [replace(case, split="test") for case in cases]
    assert script.folds_of(placed, 16, 8, seed=0) == script.folds_of(cases, 16, 8, seed=0)


def test_a_lesion_that_does_not_fit_tests_first_in_the_next_fold(script):
    queue = [["a"], ["b", "c", "d"], ["e"], ["f"]]
    assert script.taken(queue, 3) == ([["a"], ["e"], ["f"]], [["b", "c", "d"]])
    assert script.taken(queue, 4) == ([["a"], ["b", "c", "d"]], [["e"], ["f"]])
    with pytest.raises(ValueError, match="do not add up to 2 images; choose other numbers"):
        script.taken([["a"], ["b", "c"]], 2)


def test_numbers_and_data_that_make_no_folds_are_refused(script, cases):
    with pytest.raises(ValueError, match="56 images leave none to train on beside 48 and 8"):
        script.folds_of(cases, 48, 8, seed=0)
    with pytest.raises(ValueError, match="of BUSI, UDIAT; expected one data set"):
        script.folds_of([*cases, replace(cases[0], dataset="UDIAT")], 16, 8, seed=0)


def test_images_that_the_audit_takes_for_one_picture_are_one_lesion(script, busi):
    cases = [case for case in read_cases(busi, "busi") if case.mask.any()]
    lesions = script.lesions_of(cases)
    assert lesions.pop("malignant (2)") == lesions.pop("malignant (0)") == "malignant (0)"
    assert all(name == lesion for name, lesion in lesions.items()) and len(lesions) == 10


def test_the_four_images_of_one_real_lesion_are_together(script, breast_ultrasound):
    cases = [case for case in read_cases(breast_ultrasound / "BUSI", "busi") if case.mask.any()]
    lesions = script.lesions_of(cases)
    assert {name for name, lesion in lesions.items() if lesion != name or name == min(SAME)} == SAME
    assert len(set(lesions.values())) == 53


# --- what is trained -------------------------------------------------------------------------------------------------


def test_the_unets_have_the_run_of_the_fine_tuning_but_for_start_steps_and_rate(
    script, busi, tmp_path, trained, capsys
):
    call = ["--data", str(busi), "--output", str(tmp_path), *NUMBERS, "--unet-steps", "900", "--unet", "some/unet"]
    script.main([*call, "--set", "mixed_precision=bf16", "--folds", "0"])
    runs = [each for each in trained if isinstance(each, RunConfig)]
    steps = settings_for(6)["max_steps"]
    assert [(run.checkpoint, run.max_steps, run.learning_rate) for run in runs] == [
        (None, steps, script.UNET_RATE),
        (None, 900, script.UNET_RATE),
        ("some/unet", steps, script.UNET_RATE),
    ]
    tuned = RunConfig(**yaml.safe_load((tmp_path / "comparison" / "fold-0" / "ccsam.run" / "run.yaml").read_text()))
    free = {name: getattr(tuned, name) for name in ("output_dir", "checkpoint", "max_steps", "learning_rate")}
    assert all(replace(run, **free) == tuned for run in runs) and tuned.mixed_precision == "bf16"

    built = read_cases(tmp_path / "comparison" / "fold-0" / "data", "built")
    of_split = {split: {case.name for case in built if case.split == split} for split in script.SPLITS}
    assert {split: len(names) for split, names in of_split.items()} == {"train": 6, "validation": 2, "test": 4}
    measured = [each for each in trained if isinstance(each, tuple) and isinstance(each[-1], list)]
    assert [each[1] for each in measured] == ["ccsam", "ccsam", "unet", "unet", "unet", "unet"]
    assert all(set(each[2]) == of_split["test"] for each in measured)

    trained.clear()
    script.main([*call, "--set", "mixed_precision=bf16", "--folds", "0"])  # a fold that is done is read
    assert trained == [] and capsys.readouterr().out.count("| box | CC-SAM, fine-tuned | 60.0 ± 0.0 |") == 2
    with pytest.raises(ValueError, match="holds results of other settings"):
        script.main([*call, "--folds", "0"])


def test_the_sweep_measures_every_setting_on_the_images_that_validate(script, busi, tmp_path, trained):
    script.main(["--data", str(busi), "--output", str(tmp_path), *NUMBERS, "--sweep", "--folds", "1", "3"])
    overrides = [each[-1] for each in trained if isinstance(each[-1], dict)]
    assert overrides == [*script.SWEEP.values()] * 2
    splits = json.loads((tmp_path / "sweep.json").read_text())["folds"]
    measured = [each[-1] for each in trained if isinstance(each[-1], list)]
    each_fold = 1 + len(script.SWEEP)
    for fold, names in zip([1] * each_fold + [3] * each_fold, measured, strict=True):
        assert sorted(names) == splits[fold]["lists"]["BUSI"]["validation"]
    assert not list((tmp_path / "sweep").glob("fold-*/*/ccsam*"))
    assert (tmp_path / "sweep.md").read_text().count("| point | lora") == 3


# --- what is told ----------------------------------------------------------------------------------------------------


def test_the_table_has_means_of_folds_and_the_gain_of_lesions(script, rng):
    rows = [
        {"data": f"fold {fold}", "dataset": "BUSI", "name": f"{fold}-{i}", "target": "breast lesion", "draw": 0}
        | {"patient_id": f"{fold}-{i}", "status": "ok", "model": model, "prompt": "box"}
        | {score: float(rng.uniform(50, 90)) for score in (*SCORES, *(f"baseline_{each}" for each in SCORES))}
        for model in (script.BEFORE, script.AFTER)
        for fold in range(2)
        for i in range(3)
    ]
    before, after, blind = lines = script.lines_of(rows)
    assert [line["model"] for line in lines] == [script.BEFORE, script.AFTER, "ellipse (blind)"]
    own = np.array([row["dice"] for row in rows[6:]]).reshape(2, 3).mean(1)
    assert after["n"] == 6 and list(after["dice"]["folds"].values()) == pytest.approx(own)
    assert (after["dice"]["mean"], after["dice"]["std"]) == pytest.approx((own.mean(), own.std(ddof=1)))
    assert after["gain"] == compare(rows[:6], rows[6:], "dice") and "gain" not in before
    assert blind["dice"]["mean"] == pytest.approx(np.mean([row["baseline_dice"] for row in rows[:6]]))
    gain = after["gain"]
    cells = f"{gain['difference']:+.1f} [{gain['ci95'][0]:+.1f}, {gain['ci95'][1]:+.1f}]"
    assert f"| box | CC-SAM, fine-tuned | {own.mean():.1f} ± {own.std(ddof=1):.1f} | {cells} |" in script.table(lines)

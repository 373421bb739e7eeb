"""training/split_real.py: what belongs together stays together, and the committed lists fit the data sets."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import cca, list_cases, read_cases
from ccsam_hf.data.simulator import simulate
from ccsam_hf.data.splits import Splits

TRAINING = Path(__file__).resolve().parents[1] / "training"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("split_real", TRAINING / "split_real.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lists() -> dict[str, dict[str, list[str]]]:
    return Splits.load(TRAINING / "splits" / "real.json").lists


def write_busi(directory: Path) -> None:
    """Four images: one, the same brighter, the same again, and another one."""
    one, other = (simulate("breast lesion", seed, (128, 160)) for seed in (1, 2))
    brighter = replace(one, image=np.clip(one.image.astype(int) + 20, 0, 255).astype(np.uint8))
    (directory / "benign").mkdir(parents=True)
    for number, case in enumerate((one, brighter, one, other)):
        Image.fromarray(case.image).save(directory / "benign" / f"benign ({number}).png")
        Image.fromarray(case.mask).save(directory / "benign" / f"benign ({number})_mask.png")


def test_images_of_one_picture_share_a_group(script, tmp_path):
    write_busi(tmp_path)
    cases = script.group_by_picture(read_cases(tmp_path, "busi"))
    groups = {case.name: case.patient_id for case in cases}
    assert groups["benign (0)"] == groups["benign (1)"] == groups["benign (2)"] != groups["benign (3)"]


def test_the_committed_lists_have_what_tests_alone_and_divide_no_examination(lists):
    sizes = {name: {split: len(names) for split, names in of_set.items()} for name, of_set in lists.items()}
    assert sizes["DDTI"]["train"] == sizes["NERVE"]["train"] == 0
    assert all(sizes[name]["train"] > sizes[name]["test"] > 0 for name in ("BUSI", "HC18", "CCA", "CAMUS"))
    people = cca.people_of(name.split("_")[0] for names in lists["CCA"].values() for name in names)
    for name, group_of in (
        ("HC18", lambda name: name[:3]),
        ("CAMUS", lambda name: name[:11]),
        ("CCA", lambda name: people[name.split("_")[0]]),
    ):
        split_of_group: dict[str, str] = {}
        for split, names in lists[name].items():
            assert {split_of_group.setdefault(group_of(each), split) for each in names} <= {split}


def test_the_committed_lists_name_every_image_of_the_real_sets(script, lists, real_ultrasound):
    for name, layout in script.LAYOUT_OF_SET.items():
        images = {case.name for case in list_cases(real_ultrasound / name, layout)[0]}
        listed = Counter(image for names in lists[name].values() for image in names)
        assert set(listed) == images and max(listed.values()) == 1, name

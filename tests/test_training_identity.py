"""The hash of what a run trains on changes with images, masks and splits, and not with how samples are drawn."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.prompts import FIXED_PROMPTS, TRAINING_PROMPTS
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.samples import Samples
from ccsam_hf.training.identity import check_data, hash_samples, identify_samples
from ccsam_hf.training.inputs import SimulatedSamples
from ccsam_hf.training.mixture import MixedSamples, store_image


@pytest.fixture
def cases(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for name in "abc":
            Image.fromarray(mask).save(tmp_path / "data" / kind / f"{name}.png")
    return read_cases(tmp_path / "data", "folder")


def test_cases_and_their_splits_decide_the_hash(cases):
    before = hash_samples(Samples(cases, TRAINING_PROMPTS))
    assert hash_samples(Samples(cases, FIXED_PROMPTS, seed=3)) == before
    assert hash_samples(Samples(cases[:2])) != before
    in_test = [dataclasses.replace(cases[0], split="test"), *cases[1:]]
    assert hash_samples(Samples(in_test)) != before


def test_rows_of_a_built_data_set_decide_the_hash():
    datasets = pytest.importorskip("datasets")
    rows = {"image": [b"one", b"two"], "mask": [b"three", b"four"], "mask_area": [3, 4]}
    rows |= {"name": ["a", "b"], "target": ["lesion"] * 2, "dataset": ["some"] * 2}

    def hash_of(**changes):
        return hash_samples(Samples(datasets.Dataset.from_dict(rows | changes)))

    assert hash_of() == hash_of()
    seen = {hash_of(), hash_of(mask=[b"three", b"five"]), hash_of(mask_area=[0, 4]), hash_of(name=["a", "c"])}
    assert len(seen) == 4


def test_images_of_a_mixture_and_seeds_of_the_simulator_decide_the_hash():
    image, mask = np.full((40, 40), 7, np.uint8), np.eye(40, dtype=bool)
    first, other = store_image(image, [mask], ["lesion"]), store_image(image, [mask.T ^ True], ["lesion"])
    mixtures = [MixedSamples({"real": images}, {"real": 1.0}, 5) for images in ([first], [first], [other])]
    one, same, changed = map(hash_samples, mixtures)
    assert one == same != changed
    simulated = [SimulatedSamples(4, seed, {"breast lesion": 1.0}, FIXED_PROMPTS) for seed in (0, 0, 1)]
    assert hash_samples(simulated[0]) == hash_samples(simulated[1]) != hash_samples(simulated[2])


def test_a_run_on_other_data_is_refused_and_one_without_the_file_goes_on(cases, tmp_path):
    before = identify_samples(Samples(cases[:2]), Samples(cases[2:]))
    now = identify_samples(Samples(cases[:1]), Samples(cases[1:]))
    (tmp_path / "run").mkdir()
    check_data(tmp_path / "run", before, is_main_process=False)
    assert list((tmp_path / "run").iterdir()) == []
    for _ in range(2):
        check_data(tmp_path / "run", before, is_main_process=True)
    with pytest.raises(
        FileExistsError, match="training/samples: 2 before, 1 now; training/sha256: .*another output_dir"
    ):
        check_data(tmp_path / "run", now, is_main_process=True)

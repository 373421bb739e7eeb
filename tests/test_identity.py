"""Hashes of weights and cases change with their content and with nothing else."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ccsam_hf.data.readers import read_cases
from ccsam_hf.identity import describe_differences, find_versions, hash_cases, hash_file, hash_weights


@pytest.fixture
def folder(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for name, value in (("a", 3), ("b", 5)):
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / "data" / kind / f"{name}.png")
    return tmp_path / "data"


def test_the_hash_of_cases_is_that_of_their_content_wherever_it_lies(folder, tmp_path):
    before = hash_cases(read_cases(folder, "folder"))
    shutil.copytree(folder, tmp_path / "elsewhere" / "data")
    assert hash_cases(read_cases(tmp_path / "elsewhere" / "data", "folder")) == before
    assert hash_cases(read_cases(folder, "folder")[:1]) != before


def test_the_hash_of_cases_changes_with_masks_targets_and_added_images(folder):
    seen = [hash_cases(read_cases(folder, "folder"))]
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(folder / "masks" / "a.png")
    seen.append(hash_cases(read_cases(folder, "folder")))
    (folder / "cases.csv").write_text("name,target\na,kidney\n")
    seen.append(hash_cases(read_cases(folder, "folder")))
    for kind in ("images", "masks"):
        shutil.copy(folder / kind / "b.png", folder / kind / "c.png")
    seen.append(hash_cases(read_cases(folder, "folder")))
    assert len(set(seen)) == len(seen)


def test_the_hash_of_weights_changes_with_a_value_and_a_name():
    one, same, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2))
    same.load_state_dict(one.state_dict())
    other[0].load_state_dict(one.state_dict())
    assert hash_weights(one) == hash_weights(same) != hash_weights(other)
    with torch.no_grad():
        same.bias[0] += 1
    assert hash_weights(one) != hash_weights(same)
    assert hash_weights(one.bfloat16()) != hash_weights(one.float())


def test_differences_name_what_differs_and_shorten_hashes(folder):
    before = {"draws": 1, "data": [{"name": "x", "sha256": "a" * 64}], "same": None}
    now = {"draws": 3, "data": [{"name": "x", "sha256": "b" * 64}, {"name": "y"}], "same": None}
    assert describe_differences(before, before) == ""
    assert describe_differences(before, now) == (
        "draws: 1 before, 3 now; data/0/sha256: aaaaaaaaaaaa before, bbbbbbbbbbbb now; "
        "data/1/name: None before, 'y' now"
    )
    assert find_versions(["torch", "no-such-thing"])["no-such-thing"] == "not installed"
    assert len(hash_file(folder / "masks" / "a.png")) == 64

"""training/grounding_scenes.py: scenes are the same every time, apart by split, and say what is absent."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import TARGETS as SIMULATED_TARGETS
from ccsam_hf.data.simulator import simulate, write_folder
from ccsam_hf.data.splits import Splits
from ccsam_hf.evaluation.grounding import Scene
from ccsam_hf.training import grounding_scenes
from ccsam_hf.training.grounding_run import GrounderRun
from ccsam_hf.training.grounding_scenes import (
    FolderScenes,
    MixedScenes,
    SimulatedScenes,
    StoredScene,
    build_scenes,
    move_scene,
    store_scene,
)
from ccsam_hf.training.run_config import read_config

TRAINING = Path(__file__).resolve().parents[1] / "training"
TINY = TRAINING / "configs" / "tiny_grounder.yaml"


def test_simulated_scenes_are_the_same_every_time():
    weights = GrounderRun().scene_weights
    for index in range(3):
        (first, seed), (second, same_seed) = (SimulatedScenes(4, 5, weights)[index] for _ in range(2))
        assert seed == same_seed == 5 + index
        assert (first.name, first.absent, list(first.boxes)) == (second.name, second.absent, list(second.boxes))
        assert np.array_equal(first.image, second.image)
        assert all(np.array_equal(first.boxes[target], second.boxes[target]) for target in first.boxes)
    same_scene, _ = SimulatedScenes(9, 0, weights)[7]  # by its seed, not by its place
    assert np.array_equal(first.image, same_scene.image)


def test_boxes_of_scenes_are_the_tight_boxes_of_their_masks(monkeypatch):
    cases = []
    monkeypatch.setattr(grounding_scenes, "simulate", lambda *request: cases.append(simulate(*request)) or cases[-1])
    scenes = SimulatedScenes(12, 0, GrounderRun().scene_weights)
    structures = 0
    for scene, _ in (scenes[index] for index in range(12)):
        masks = cases[-1].masks
        assert set(scene.boxes) <= set(masks) and not set(masks) & set(scene.absent)
        assert set(masks) | set(scene.absent) == set(SIMULATED_TARGETS)
        for target, box in scene.boxes.items():
            rows, columns = np.nonzero(masks[target])
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            structures += 1
    assert structures > 12  # scenes with several among them


def test_training_validation_and_test_scenes_are_apart(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import evaluate_grounder

    sys.modules.pop("evaluate_grounder")
    run = read_config(GrounderRun, ["--config", str(TINY)])
    training, validation, _ = build_scenes(run)
    first = [scenes.first_seed for scenes in (training, validation)] + [evaluate_grounder.TEST_SEEDS]
    assert len(training) == run.max_steps * run.batch_size and len(validation) == run.eval_scenes
    assert first[0] + len(training) <= first[1] and first[1] + len(validation) <= first[2]


def test_scenes_come_by_their_weights():
    scenes = SimulatedScenes(30, 0, {"thyroid gland": 0, "breast lesion": 1})
    assert {scenes[index][0].name.rsplit(" ", 1)[0] for index in range(30)} == {"breast lesion"}


@pytest.mark.parametrize(("count", "empty", "missing"), [(1, False, "validate with"), (10, True, "train on")])
def test_a_folder_that_leaves_no_object_to_a_part_is_refused(tmp_path, count, empty, missing):
    write_folder(tmp_path / "data", count=count, seed=0, targets=("breast lesion",), size=(64, 64))
    for path in (tmp_path / "data" / "masks").iterdir() if empty else ():
        Image.new("L", (64, 64)).save(path)
    with pytest.raises(ValueError, match=f"leaves . cases to {missing}, and none has an object"):
        build_scenes(GrounderRun(data=str(tmp_path / "data")))


def test_a_folder_counts_only_targets_of_other_organs_as_absent():
    targets = ["breast lesion", "left ventricle", "left atrium", "something else"]
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:20, 10:30] = True
    heart = SimpleNamespace(name="heart", target="left ventricle", image=mask.astype(np.uint8), mask=mask)
    empty = SimpleNamespace(name="empty", target="left atrium", image=heart.image, mask=mask & False)
    scenes = FolderScenes([heart, empty], targets, 2, 0, shuffled=False)
    assert scenes[0][0].absent == ("breast lesion",) and list(scenes[0][0].boxes) == ["left ventricle"]
    assert scenes[1][0].absent == ("breast lesion", "left atrium") and scenes[1][0].boxes == {}


# --- several sources -------------------------------------------------------------------------------------------------


def square(place: int, targets=("left atrium",)) -> StoredScene:
    """A scene with a square of 12 pixels for its targets."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:32, place : place + 12] = True
    return StoredScene("square", 200 * mask.astype(np.uint8), {target: mask for target in targets}, ("breast lesion",))


def test_boxes_move_with_the_image_and_what_leaves_the_frame_is_absent(rng):
    seen = {"present": 0, "absent": 0, "neither": 0}
    for _ in range(300):
        scene = move_scene(square(26), 32, rng)
        rows, columns = np.nonzero(scene.image > 100)
        if "left atrium" in scene.boxes:
            seen["present"] += 1
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(scene.boxes["left atrium"], edges, atol=1)
            assert scene.absent == ("breast lesion",)
        elif scene.absent == ("breast lesion", "left atrium"):
            seen["absent"] += 1
            assert len(rows) < 0.2 * 36 * 9
        else:
            seen["neither"] += 1
    assert seen["present"] > 200 and seen["absent"] > 0


def test_a_left_structure_is_never_mirrored_and_others_are(rng):
    def sides(target: str) -> set[bool]:
        scenes = [move_scene(square(4, (target,)), 64, rng) for _ in range(60)]
        centres = [scene.boxes[target][[0, 2]].mean() for scene in scenes if target in scene.boxes]
        return {bool(centre > 44) for centre in centres if abs(centre - 32) > 12}

    assert sides("left atrium") == {False} and sides("fetal head") == {False, True}


def test_mixed_scenes_come_by_weight_and_are_the_same_every_time():
    sources = {"one": [square(10)], "other": [square(30)], "never": [square(40)]}
    scenes = MixedScenes(sources, {"one": 3, "other": 1, "never": 0}, 400, 32, seed=5)
    names = [scenes[index][0].name for index in range(400)]
    assert set(names) == {"one/square", "other/square"}
    assert names.count("one/square") / 400 == pytest.approx(0.75, abs=0.06)
    (first, seed), (again, _) = scenes[7], scenes[7]
    assert seed == 7 and np.array_equal(first.image, again.image) and first.image.shape == (32, 32)
    assert not np.array_equal(first.image, scenes[8][0].image)


def test_a_stored_scene_keeps_its_structures_and_what_is_absent():
    mask = np.zeros((40, 80), dtype=bool)
    mask[10:30, 20:60] = True
    image = np.full((40, 80), 77, dtype=np.uint8)
    scene = Scene("a", image, {"fetal head": [20, 10, 60, 30]}, ("left atrium",), {"fetal head": mask})
    stored = store_scene(scene, 20)
    assert stored.image.shape == (20, 20) and (stored.image == 77).all() and stored.absent == ("left atrium",)
    expected = np.zeros((20, 20), dtype=bool)
    expected[5:15, 5:15] = True
    assert np.array_equal(stored.masks["fetal head"], expected)


def make_sources(folder: Path) -> dict:
    """Two folders of simulated cases with lists of their images, as fields of a run."""
    lists = {}
    for name, target in (("lesions", "breast lesion"), ("glands", "thyroid gland")):
        write_folder(folder / name, count=4, seed=0, targets=(target,), size=(64, 72))
        names = sorted({case.name for case in read_cases(folder / name, "folder")})
        lists[name] = {"train": names[:2], "validation": names[2:3], "test": names[3:]}
    Splits("by hand", 0, lists).save(folder / "splits.json")
    return {
        "data": "mixture",
        "root": str(folder),
        "splits": str(folder / "splits.json"),
        "sources": {"lesions": {"weight": 2}, "glands": {"weight": 1}, "simulator": {"weight": 1, "cases": 3}},
    }


def test_sources_are_divided_by_the_lists_and_each_has_its_share_of_validation(tmp_path):
    run = GrounderRun(**make_sources(tmp_path), stored_size=64, image_size=32, eval_scenes=2, max_steps=3)
    training, validation, targets = build_scenes(run)
    assert targets == sorted(SIMULATED_TARGETS)
    assert {name: len(scenes) for name, scenes in training.sources.items()} == {
        "lesions": 2,
        "glands": 2,
        "simulator": 3,
    }
    assert len(validation) == 1 + 1 + 2 and len(training) == 3 * run.batch_size
    lesion, gland = validation[0][0], validation[1][0]
    assert list(lesion.boxes) == ["breast lesion"] and "left atrium" in lesion.absent
    assert "thyroid nodule" not in (*gland.boxes, *gland.absent)  # nobody looked for nodules in the gland


def test_sources_without_weight_or_lists_are_refused(tmp_path):
    fields = make_sources(tmp_path)
    for wrong, message in (
        ({"sources": {"lesions": {}}}, "expected sources, each with a weight"),
        ({"sources": {}}, "expected sources, each with a weight"),
        ({"splits": None}, r"\['lesions', 'glands'\] have no splits"),
    ):
        with pytest.raises(ValueError, match=message):
            build_scenes(GrounderRun(**fields | wrong))

"""training/grounding_questions.py: what is asked for in a scene, and labels that point at it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from ccsam_hf.data.simulator import TARGETS as SIMULATED_TARGETS
from ccsam_hf.descriptions import TARGETS
from ccsam_hf.evaluation.grounding import Scene
from ccsam_hf.geometry import boxes_from_unit
from ccsam_hf.training.grounding_model import build_grounder
from ccsam_hf.training.grounding_questions import Questions, draw_targets
from ccsam_hf.training.grounding_run import GrounderRun
from ccsam_hf.training.grounding_scenes import SimulatedScenes
from small_grounder import SMALL_DETECTOR, SMALL_TEXT

ARCHITECTURE = {**SMALL_DETECTOR, "text_config": SMALL_TEXT}
HEART = ("left ventricle", "myocardium", "left atrium")
OTHERS = ("breast lesion", "thyroid nodule", "thyroid gland")


def flat_scene(present: tuple[str, ...], absent: tuple[str, ...]) -> Scene:
    boxes = {target: np.array([10, 20, 30 + index, 60], dtype=np.float32) for index, target in enumerate(present)}
    return Scene("flat", np.full((80, 100), 90, dtype=np.uint8), boxes, absent)


def test_present_and_absent_targets_are_asked_for(rng):
    drawn = Counter(draw_targets(flat_scene(HEART, OTHERS), 1, rng)[0] for _ in range(2000))
    assert set(drawn) == {*HEART, *OTHERS}
    assert sum(drawn[target] for target in HEART) / 2000 == pytest.approx(0.6, abs=0.04)


def test_no_target_is_asked_for_twice_while_there_are_others_of_its_kind(rng):
    for _ in range(200):
        asked = draw_targets(flat_scene(HEART, OTHERS), 3, rng)
        assert len(asked) == len(set(asked)) == 3
    lone = [Counter(draw_targets(flat_scene(HEART[:1], ()), 3, rng)) for _ in range(5)]
    assert lone == [{"left ventricle": 3}] * 5


def test_a_target_that_was_looked_for_and_is_not_there_is_asked_for_more_often(rng):
    normal = flat_scene((), OTHERS)
    normal = replace(normal, masks={"breast lesion": np.zeros((80, 100), dtype=bool)})
    drawn = Counter(draw_targets(normal, 1, rng)[0] for _ in range(2000))
    assert drawn["breast lesion"] / 2000 == pytest.approx(1 / 2 + 1 / 2 / 3, abs=0.04)


def test_with_nothing_present_an_absent_target_is_asked_for_and_the_reverse(rng):
    for _ in range(20):
        assert draw_targets(flat_scene((), OTHERS), 1, rng)[0] in OTHERS
        assert draw_targets(flat_scene(HEART, ()), 1, rng)[0] in HEART


@pytest.mark.parametrize("description_share", [0.0, 1.0])
def test_labels_point_at_the_phrases_and_boxes_of_their_targets(description_share):
    run = GrounderRun(architecture=ARCHITECTURE, image_size=64)
    questions = Questions(build_grounder(run), description_share)
    tokenizer = questions.grounder.processor.tokenizer
    dataset = SimulatedScenes(24, 0, run.scene_weights, (64, 64))
    scenes = [dataset[index] for index in range(24)]
    inputs, labels = questions(scenes)
    assert inputs["pixel_values"].shape == (24, 3, 64, 64)
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


def test_a_batch_is_the_same_every_time_and_has_one_form():
    run = GrounderRun(architecture=ARCHITECTURE, image_size=64)
    questions = Questions(build_grounder(run), 0.5)
    dataset = SimulatedScenes(12, 0, run.scene_weights)
    lengths = []
    for index in range(0, 12, 2):
        scenes = [dataset[index], dataset[index + 1]]
        (first, _), (second, _) = questions(scenes), questions(scenes)
        assert all(torch.equal(first[name], second[name]) for name in first)
        are_long = first["attention_mask"].sum(1) > 60
        assert are_long.all() or not are_long.any()
        lengths.append(bool(are_long[0]))
    assert set(lengths) == {True, False}


def test_several_texts_share_an_image_and_masks_come_with_their_targets():
    grounder = build_grounder(GrounderRun(architecture=ARCHITECTURE, image_size=64))
    scenes = [flat_scene(HEART, OTHERS), flat_scene(("breast lesion",), HEART)]
    mask = np.zeros((80, 100), dtype=bool)
    mask[:40, :50] = True
    scenes = [replace(scene, masks={next(iter(scene.boxes)): mask}) for scene in scenes]
    inputs, labels = Questions(grounder, 0.0, 3, ("left ventricle", "breast lesion"))(
        [(scene, seed) for seed, scene in enumerate(scenes)]
    )
    assert inputs["pixel_values"].shape == (2, 3, 64, 64) and len(inputs["input_ids"]) == len(labels) == 6
    assert inputs["masks"].shape == (2, 2, 8, 8)
    assert inputs["masks"][0, 0, :4, :4].min() == 1 and inputs["masks"][0, 0].mean() == 0.25
    assert not inputs["masks"][0, 1].any() and not inputs["masks"][1, 0].any() and inputs["masks"][1, 1].any()

"""Samples of several sources: what they hold, that they are reproducible, and how objects are asked for."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ccsam_hf.data.simulator import simulate
from ccsam_hf.training.mixture import STORED_SIZE, MixedSamples, draw_box, draw_click, move_image, store_image


@pytest.fixture(scope="module")
def sources():
    heart, breast = simulate("left ventricle", 0), simulate("breast lesion", 1)
    return {
        "heart": [store_image(heart.image, list(heart.masks.values()), list(heart.masks))],
        "breast": [store_image(breast.image, [breast.mask], ["breast lesion"])],
    }


def samples_of(sources, **options):
    return MixedSamples(sources, dict.fromkeys(sources, 1.0), count=100, **options)


def test_a_sample_holds_objects_each_with_a_box_or_a_click(sources):
    samples = samples_of(sources)
    for index in range(12):
        sample = samples[index]
        assert sample["pixel_values"].shape == (3, 256, 256) and 0 <= sample["pixel_values"].min()
        assert sample["labels"].shape == (4, 256, 256) and sample["labels"].flatten(1).sum(1).min() >= 40
        for mask, box, point, label in zip(
            sample["labels"], sample["input_boxes"], sample["input_points"], sample["input_labels"], strict=True
        ):
            has_box, has_point = bool(box[0] >= 0), int(label[0]) == 1
            assert has_box != has_point
            if has_point:
                x, y = point[0].long().tolist()
                assert mask[y, x] == 1


def test_an_index_gives_the_same_sample_in_any_worker(sources):
    samples = samples_of(sources)
    alone = [samples[index] for index in range(4)]
    loaded = next(iter(DataLoader(samples, batch_size=4, num_workers=1)))
    for key in ("pixel_values", "labels", "input_boxes", "input_points"):
        assert torch.equal(torch.stack([sample[key] for sample in alone]), loaded[key])
    assert not torch.equal(samples_of(sources, seed=1)[0]["pixel_values"], alone[0]["pixel_values"])


def test_sources_are_drawn_by_weight(sources):
    samples = MixedSamples(sources, {"heart": 3.0, "breast": 1.0}, count=100, class_free=0)
    names = [samples[index]["name"].split("/")[0] for index in range(40)]
    assert 0.55 < np.mean([name == "heart" for name in names]) < 0.9


def test_an_image_without_an_object_lends_its_texture_and_is_never_a_sample_by_itself(sources):
    empty = store_image(np.full((200, 300), 90, np.uint8), [], [])
    samples = MixedSamples(
        {"empty": [empty], **sources}, {"empty": 5.0, "heart": 1.0, "breast": 1.0}, 100, class_free=0
    )
    assert all(not samples[index]["name"].startswith("empty") for index in range(10))
    with pytest.raises(ValueError, match="had no object; expected masks"):
        MixedSamples({"empty": [empty]}, {"empty": 1.0}, 10, class_free=0)[0]


def test_image_and_masks_move_together(sources):
    stored = sources["heart"][0]
    drawn = np.zeros((STORED_SIZE, STORED_SIZE), np.uint8)
    drawn[stored.objects & 1 > 0] = 255
    marked = type(stored)(drawn, stored.objects, stored.targets)
    for seed in range(10):
        image, masks = move_image(marked, np.random.default_rng(seed))
        assert ((image > 0.5) != masks[0]).mean() < 0.02


def test_boxes_are_edges_and_err_by_a_tenth_at_most(rng):
    mask = np.zeros((256, 256), bool)
    mask[50:150, 100:120] = True
    boxes = np.array([draw_box(mask, rng) for _ in range(200)])
    tight = np.array([100, 50, 120, 150])
    assert 0.3 < (boxes == tight).all(1).mean() < 0.7
    assert (np.abs(boxes - tight) <= [2, 10, 2, 10]).all()


def test_clicks_lie_on_a_ring_and_not_in_its_hole(rng):
    y, x = np.mgrid[:256, :256] - 128
    ring = (np.hypot(x, y) < 60) & (np.hypot(x, y) > 45)
    for _ in range(50):
        column, row = draw_click(ring, rng).astype(int)
        assert ring[row, column]


def test_more_than_eight_objects_are_refused():
    mask = np.ones((20, 20), bool)
    with pytest.raises(ValueError, match="9 objects; expected at most 8"):
        store_image(np.zeros((20, 20), np.uint8), [mask] * 9, ["object"] * 9)

"""Of what a model marked, the object that the prompt means stays: one part, without small holes, within its box."""

import numpy as np
import pytest

from ccsam_hf.objects import clean_mask, count_parts, follow_mask, limit_of


@pytest.fixture
def marked() -> np.ndarray:
    """A square of 20x20 with a hole of 2x2, a bar of 10x38 below it, and a speck."""
    mask = np.zeros((80, 100), dtype=bool)
    mask[10:30, 10:30] = True
    mask[18:20, 18:20] = False
    mask[50:60, 10:48] = True
    mask[2, 90] = True
    return mask


def extent(mask: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_the_part_under_the_first_positive_click_stays_else_most_in_the_box_else_the_largest(marked):
    assert count_parts(marked) == 3
    assert extent(clean_mask(marked)) == (10, 10, 30, 30)  # 396 pixels against 380
    assert clean_mask(marked).sum() == 400
    assert extent(clean_mask(marked, points=[[90.5, 2], [12, 12]], labels=[1, 1])) == (90, 2, 91, 3)
    assert extent(clean_mask(marked, points=[[12, 12], [20, 55]], labels=[0, 1])) == (10, 50, 48, 60)
    assert extent(clean_mask(marked, points=[[70, 70]], labels=[1])) == (10, 10, 30, 30)  # nothing under the click
    assert extent(clean_mask(marked, box=[0, 40, 60, 70])) == (10, 50, 48, 60)
    assert extent(clean_mask(marked, box=[0, 25, 100, 56])) == (10, 50, 48, 57)


def test_parts_that_touch_at_a_corner_are_one():
    mask = np.zeros((8, 8), dtype=bool)
    mask[1:3, 1:3] = mask[3:5, 3:5] = True
    assert count_parts(mask) == 1 and np.array_equal(clean_mask(mask), mask)


def test_small_holes_are_filled_large_ones_and_those_under_a_negative_click_are_not(marked):
    assert clean_mask(marked)[18:20, 18:20].all()
    assert not clean_mask(marked, points=[[18.5, 19]], labels=[0])[18:20, 18:20].any()
    ring = np.zeros((40, 40), dtype=bool)
    ring[5:35, 5:35] = True
    ring[15:25, 15:25] = False
    assert np.array_equal(clean_mask(ring), ring)


def test_keep_all_keeps_parts_and_holes_but_not_what_lies_far_outside_a_box(marked):
    assert np.array_equal(clean_mask(marked, keep="all"), marked)
    within = clean_mask(marked, box=[0, 0, 60, 80], keep="all")
    assert count_parts(within) == 2 and not within[2, 90]
    with pytest.raises(ValueError, match="keep='one' was given; expected 'largest'"):
        clean_mask(marked, keep="one")


def test_an_empty_mask_stays_empty():
    assert not clean_mask(np.zeros((5, 6), dtype=bool), box=[1, 1, 3, 3], points=[[2, 2]], labels=[1]).any()


def test_the_limit_of_a_box_is_a_twentieth_on_each_side_and_at_least_the_pixels_that_it_touches():
    assert limit_of((50, 50)) is None
    assert extent(limit_of((100, 100), [20, 20, 60, 80])) == (18, 17, 62, 83)
    assert extent(limit_of((100, 100), [20, 20, 59, 79])) == (19, 18, 60, 81)  # whole pixels only
    assert extent(limit_of((100, 100), [20.4, 30, 20.6, 31])) == (20, 30, 21, 31)
    assert extent(limit_of((100, 100), [0, 0, 100, 100])) == (0, 0, 100, 100)
    assert extent(limit_of((100, 100), [20, 20, 40, 40], [[70.5, 30], [5, 5]], [1, 0])) == (18, 19, 73, 41)


def test_the_probability_agrees_with_the_mask_at_its_threshold(rng):
    for threshold in (0.5, 0.3):
        probability = rng.random((40, 50), dtype=np.float32)
        marked = probability > threshold
        mask = clean_mask(marked)
        changed = follow_mask(probability, marked, mask, threshold)
        assert np.array_equal(changed > np.float32(threshold), mask) and changed.dtype == np.float32
        assert np.array_equal(changed[marked == mask], probability[marked == mask])

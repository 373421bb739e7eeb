"""Prompts drawn from masks: the protocol's click and box, and the random ones of training."""

import numpy as np
import pytest

from ccsam_hf.data.prompts import fixed_click, jittered_box, random_clicks, tight_box


def ring(size: int = 41) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    distance = np.hypot(rows - 20, columns - 18)
    return (distance < 15) & (distance > 10)


def single_pixel(row: int, column: int, size: tuple[int, int] = (12, 20)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[row, column] = True
    return mask


def test_fixed_click_is_the_middle_pixel_in_row_major_order():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2:5] = mask[3, 1] = True  # pixels in order: (2, 1), (3, 1), (4, 1), (1, 3); index 4 // 2 is (4, 1)
    assert fixed_click(mask).tolist() == [4, 1]
    mask[3, 1] = False  # three pixels: index 1
    assert fixed_click(mask).tolist() == [3, 1]


def test_every_click_lies_on_the_object():
    mask = ring()
    x, y = fixed_click(mask).astype(int)
    assert mask[y, x]
    clicks = random_clicks(mask, 200, np.random.default_rng(0)).astype(int)
    assert clicks.shape == (200, 2)
    assert mask[clicks[:, 1], clicks[:, 0]].all()
    assert len(np.unique(clicks, axis=0)) > 100


def test_the_generator_alone_decides_the_draw():
    mask = ring()
    for draw in (lambda rng: random_clicks(mask, 5, rng), lambda rng: jittered_box(mask, rng)):
        assert np.array_equal(draw(np.random.default_rng(3)), draw(np.random.default_rng(3)))
        assert not np.array_equal(draw(np.random.default_rng(3)), draw(np.random.default_rng(4)))


def test_tight_box_holds_the_first_and_last_index_inclusively():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 7:19] = True
    assert tight_box(mask).tolist() == [7, 4, 18, 8]
    assert tight_box(single_pixel(11, 19)).tolist() == [19, 11, 19, 11]


def test_jittered_box_moves_each_side_by_at_most_the_fraction():
    mask = np.zeros((200, 300), dtype=bool)
    mask[50:90, 100:200] = True
    rng = np.random.default_rng(0)
    moves = np.array([jittered_box(mask, rng, fraction=0.1) - tight_box(mask) for _ in range(500)])
    reach = np.array([10, 4, 10, 4])
    assert (np.abs(moves) <= reach + 1e-4).all()
    assert (np.abs(moves).max(axis=0) > 0.9 * reach).all()
    assert np.array_equal(jittered_box(mask, rng, fraction=0.0), tight_box(mask))


@pytest.mark.parametrize(
    "mask",
    [
        single_pixel(0, 0),
        single_pixel(11, 19),
        single_pixel(5, 19),
        np.ones((12, 20), dtype=bool),
        np.ones((1, 1), dtype=bool),
        np.eye(12, 20, dtype=bool),
    ],
)
def test_jittered_box_stays_in_the_frame_and_keeps_an_area(mask):
    rng = np.random.default_rng(0)
    height, width = mask.shape
    for _ in range(100):
        x0, y0, x1, y1 = jittered_box(mask, rng, fraction=0.4)
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert x1 - x0 >= 0.99 and y1 - y0 >= 0.99


@pytest.mark.parametrize(
    "prompt",
    [
        fixed_click,
        tight_box,
        lambda mask: random_clicks(mask, 1, np.random.default_rng(0)),
        lambda mask: jittered_box(mask, np.random.default_rng(0)),
    ],
)
def test_masks_without_an_object_are_refused(prompt):
    with pytest.raises(ValueError, match=r"mask of size \(4, 5\) is empty"):
        prompt(np.zeros((4, 5), dtype=bool))
    with pytest.raises(ValueError, match=r"mask has shape \(1, 4, 5\)"):
        prompt(np.ones((1, 4, 5), dtype=bool))
    with pytest.raises(TypeError, match="mask is an array of uint8; expected a numpy bool array"):
        prompt(np.ones((4, 5), dtype=np.uint8))


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="count is 0; expected at least 1"):
        random_clicks(ring(), 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"fraction is 0.5; expected \[0, 0.5\)"):
        jittered_box(ring(), np.random.default_rng(0), fraction=0.5)

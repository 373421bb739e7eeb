"""Prompts drawn from masks: the protocol's click and box, and the random ones of training."""

import numpy as np
import pytest

from ccsam_hf.data.prompts import (
    FIXED_PROMPTS,
    TRAINING_PROMPTS,
    PromptSampler,
    click_set,
    fixed_click,
    jittered_box,
    random_clicks,
    tight_box,
    to_edges,
    to_indices,
)
from ccsam_hf.descriptions import describe


def ring(size: int = 41) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    distance = np.hypot(rows - 20, columns - 18)
    return (distance < 15) & (distance > 10)


def single_pixel(row: int, column: int, size: tuple[int, int] = (12, 20)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[row, column] = True
    return mask


def only(kind: str, **settings) -> PromptSampler:
    kinds = {name: 0.0 for names in PromptSampler.KINDS.values() for name in names}
    return PromptSampler(**{**kinds, kind: 1.0, **settings})


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
    for draw in (
        lambda rng: random_clicks(mask, 5, rng),
        lambda rng: jittered_box(mask, rng),
        lambda rng: click_set(mask, 3, 2, rng)[0],
        lambda rng: only("random_click", jittered_box=1.0).sample(mask, "object", rng).box,
    ):
        assert np.array_equal(draw(np.random.default_rng(3)), draw(np.random.default_rng(3)))
        assert not np.array_equal(draw(np.random.default_rng(3)), draw(np.random.default_rng(4)))


def test_a_tight_box_is_edges_and_protocol_samus_counts_indices():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 7:19] = True
    assert tight_box(mask).tolist() == [7, 4, 19, 9]
    assert tight_box(single_pixel(11, 19)).tolist() == [19, 11, 20, 12]
    assert to_indices(tight_box(mask)).tolist() == [7, 4, 18, 8]
    assert to_edges(to_indices(tight_box(mask))).tolist() == [7, 4, 19, 9]


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
        lambda mask: click_set(mask, 1, 1, np.random.default_rng(0)),
        lambda mask: TRAINING_PROMPTS.sample(mask, "object", np.random.default_rng(0)),
        lambda mask: only("text").sample(mask, "object", np.random.default_rng(0)),
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


def test_a_click_set_has_its_positive_clicks_on_the_object_and_its_negative_ones_beside_it():
    mask = ring()
    points, labels = click_set(mask, 30, 50, np.random.default_rng(0))
    assert points.shape == (80, 2) and points.dtype == np.float32
    assert labels.tolist() == [1] * 30 + [0] * 50 and labels.dtype == np.int64
    x, y = points.astype(int).T
    assert np.array_equal(mask[y, x], labels == 1)
    points, labels = click_set(np.ones((4, 4), dtype=bool), 3, 0, np.random.default_rng(0))
    assert len(points) == 3 and labels.tolist() == [1, 1, 1]


def test_click_sets_that_cannot_be_drawn_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"mask of size \(4, 5\) fills the frame; .* 2 negative click"):
        click_set(np.ones((4, 5), dtype=bool), 1, 2, rng)
    with pytest.raises(ValueError, match="count is 0"):
        click_set(ring(), 0, 2, rng)
    with pytest.raises(ValueError, match="num_negative is -1; expected at least 0"):
        click_set(ring(), 1, -1, rng)


def test_kinds_come_as_often_as_their_probabilities_say_and_parts_independently():
    mask = ring()
    sampler = PromptSampler(random_click=0.2, fixed_click=0.3, tight_box=0.5, jittered_box=0.25, text=0.4)
    rng = np.random.default_rng(0)
    prompts = [sampler.sample(mask, "breast lesion", rng) for _ in range(2000)]
    with_points = np.array([prompt.points is not None for prompt in prompts])
    with_box = np.array([prompt.box is not None for prompt in prompts])
    is_fixed = np.array([p.points is not None and np.array_equal(p.points[0], fixed_click(mask)) for p in prompts])
    is_tight = np.array([p.box is not None and np.array_equal(p.box, tight_box(mask)) for p in prompts])
    with_text = np.array([prompt.text is not None for prompt in prompts])
    for share, expected in (
        (with_points, 0.5),
        (is_fixed, 0.3),
        (with_box, 0.75),
        (is_tight, 0.5),
        (with_text, 0.4),
        (with_points & with_box, 0.375),
    ):
        assert share.mean() == pytest.approx(expected, abs=0.04)
    assert all((prompt.points is None) == (prompt.labels is None) for prompt in prompts)


def test_by_default_a_prompt_has_one_click_on_the_object_and_one_box():
    mask = ring()
    rng = np.random.default_rng(0)
    for _ in range(50):
        prompt = TRAINING_PROMPTS.sample(mask, "breast lesion", rng)
        ((x, y),) = prompt.points.astype(int)
        assert mask[y, x] and prompt.labels.tolist() == [1] and prompt.box.shape == (4,) and prompt.text is None
    assert TRAINING_PROMPTS.max_points == 1
    prompt = FIXED_PROMPTS.sample(mask, "breast lesion", rng)
    assert np.array_equal(prompt.points[0], fixed_click(mask)) and np.array_equal(prompt.box, tight_box(mask))


def test_a_sampled_click_set_leaves_negative_clicks_out_where_there_is_no_place_for_them():
    sampler = only("click_set", num_positive=2, num_negative=3)
    assert sampler.max_points == 5
    assert sampler.sample(ring(), "object", np.random.default_rng(0)).labels.tolist() == [1, 1, 0, 0, 0]
    everywhere = np.ones((4, 4), dtype=bool)
    assert sampler.sample(everywhere, "object", np.random.default_rng(0)).labels.tolist() == [1, 1]


def test_texts_are_those_of_the_grounder():
    mask, rng = ring(), np.random.default_rng(0)
    prompt = only("text").sample(mask, "The Breast Mass", rng)
    assert prompt.text == "breast lesion" and prompt.points is None and prompt.box is None
    described = only("text", text_form="description").sample(mask, "kidney", rng).text
    assert described == describe("kidney", "description")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random_click": 0.7}, "probabilities of points are .* expected values from 0 to 1 that add up to at most 1"),
        ({"tight_box": -0.1}, "probabilities of box are .*'tight_box': -0.1"),
        ({"text": 1.5}, "probabilities of text are"),
        ({"random_click": 0, "fixed_click": 0, "tight_box": 0, "jittered_box": 0}, "no kind of prompt"),
        ({"num_positive": 0}, "num_positive is 0"),
        ({"num_negative": -1}, "num_negative -1"),
        ({"jitter_fraction": 0.5}, "jitter_fraction is 0.5"),
        ({"text_form": "poem"}, "text_form is 'poem'; accepted are phrase, description"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PromptSampler(**settings)


def test_probabilities_that_add_up_to_one_never_draw_nothing():
    sampler = PromptSampler(random_click=0.1, fixed_click=0.2, click_set=0.7)

    class Largest:
        def random(self):
            return np.nextafter(1.0, 0.0)

    assert sampler.probability_of("points") == 1
    assert sampler.draw_kind("points", Largest()) == "click_set"

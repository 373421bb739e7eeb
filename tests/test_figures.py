"""Figures show the numbers they are given: bars, dots, curves, outlines and the texts beside them."""

import numpy as np
import pytest

from ccsam_hf.evaluation.figures import (
    GREY,
    Example,
    calibration_plot,
    case_dots,
    error_by_uncertainty_plot,
    looks,
    qualitative_grid,
    referral_plot,
    save,
    seen_unseen_bars,
    spider,
    spider_radii,
)


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """A mask (256, 256) of a box whose sides are inside."""
    mask = np.zeros((256, 256), dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def example(prompt="box", coordinates=(20, 30, 60, 80), **predictions) -> Example:
    truth = square(20, 30, 60, 80)
    predictions = predictions or {"A": (square(20, 30, 60, 79), 98.04), "B": (None, 0.0)}
    return Example("sim: cyst", np.full((100, 120), 90, np.uint8), truth, prompt, coordinates, predictions)


def entry(model, data, dice, target="all", prompt="box") -> dict:
    score = {"mean": dice, "ci95": [dice - 3, dice + 2]}
    return {"model": model, "data": data, "prompt": prompt, "target": target, "dice": score}


def texts(figure) -> list[str]:
    """All texts within the axes of a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def curves(axes) -> list[np.ndarray]:
    """The heights of the lines of axes."""
    return [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]


def outlines(axes) -> list[tuple[float, ...]]:
    """Left, right, top and bottom of each outline."""
    found = []
    for collection in axes.collections:
        points = np.concatenate([path.vertices for path in collection.get_paths()])
        found.append((*np.sort(points[:, 0])[[0, -1]], *np.sort(points[:, 1])[[0, -1]]))
    return found


def test_models_keep_their_look_and_differ_without_colour():
    names = [f"model {i}" for i in range(6)]
    look = looks(["ellipse (blind)", *names])
    assert look["ellipse (blind)"].color == GREY
    assert len({look[name].marker for name in names}) == len({look[name].color for name in names}) == 6
    assert looks([*names, "model 3", "new"])["model 3"] == look["model 3"]


def test_a_picture_has_a_line_for_each_example_and_a_column_for_each_model():
    figure = qualitative_grid([example(), example("point", (40, 50)), example("none", None)])
    assert len(figure.axes) == 3 * 4
    assert [axes.get_title() for axes in figure.axes[:4]] == ["Image and prompt", "Truth", "A", "B"]
    assert texts(figure) == ["98.0", "no mask, 0.0"] * 2 + ["no prompt", "98.0", "no mask, 0.0"]
    for axes in figure.axes:
        assert axes.images[0].get_extent() == [-0.5, 255.5, 255.5, -0.5]  # 120x100, shown at 256x256


def test_outlines_and_prompts_lie_where_masks_and_prompts_are():
    of_image, of_truth, of_model, of_miss = qualitative_grid([example()]).axes
    assert outlines(of_truth) == outlines(of_miss) == [(19.5, 60.5, 29.5, 80.5)]
    assert outlines(of_model) == [(19.5, 60.5, 29.5, 80.5), (19.5, 60.5, 29.5, 79.5)]
    (box,) = of_image.patches
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (19.5, 29.5, 41, 51)
    of_image = qualitative_grid([example("random-point", (40, 50))]).axes[0]
    assert of_image.lines[0].get_xydata().tolist() == [[40, 50]]


def test_the_outline_of_a_cut_off_object_is_closed_and_an_empty_mask_has_none():
    cut_off = example(A=(square(0, 0, 255, 9), 1.0), B=(np.zeros((256, 256), bool), 0.0))
    _, _, of_cut, of_empty = qualitative_grid([cut_off]).axes
    assert outlines(of_cut)[1] == (-0.5, 255.5, -0.5, 9.5)
    assert len(outlines(of_empty)) == 1


def test_a_picture_needs_examples_of_the_same_models():
    with pytest.raises(ValueError, match="examples is empty"):
        qualitative_grid([])
    with pytest.raises(ValueError, match="different models; expected A, B"):
        qualitative_grid([example(), example(C=(None, 0.0))])


def test_bars_are_the_means_and_lines_their_intervals():
    entries = [entry("A", "old", 80), entry("A", "new", 60), entry("B", "old", 70), entry("B", "new", 65)]
    others = [entry("A", "old", 1, target="cyst"), entry("A", "old", 2, prompt="point"), entry("A", "else", 3)]
    (axes,) = seen_unseen_bars([*entries, *others], ["old"], ["new"], "box").axes
    assert [bar.get_width() for bar in axes.patches] == [80, 60, 70, 65]
    assert [list(line.get_xdata()) for line in axes.lines] == [[77, 82], [57, 62], [67, 72], [62, 67]]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, True, False, True]
    assert texts(axes.figure) == ["80.0", "60.0", "70.0", "65.0"]
    with pytest.raises(ValueError, match="with prompt 'text'"):
        seen_unseen_bars(entries, ["old"], ["new"], "text")


def test_on_the_wheel_outside_is_better_and_a_tenth_is_half_way():
    assert spider_radii("dice", [0, 50, 100]).tolist() == [0, 0.5, 1]
    assert spider_radii("gflops", [10, 1, 1000]).tolist() == [0.5, 1, 0]
    assert spider_radii("images_per_second", [1, 10]).tolist() == [0.5, 1]


def test_the_wheel_prints_the_numbers_and_leaves_out_what_is_not_known_of_all():
    costs = {
        "A": {"dice": 90.0, "gflops": 10.0, "parameters": 2_500_000, "peak_mib": 100},
        "B": {"dice": 80.0, "gflops": 100.0, "parameters": 90_000_000, "peak_mib": None},
    }
    figure = spider(costs)
    assert texts(figure) == [
        *("Dice, %", "● 90.0", "■ 80.0"),
        *("Parameters, M", "● 2.5", "■ 90.0"),
        *("GFLOPs", "● 10.0", "■ 100.0"),
    ]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata()[:3], [0.8, 1 + np.log10(2.5 / 90) / 2, 0.5])
    assert texts(spider(costs, ["B", "A"]))[1] == "■ 90.0"  # the place in the study decides the look
    with pytest.raises(ValueError, match="a wheel needs three"):
        spider({"A": {"dice": 90.0, "gflops": 1.0}})


def test_every_case_is_a_dot_at_its_dice():
    values = {"A": [10.0, 50.0, 90.0], "disc (blind)": [40.0, 41.0, 42.0]}
    rows = [{"model": model, "dice": dice} for model, dices in values.items() for dice in dices]
    (axes,) = case_dots(rows).axes
    drawn = [collection.get_offsets() for collection in axes.collections]
    assert [dots[:, 0].tolist() for dots in drawn] == list(values.values())
    assert all(np.abs(dots[:, 1] - place).max() < 0.5 for place, dots in enumerate(drawn))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(values)
    with pytest.raises(ValueError, match="rows is empty"):
        case_dots([])


def test_calibration_curves_are_the_given_ones_with_gaps_at_empty_bins():
    curve = {"probability": [0.1, None, 0.9], "positive": [0.2, None, 0.8], "count": [90, 0, 10]}
    axes, below = calibration_plot({"A": curve | {"ece": 0.1, "ece_inner": None}}).axes
    np.testing.assert_array_equal(curves(axes)[1], [20, np.nan, 80])
    np.testing.assert_array_equal(curves(below)[0], [90, np.nan, 10])
    assert axes.lines[1].get_label() == "A: error 10.0 %"


def test_error_by_uncertainty_is_the_given_one():
    curve = {"edges": [0, 0.25, 0.5], "count": [30, 10], "wrong": [0.1, 0.4]}
    axes, below = error_by_uncertainty_plot({"A": curve}).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.125, 10], [0.375, 40]])
    np.testing.assert_allclose(curves(below)[0], [75, 25])


def test_referral_has_a_panel_for_each_model_with_three_orders():
    curve = {"by": "iou_score", "percent": [0, 50], "dice": [70, 80], "random": [70, 70], "oracle": [70, 90]}
    figure = referral_plot({"A": curve, "B": curve, "C": curve | {"by": "uncertainty"}})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [
        "A\nby its own IoU estimate",
        "B\nby its own IoU estimate",
        "C\nby its uncertainty",
    ]
    assert [line.tolist() for line in curves(shown[0])] == [[70, 90], [70, 80], [70, 70]]


def test_a_figure_is_saved_twice_whole_and_the_same_each_time(tmp_path):
    rows = [{"model": name, "dice": 50.0} for name in ("$\\frac{", "a_very_long_name_" * 5)]  # names are no formulas
    written = [save(case_dots(rows), tmp_path / stem) for stem in ("one.dots", "two")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.dots.png", "one.dots.svg", "two.png", "two.svg"]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert written[0][0].read_bytes().startswith(b"\x89PNG")

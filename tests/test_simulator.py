"""The simulator: determinism, exact masks, the physics it claims, and the folders it writes."""

import csv
import random

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from scipy import ndimage, stats

from ccsam_hf.data.simulator import TARGETS, scenes, simulate, write_folder
from ccsam_hf.data.simulator.beamforming import display, echo_levels, envelope, random_scanner, random_scatterers
from ccsam_hf.data.simulator.phantoms import finish
from ccsam_hf.data.simulator.shapes import one_piece, outline_level, random_field
from ccsam_hf.data.simulator.tissues import Canvas, LesionKind, paint_lesion

SIZE = (128, 128)
HEART = ("left ventricle", "myocardium", "left atrium")


def lesion_kind(contrast_db, loss_db):
    """A sharp lesion with one contrast and one loss over its height, without rim, halo or texture."""
    return LesionKind(
        weight=1.0,
        margins=("oval",),
        contrast_db=(contrast_db, contrast_db),
        softness=(0.002, 0.002),
        heterogeneity_db=(0, 0),
        loss_db=(loss_db, loss_db),
        rim=(0, 0),
        halo_db=(0, 0),
        tallness=(1, 1),
    )


def level_below_minus_beside(kind, seed):
    """Mean echo level in decibels below a disc in an even tissue, minus the level beside it at the same depths."""
    canvas = Canvas(np.random.default_rng(seed), (192, 192))
    disc = outline_level(canvas.u, canvas.v, (0.5, 0.35), (0.15, 0.15), 0)
    paint_lesion(canvas, kind, disc)
    phantom = finish(canvas, {"disc": disc < 0}, depth_mm=40, width_mm=40)
    scanner = random_scanner(canvas.rng, 192)
    levels = echo_levels(phantom, scanner, canvas.rng)
    rows = slice(int(0.55 * 192), int(0.65 * 192))
    beside = np.concatenate([levels[rows, :40], levels[rows, -40:]], axis=1)
    return levels[rows, 86:106].mean() - beside.mean()


@pytest.mark.parametrize("target", TARGETS)
def test_same_arguments_give_bit_equal_arrays_whatever_the_global_state(target):
    first = simulate(target, 7, SIZE)
    np.random.seed(123)
    random.seed(123)
    np.random.random(10)
    second = simulate(target, 7, SIZE)
    assert_array_equal(first.image, second.image)
    assert first.masks.keys() == second.masks.keys() and first.spacing_mm == second.spacing_mm
    for name, mask in first.masks.items():
        assert_array_equal(mask, second.masks[name])
    assert not np.array_equal(first.image, simulate(target, 8, SIZE).image)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (131, 77)])
@pytest.mark.parametrize("target", TARGETS)
def test_arrays_have_the_size_asked_for_and_the_target_is_there(target, size):
    for seed in range(3):
        case = simulate(target, seed, size)
        assert case.image.shape == size and case.image.dtype == np.uint8
        assert all(mask.shape == size and mask.dtype == bool for mask in case.masks.values())
        assert case.mask is case.masks[target] and case.mask.any()
        assert case.image.std() > 2
        assert all(side > 0 for side in case.spacing_mm)


def test_nodule_lies_in_the_gland_and_both_are_in_one_piece():
    for seed in range(20):
        masks = simulate("thyroid nodule", seed, SIZE).masks
        assert not (masks["thyroid nodule"] & ~masks["thyroid gland"]).any()
        assert [ndimage.label(mask)[1] for mask in masks.values()] == [1, 1]


def test_heart_structures_are_disjoint_connected_and_the_ring_is_open_at_the_base():
    for seed in range(20):
        masks = simulate("myocardium", seed, SIZE).masks
        assert set(masks) == set(HEART)
        ventricle, ring, atrium = (masks[name] for name in HEART)
        assert (ventricle.astype(int) + ring + atrium).max() == 1
        assert ndimage.label(ventricle)[1] == 1 and ndimage.label(atrium)[1] <= 1
        border = ndimage.binary_dilation(ventricle) & ~ventricle
        assert 0.4 < ring[border].mean() < 1  # it touches the cavity nearly everywhere but leaves the base open


def test_breast_lesions_vary_from_small_to_large_and_are_mostly_one():
    masks = [simulate("breast lesion", seed, (64, 64)).mask for seed in range(150)]
    widths = np.array([np.ptp(np.flatnonzero(mask.any(0))) + 1 for mask in masks]) / 64
    assert np.quantile(widths, 0.1) < 0.2 and np.quantile(widths, 0.9) > 0.5
    several = np.mean([ndimage.label(mask, np.ones((3, 3)))[1] > 1 for mask in masks])
    assert several < 0.15


def test_images_run_from_dark_to_bright():
    means = [simulate("breast lesion", seed, (64, 64)).image.mean() for seed in range(100)]
    assert min(means) < 40 and max(means) > 130


def test_homogeneous_tissue_gives_rayleigh_speckle():
    scatterers = random_scatterers(np.random.default_rng(0), (512, 512))
    amplitude = envelope(scatterers, axial_px=1.5, lateral_px=3.0)
    assert amplitude.mean() / amplitude.std() == pytest.approx(1.913, rel=0.02)  # Wagner 1983: sqrt(pi / (4 - pi))
    assert (amplitude**2).mean() == pytest.approx(1, rel=0.05)
    independent = amplitude[::12, ::24].ravel()  # several widths of the pulse apart
    assert stats.kstest(independent, stats.rayleigh(scale=np.sqrt(0.5)).cdf).pvalue > 0.01


def test_sparse_scatterers_keep_the_power_and_leave_the_rayleigh_law():
    scatterers = random_scatterers(np.random.default_rng(0), (512, 512), density=0.02)
    amplitude = envelope(scatterers, axial_px=1.0, lateral_px=1.5)
    assert (amplitude**2).mean() == pytest.approx(1, rel=0.1)
    assert amplitude.mean() / amplitude.std() < 1.5


def test_speckle_is_wider_across_than_along_the_beam():
    amplitude = envelope(random_scatterers(np.random.default_rng(1), (256, 256)), axial_px=1.0, lateral_px=3.0)
    centred = amplitude - amplitude.mean()
    down, across = ((centred * np.roll(centred, 3, axis)).mean() for axis in (0, 1))
    assert across > 3 * abs(down)


def test_random_fields_have_unit_variance_and_the_texture_asked_for():
    fields = [random_field(np.random.default_rng(seed), (128, 128), 0.01, 0.05) for seed in range(30)]
    assert np.mean([field.var() for field in fields]) == pytest.approx(1, rel=0.1)
    gradients = [[np.diff(field, axis=axis).std() for axis in (0, 1)] for field in fields]
    down, across = np.mean(gradients, axis=0)
    assert down / across == pytest.approx(5, rel=0.15)


def test_one_piece_drops_islands_and_closes_holes():
    level = np.ones((20, 20), np.float32)
    level[2:12, 2:12] = -1
    level[5:7, 5:7] = 1  # a hole
    level[15:17, 15:17] = -1  # an island
    expected = np.zeros((20, 20), bool)
    expected[2:12, 2:12] = True
    assert_array_equal(one_piece(level) < 0, expected)


def test_lesions_are_darker_than_their_surroundings_on_average():
    differences = []
    for seed in range(40):
        case = simulate("breast lesion", seed, SIZE)
        ring = ndimage.binary_dilation(case.mask, iterations=8) & ~ndimage.binary_dilation(case.mask, iterations=2)
        differences.append(case.image[case.mask].mean() - case.image[ring].mean())
    assert np.mean(differences) < -10
    assert np.mean(np.array(differences) < 0) > 0.75


def test_less_attenuation_brightens_and_more_darkens_what_lies_below():
    enhanced = [level_below_minus_beside(lesion_kind(-20, -12), seed) for seed in range(8)]
    shadowed = [level_below_minus_beside(lesion_kind(-8, 15), seed) for seed in range(8)]
    assert np.mean(enhanced) > 3
    assert np.mean(shadowed) < -3


def test_display_uses_the_dynamic_range_and_blackens_what_is_outside():
    levels = np.linspace(-40, 0, 100 * 80, dtype=np.float32).reshape(100, 80)
    visible = np.ones((100, 80), bool)
    visible[:, :10] = False
    image = display(levels, visible, random_scanner(np.random.default_rng(0), 100))
    assert image[:, :10].max() == 0
    assert np.all(np.diff(image[5:-5, 40].astype(int)) >= 0)


def test_write_folder_round_trip(tmp_path):
    folder = tmp_path / "simulated"
    write_folder(folder, count=7, seed=11, size=(64, 80))
    with open(folder / "cases.csv", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 7
    assert {row["target"] for row in rows} == set(TARGETS)
    for row in rows:
        case = simulate(row["target"], int(row["seed"]), (64, 80))
        assert_array_equal(np.asarray(Image.open(folder / "images" / f"{row['name']}.png")), case.image)
        mask = np.asarray(Image.open(folder / "masks" / f"{row['name']}.png"))
        assert_array_equal(mask, case.mask * np.uint8(255))
        assert float(row["mm_per_row"]) == pytest.approx(case.spacing_mm[0], abs=1e-5)
        assert float(row["mm_per_column"]) == pytest.approx(case.spacing_mm[1], abs=1e-5)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail_on_the_third(target, seed, size):
        if seed == 2:
            raise RuntimeError("interrupted")
        return simulate(target, seed, size)

    monkeypatch.setattr(scenes, "simulate", fail_on_the_third)
    with pytest.raises(RuntimeError, match="interrupted"):
        write_folder(tmp_path / "simulated", count=4, seed=0, size=(64, 64))
    assert list(tmp_path.iterdir()) == []


def test_write_folder_accepts_an_empty_directory_and_refuses_a_used_one(tmp_path):
    write_folder(tmp_path / "data", count=1, seed=0, targets=["left atrium"], size=(64, 64))
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", count=1, seed=0, targets=["left atrium"], size=(64, 64))
    before = (tmp_path / "data" / "cases.csv").read_bytes()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_folder(tmp_path / "data", count=1, seed=5, size=(64, 64))
    assert (tmp_path / "data" / "cases.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("liver", 0), ValueError, "breast lesion, thyroid nodule"),
        (("breast lesion", -1), ValueError, "seed=-1 is negative"),
        (("breast lesion", 0.5), TypeError, "seed is float"),
        (("breast lesion", 0, (63, 256)), ValueError, "at least 64"),
        (("breast lesion", 0, (256.0, 256)), TypeError, "two integers"),
        (("breast lesion", 0, (256,)), TypeError, "two integers"),
    ],
)
def test_bad_requests_say_what_is_accepted(arguments, error, message):
    with pytest.raises(error, match=message):
        simulate(*arguments)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"targets": []}, {"targets": ["liver"]}, {"seed": -3}])
def test_write_folder_refuses_before_it_writes(tmp_path, wrong):
    with pytest.raises(ValueError):
        write_folder(tmp_path / "data", **{"count": 1, "seed": 0, "size": (64, 64), **wrong})
    assert list(tmp_path.iterdir()) == []

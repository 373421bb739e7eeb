"""Fingerprints: what is found again after it was changed, and what is not taken for a copy."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from ccsam_hf.data.audit.fingerprints import NO_CONTENT, Match, find_matches, fingerprint
from ccsam_hf.data.simulator import TARGETS, simulate


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Simulated images of all targets; the hearts among them resemble each other most."""
    return [simulate(TARGETS[i % 6], 4000 + i, (160, 192)).image for i in range(60)]


def recompressed(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=30)
    return np.asarray(Image.open(buffer))


def gamma(image: np.ndarray) -> np.ndarray:
    return np.rint(((image / 255) ** 0.7 * 0.85 + 0.08) * 255).astype(np.uint8)


def halved(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] * 3 // 5)))


def written_upon(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    draw.text((20, 110), "LEFT BREAST", fill=255, font=ImageFont.load_default(11))
    for x, y in ((60, 60), (110, 80)):
        draw.line((x - 4, y, x + 4, y), fill=255)
        draw.line((x, y - 4, x, y + 4), fill=255)
    return np.asarray(picture)


CHANGES = {
    "one pixel": (lambda image: np.where(np.arange(image.size).reshape(image.shape) == 999, 255, image), ""),
    "mirrored": (lambda image: image[:, ::-1], "left-right"),
    "upside down": (lambda image: image[::-1], "up-down"),
    "turned by 180 degrees": (lambda image: image[::-1, ::-1], "both"),
    "5 % off each side": (lambda image: image[8:-8, 10:-10], ""),
    "5 % off one corner": (lambda image: image[8:, :-10], ""),
    "recompressed": (recompressed, ""),
    "gamma and contrast": (gamma, ""),
    "another size and proportion": (halved, ""),
    "text and calipers": (written_upon, ""),
    "mirrored, cropped, compressed": (lambda image: recompressed(image[5:-3, 9:-4][:, ::-1]), "left-right"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(images, name):
    change, flip = CHANGES[name]
    copies = [change(image).astype(np.uint8) for image in images[:24]]
    matches = find_matches([fingerprint(image) for image in [*images, *copies]])
    assert [(match.first, match.second) for match in matches] == [(i, 60 + i) for i in range(24)]
    assert {match.flip for match in matches} == {flip}
    assert min(match.score for match in matches) > 0.9


def test_a_match_tells_crop_and_place(images):
    prints = [fingerprint(image) for image in (images[0], images[0][16:, :])]  # a tenth of the height is missing above
    (match,) = find_matches(prints)
    assert match.zoom == pytest.approx((0.9, 1), abs=0.015) and match.shift == pytest.approx((0.05, 0), abs=0.01)
    assert match.moved
    (unmoved,) = find_matches([fingerprint(images[0]), fingerprint(gamma(images[0]))])
    assert not unmoved.moved


def head(seed: int) -> np.ndarray:
    """A fetal head in the standard plane: skull, midline, folds and sector as in every one, and speckle of its own."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:160, :240].astype(float)
    top, left, height, width = np.array([80, 120, 56, 84]) + rng.normal(0, 3, 4)
    y, x = (rows - top) / height, (columns - left) / width
    radius = np.hypot(y, x)
    speckle = gaussian_filter(rng.normal(size=rows.shape), (1.2, 2.0))
    folds = 24 * np.cos(9 * y) * np.cos(7 * np.abs(x) + 4 * y)
    tissue = np.where(radius < 1, 35 + folds, 85) * (1 + 0.52 * speckle / speckle.std())
    bone = 200 * np.exp(-(((radius - 1) / 0.06) ** 2)) + 140 * np.exp(-((y / 0.05) ** 2)) * (radius < 0.8)
    sector = np.abs(columns - 120) < 60 + 0.6 * rows
    return np.clip(np.where(sector, tissue + bone, 0), 0, 255).astype(np.uint8)


def test_different_heads_in_one_standard_plane_are_no_copies():
    heads = [head(seed) for seed in range(7)]
    matches = find_matches([fingerprint(image) for image in heads])
    assert not [match for match in matches if match.is_copy]
    assert {match.flip for match in matches} <= {""}  # nor mirrored ones, which a symmetric plane suggests


@pytest.mark.parametrize("flip", ["", "left-right"])
def test_a_copy_of_a_head_is_found_among_others(flip):
    copied = gamma(head(3)[:, ::-1] if flip else head(3))[6:, 4:].astype(np.uint8)
    heads = [*(head(seed) for seed in range(5)), copied]
    copies = [match for match in find_matches([fingerprint(image) for image in heads]) if match.is_copy]
    assert [(match.first, match.second, match.flip) for match in copies] == [(3, 5, flip)]


@pytest.mark.parametrize(
    "score, flip, zoom, shift, copy",
    [
        (0.63, "", (1, 1.016), (0, -0.012), True),
        (0.68, "", (1.019, 1), (0, 0), False),
        (0.73, "", (1.03, 1), (0, 0), False),
        (0.73, "", (1, 1), (0.02, 0), False),
        (0.75, "", (1.03, 0.95), (0.02, 0), True),
        (0.79, "left-right", (1, 1), (0, 0), False),
        (0.81, "both", (1.05, 1), (0, 0), True),
    ],
)
def test_what_is_moved_or_mirrored_has_to_be_more_alike(score, flip, zoom, shift, copy):
    assert Match(0, 1, score, flip, zoom, shift).is_copy == copy


def test_the_digest_tells_equal_images(images):
    first = fingerprint(images[0])
    assert first.digest == fingerprint(images[0].copy(order="F")).digest
    assert first.digest != fingerprint(images[0].reshape(192, 160)).digest  # the same bytes in another shape
    assert first.digest != fingerprint(images[0] ^ np.eye(160, 192, dtype=np.uint8)).digest
    assert find_matches([first, first]) == []  # equal images need no comparison


def test_maps_have_the_documented_form_and_leave_background_out(images):
    heart = fingerprint(images[3])
    assert heart.coarse.shape == (32, 32) and heart.fine.shape == (96, 96)
    assert heart.coarse.dtype == heart.fine.dtype == np.int8
    corner = heart.fine[:10, :10]  # beside the sector
    assert (corner == NO_CONTENT).all() and heart.comparable


def test_images_that_show_nothing_match_nothing():
    black = np.zeros((100, 120), dtype=np.uint8)
    spot = black.copy()
    spot[50:54, 50:54] = 200
    prints = [fingerprint(image) for image in (black, spot, black[1:], spot[1:])]
    assert not any(each.comparable for each in prints)
    assert find_matches(prints) == [] and find_matches([]) == []


def test_pairs_of_one_label_are_skipped_and_pairs_without_label_are_not(images):
    prints = [fingerprint(image) for image in (images[0], gamma(images[0]), images[0][:, ::-1])]
    pairs = lambda labels: [(match.first, match.second) for match in find_matches(prints, [labels])]  # noqa: E731
    assert pairs([-1, -1, -1]) == pairs([0, 1, 2]) == [(0, 1), (0, 2), (1, 2)]
    assert pairs([5, 5, 0]) == [(0, 2), (1, 2)]


def test_within_a_group_as_many_pairs_are_given_as_hold_it_together(images):
    views = (images[0], gamma(images[0]), recompressed(images[0]), images[0][:, ::-1], images[1], gamma(images[1]))
    prints = [fingerprint(image) for image in views]
    pairs = [(match.first, match.second) for match in find_matches(prints, groups=[7, 7, 7, 7, 7, 7])]
    first, second = [pair for pair in pairs if pair[1] < 4], [pair for pair in pairs if pair[0] >= 4]
    assert len(first) == 3 and {i for pair in first for i in pair} == {0, 1, 2, 3}
    assert second == [(4, 5)] and len(pairs) == 4
    assert len(find_matches(prints, groups=[0, 0, 1, 1, 0, 1])) == 1 + 1 + 4 + 1  # all pairs between the groups


def test_the_same_images_give_the_same_matches(images):
    prints = [fingerprint(image) for image in (*images[:10], *(recompressed(image) for image in images[:10]))]
    assert find_matches(prints) == find_matches(prints)


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)), np.zeros((0, 9), np.uint8)],
    ids=("colour", "float", "0"),
)
def test_other_than_grey_8_bit_images_are_refused(image):
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(height, width\)"):
        fingerprint(image)


def test_labels_of_another_number_are_refused(images):
    with pytest.raises(ValueError, match="1 labels came for 2 images"):
        find_matches([fingerprint(image) for image in images[:2]], [[0]])

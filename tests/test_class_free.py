"""Objects of no class: pasted shapes and regions that are found in an image."""

import numpy as np
import pytest
from scipy import ndimage

from ccsam_hf.data.class_free import draw_shape, find_region, paste_shape


def textured(rng, level=0.4):
    noise = ndimage.gaussian_filter(rng.standard_normal((256, 256)), 1.5)
    return np.clip(level + 0.3 * noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_a_pasted_object_changes_the_image_at_its_place(seed):
    rng = np.random.default_rng(seed)
    image, other = textured(rng), textured(rng, 0.7)
    changed, mask, is_seen = paste_shape(image, other, rng)
    assert changed.shape == mask.shape == (256, 256) and changed.dtype == np.float32 and mask.dtype == bool
    assert 0 <= changed.min() and changed.max() <= 1
    if is_seen:
        inside = np.abs(changed - image)[mask].mean()
        above = np.abs(changed - image)[: max(int(np.flatnonzero(mask.any(1))[0]) - 25, 0)]
        assert inside > 0.01 and (above.size == 0 or above.mean() < inside / 3)
    else:
        assert np.array_equal(changed, image)


def test_the_same_generator_gives_the_same_object():
    image = textured(np.random.default_rng(0))
    one, other = (paste_shape(image, image, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_a_nested_object_is_centred_in_the_one_around_it(rng):
    around = np.zeros((256, 256), bool)
    around[60:180, 80:200] = True
    for _ in range(20):
        x, y = draw_shape(rng, (256, 256), around).centre
        assert around[int(y), int(x)]


def test_a_region_is_one_part_without_holes_and_is_similar_inside():
    rng = np.random.default_rng(1)
    image = textured(rng, 0.6)
    image[80:160, 90:190] = textured(rng, 0.1)[80:160, 90:190]
    found = [region for region in (find_region(image, rng) for _ in range(40)) if region is not None]
    assert len(found) > 3
    for region in found:
        assert ndimage.label(region)[1] == 1
        assert np.array_equal(ndimage.binary_fill_holes(region), region)
        assert 0.002 < region.mean() < 0.27


def test_a_black_image_has_no_region(rng):
    assert find_region(np.zeros((256, 256), np.float32), rng) is None

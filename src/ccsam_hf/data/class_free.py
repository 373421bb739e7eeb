"""Objects of no class: shapes pasted into images and regions found in them, for a model that follows its prompt.

A model that only sees the organs of its training sets learns to look for them, whatever the prompt asks. Objects that
are told by nothing but the prompt teach the opposite: smooth random shapes whose texture differs from their
surroundings in any way, or not at all, and regions of similar grey values that are cut out of real images.

    image (H, W) --paste_shape--> image with an object, its mask
    image (H, W) --find_region--> mask of a region that is already there
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage

TEXTURES = ("gain", "gain", "other", "speckle", "fluid", "none")


@dataclass(frozen=True)
class Shape:
    """A smooth closed outline: an ellipse whose radius is changed by a few harmonics.

    Attributes:
        centre: (x, y) in pixels.
        radii: (a, b) in pixels.
        angle: of the first radius, in radians.
        harmonics: (n, 2) amplitudes of the cosine and sine of the 2nd, 3rd, ... harmonic, relative to the radius.
    """

    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    harmonics: np.ndarray

    def level(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) float32: normalised radius over that of the outline; below 1 inside."""
        y, x = np.ogrid[: size[0], : size[1]]
        x, y = x + np.float32(0.5 - self.centre[0]), y + np.float32(0.5 - self.centre[1])
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = (x * cos + y * sin) / self.radii[0], (y * cos - x * sin) / self.radii[1]
        radius = np.hypot(u, v).astype(np.float32)
        if not self.harmonics.any():
            return radius
        theta = np.arctan2(v, u)
        outline = np.ones_like(radius)
        for order, (a, b) in enumerate(self.harmonics, start=2):
            outline += np.float32(a) * np.cos(order * theta) + np.float32(b) * np.sin(order * theta)
        return radius / np.maximum(outline, 0.2)


def draw_shape(rng: Generator, size: tuple[int, int], inside: np.ndarray | None = None) -> Shape:
    """A shape of any size and place.

    Args:
        rng: source of the draw.
        size: (height, width) of the frame.
        inside: (H, W) bool; the centre of the shape is one of its pixels, and the shape is smaller than it.
    """
    side = min(size)
    radius = float(np.exp(rng.uniform(np.log(0.035), np.log(0.32)))) * side
    centre = tuple(rng.uniform(0.08, 0.92, 2) * size[::-1])
    if inside is not None:
        radius = float(np.sqrt(inside.sum() / np.pi)) * rng.uniform(0.25, 0.7)
        pixels = np.flatnonzero(inside)
        centre = tuple(float(place) for place in np.unravel_index(pixels[rng.integers(len(pixels))], size)[::-1])
    stretch = np.sqrt(rng.uniform(0.4, 1.0))
    roughness = 0.0 if rng.random() < 0.3 else rng.uniform(0.02, 0.3)
    orders = np.arange(2, 2 + int(rng.integers(2, 7)))
    harmonics = rng.normal(0, 1, (len(orders), 2)) * roughness / orders[:, None]
    radii = (max(radius / stretch, 3.0), max(radius * stretch, 3.0))
    return Shape(centre, radii, rng.uniform(0, np.pi), harmonics.astype(np.float32))


def paste_shape(
    image: np.ndarray, other: np.ndarray, rng: Generator, inside: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Put an object into an image.

    Args:
        image: (H, W) float32 in [0, 1].
        other: (H, W) float32 in [0, 1], an image whose texture the object may have.
        rng: source of the draw.
        inside: (H, W) bool, an object in which the new one lies; None for anywhere.

    Returns:
        The image (H, W) float32 in [0, 1], the mask of the object (H, W) bool, and whether the object can be seen: one
        without a texture of its own is an ellipse that only a box can ask for.
    """
    shape = draw_shape(rng, image.shape, inside)
    texture = str(rng.choice(TEXTURES))
    if texture == "none":
        shape = Shape(shape.centre, shape.radii, shape.angle, shape.harmonics * 0.3)
    level = shape.level(image.shape)
    mask = level < 1
    if texture == "none" or not mask.any():
        return image, mask, False
    softness = rng.uniform(0.4, 3.0)
    weight = np.clip((1 - level) * min(shape.radii) / softness + 0.5, 0, 1)
    content = draw_texture(texture, image, other, mask, rng)
    changed = image + weight * (content - image)
    if rng.random() < 0.25:  # a capsule
        width = rng.uniform(0.04, 0.15)
        changed = changed + rng.uniform(-0.3, 0.4) * np.exp(-(((level - 1) / width) ** 2))
    if rng.random() < (0.6 if texture == "fluid" else 0.15):  # enhancement or shadow below the object
        columns = mask.any(0)
        below = np.cumsum(mask, axis=0) > 0
        below = below & ~mask & columns
        strength = rng.uniform(1.1, 1.6) if texture == "fluid" else rng.uniform(0.4, 0.9)
        changed = changed * (1 + (strength - 1) * ndimage.uniform_filter(below.astype(np.float32), 5))
    return np.clip(changed, 0, 1).astype(np.float32), mask, True


def draw_texture(texture: str, image: np.ndarray, other: np.ndarray, mask: np.ndarray, rng: Generator) -> np.ndarray:
    """What the inside of an object looks like, (H, W) float32: see `TEXTURES`."""
    mean = float(image[mask].mean())
    if texture == "gain":
        factor = np.exp(rng.choice([-1, 1]) * rng.uniform(0.25, 1.3))
        return image * np.float32(factor) + np.float32(rng.uniform(0, 0.05))
    if texture == "other":
        shift = rng.integers(0, image.shape[0], 2)
        content = np.roll(other, tuple(shift), axis=(0, 1))
        return content * np.float32(rng.uniform(0.6, 1.4))
    if texture == "fluid":
        noise = rng.normal(0, 0.015, image.shape).astype(np.float32)
        return np.float32(rng.uniform(0, 0.5) * mean) + noise
    grain = rng.uniform(0.6, 2.5), rng.uniform(0.8, 4.0)
    field = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), grain)
    field /= field.std() + 1e-6
    target = np.clip(mean + rng.choice([-1, 1]) * rng.uniform(0.08, 0.4), 0.02, 0.95)
    return np.float32(target) * (1 + np.float32(rng.uniform(0.05, 0.45)) * field)


def find_region(image: np.ndarray, rng: Generator, attempts: int = 3) -> np.ndarray | None:
    """A compact region of similar grey values around a random pixel, by region growing at half the resolution.

    Args:
        image: (H, W) float32 in [0, 1], both sides even.
        rng: source of the draw.
        attempts: seeds that are tried.

    Returns:
        (H, W) bool of 0.3 to 25 % of the image, one connected part without holes; None where no attempt gave one.
    """
    half = ndimage.gaussian_filter(image[::2, ::2], rng.uniform(1.0, 3.0))
    for _ in range(attempts):
        row, column = (int(rng.integers(4, side - 4)) for side in half.shape)
        seed = half[row, column]
        similar = np.abs(half - seed) < rng.uniform(0.03, 0.13)
        similar = ndimage.binary_opening(similar, iterations=int(rng.integers(1, 4)))
        parts, _ = ndimage.label(similar)
        own = parts[row, column]
        if own == 0:
            continue
        region = ndimage.binary_fill_holes(parts == own)
        share = region.mean()
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        on_edge = region[0].sum() + region[-1].sum() + region[:, 0].sum() + region[:, -1].sum()
        if not 0.003 < share < 0.25 or region.sum() < 0.5 * box or on_edge > 0.1 * np.sqrt(box) or seed < 0.004:
            continue
        smooth = ndimage.gaussian_filter(region.astype(np.float32), 1.0)
        return ndimage.zoom(smooth, 2, order=1) > 0.5
    return None

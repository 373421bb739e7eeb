"""Random fields and outlines: seed -> smooth textures and signed levels of irregular regions.

Everything lives in the scene's frame: `u` runs from 0 at the left to 1 at the right, `v` from 0 at the skin to 1 at
the deepest row, and every length is a fraction of the image. A level is negative inside a region, positive outside,
and close to the distance from its border.
"""

import numpy as np
from numpy.random import Generator
from scipy import fft, ndimage

ANGLES = 1024  # samples of an outline's radius over one turn


def scene_grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the pixels: `u` of shape (1, W) and `v` of shape (H, 1), both in (0, 1)."""
    height, width = size
    u = (np.arange(width, dtype=np.float32) + 0.5)[None, :] / width
    v = (np.arange(height, dtype=np.float32) + 0.5)[:, None] / height
    return u, v


def random_field(rng: Generator, size: tuple[int, int], axial: float, lateral: float) -> np.ndarray:
    """Gaussian random field of zero mean and unit expected variance, periodic at the borders.

    Only the Fourier coefficients that the Gaussian spectrum leaves are drawn, so that a smooth field costs one inverse
    transform.

    Args:
        size: (height, width) in pixels.
        axial, lateral: standard deviation of the equivalent Gaussian smoothing kernel down and across, as fractions of
            the image.

    Returns:
        (H, W) float32.
    """
    height, width = size
    rows = int(np.clip(0.55 / axial + 1, 1, height // 2 - 1))  # the spectrum has fallen to 0.3 % here
    columns = int(np.clip(0.55 / lateral + 1, 1, width // 2 - 1))
    row_frequency = np.arange(-rows, rows + 1)
    column_frequency = np.arange(columns + 1)
    gain = np.outer(
        np.exp(-2 * (np.pi * row_frequency * axial) ** 2), np.exp(-2 * (np.pi * column_frequency * lateral) ** 2)
    ).astype(np.float32)
    gain[rows, 0] = 0  # no mean
    real, imaginary = rng.standard_normal((2, *gain.shape), dtype=np.float32)
    spectrum = np.zeros((height, columns + 1), np.complex64)
    spectrum[row_frequency % height] = gain * (real + 1j * imaginary)
    field = fft.irfft(fft.ifft(spectrum, axis=0, overwrite_x=True), n=width, axis=1)
    variance = (gain[:, 0] ** 2).sum() + 4 * (gain[:, 1:] ** 2).sum()  # the mirrored half counts through its pairs
    field *= np.float32(height * width / np.sqrt(variance))
    return field


def random_curve(rng: Generator, u: np.ndarray, waves: int = 3) -> np.ndarray:
    """Smooth function of `u`, of the shape of `u`, with values of about -1 to 1: tilt, bend and undulation."""
    curve = rng.normal(0, 0.8) * (2 * u - 1)
    for wave in range(1, waves + 1):
        curve = curve + rng.normal(0, 0.6 / wave) * np.sin(np.pi * wave * u + rng.uniform(0, 2 * np.pi))
    return curve.astype(np.float32)


def follow(field: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Bend a periodic texture (H, W) so that its rows run along a curve `depth` (1, W), in fractions of the height."""
    height, width = field.shape
    first_row = -np.rint(depth.ravel() * height).astype(np.intp) % height
    index = (np.arange(height)[:, None] + first_row) * width + np.arange(width)
    return np.take(np.concatenate([field, field]), index)


def ridges(field: np.ndarray, width: float) -> np.ndarray:
    """Thin curved lines in [0, 1] where a random field crosses zero: septa, fascia and muscle fibres."""
    return np.exp(-((field / width) ** 2))


def soft_inside(level: np.ndarray, softness: float) -> np.ndarray:
    """Share of the region in each pixel, in [0, 1]: a logistic step of the given width across the border."""
    return 1 / (1 + np.exp(np.clip(level / softness, -30, 30)))


def radial_profile(rng: Generator, roughness: float, order: int, slope: float) -> np.ndarray:
    """Radius over one turn, mean 1: random Fourier series up to `order`, amplitudes falling as `wave ** -slope`."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    waves = np.arange(2, order + 1)
    amplitude = rng.normal(0, 1, waves.size) * waves**-slope
    phase = rng.uniform(0, 2 * np.pi, waves.size)
    series = (amplitude[:, None] * np.cos(waves[:, None] * angle + phase[:, None])).sum(0)
    spread = np.abs(series).max()
    return (1 + roughness * series / max(spread, 1e-6)).astype(np.float32)


def spicules(rng: Generator, count: int, length: float) -> np.ndarray:
    """Narrow outward spikes over one turn, to be added to a radial profile."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    spikes = np.zeros(ANGLES, np.float32)
    for _ in range(count):
        offset = np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))
        spikes += length * rng.uniform(0.3, 1) * np.exp(-np.abs(offset) / rng.uniform(0.05, 0.2))
    return spikes


def polygon_profile(rng: Generator, corners: int) -> np.ndarray:
    """Radius of a random convex polygon over one turn: the angular outline."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    normals = np.sort(rng.uniform(0, 2 * np.pi, corners) * 0.4 + np.arange(corners) * 2 * np.pi / corners)
    apothems = rng.uniform(0.75, 1.05, corners)
    projections = np.cos(angle[None, :] - normals[:, None])
    radius = np.where(projections > 0.15, apothems[:, None] / np.maximum(projections, 0.15), np.inf).min(0)
    return np.minimum(radius, 1.6).astype(np.float32)


def profile_of(rng: Generator, margin: str) -> np.ndarray:
    """Radial profile of a named kind of margin: oval, lobulated, irregular, angular or spiculated.

    The names follow the margins of the ACR BI-RADS ultrasound lexicon.
    """
    if margin == "oval":
        return radial_profile(rng, rng.uniform(0.0, 0.12), 4, 1.0)
    if margin == "lobulated":
        return radial_profile(rng, rng.uniform(0.12, 0.3), int(rng.integers(4, 8)), 0.5)
    if margin == "irregular":
        return radial_profile(rng, rng.uniform(0.2, 0.45), int(rng.integers(8, 24)), rng.uniform(0.6, 1.3))
    if margin == "angular":
        return polygon_profile(rng, int(rng.integers(3, 8))) * radial_profile(rng, rng.uniform(0, 0.15), 12, 0.7)
    if margin == "spiculated":
        core = radial_profile(rng, rng.uniform(0.1, 0.3), int(rng.integers(6, 16)), 0.8)
        return core + spicules(rng, int(rng.integers(4, 14)), rng.uniform(0.25, 0.8))
    raise ValueError(f"margin={margin!r} is unknown; expected oval, lobulated, irregular, angular or spiculated")


def outline_level(
    u: np.ndarray,
    v: np.ndarray,
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    profile: np.ndarray | None = None,
) -> np.ndarray:
    """Level of an ellipse whose radius is modulated by a radial profile.

    Args:
        u, v: coordinates that broadcast to (H, W).
        centre: (u, v) of the centre.
        radii: the two semi-axes, before the rotation by `angle` (radians).
        profile: (ANGLES,) relative radius over one turn; None for the plain ellipse.

    Returns:
        (H, W) float32, about the distance to the border in fractions of the image.
    """
    du, dv = u - np.float32(centre[0]), v - np.float32(centre[1])
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    p = (cosine * du + sine * dv) / np.float32(radii[0])
    q = (cosine * dv - sine * du) / np.float32(radii[1])
    distance = np.hypot(p, q)
    if profile is not None:
        index = (np.arctan2(q, p) * np.float32(ANGLES / (2 * np.pi))).astype(np.intp)  # negative ones wrap around
        distance /= np.take(profile, index, mode="wrap")
    return (distance - 1) * np.float32(min(radii))


def one_piece(level: np.ndarray) -> np.ndarray:
    """Keep the largest connected part of the inside of `level` and close its holes; the rest becomes outside.

    A hole is a part of the outside that does not reach the border of the image.
    """
    parts, count = ndimage.label(level < 0)
    if count == 0:
        return level
    inside = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    outside, count = ndimage.label(~inside)
    if count > 1:
        reaching = np.zeros(count + 1, bool)
        for edge in (outside[0], outside[-1], outside[:, 0], outside[:, -1]):
            reaching[edge] = True
        reaching[0] = False
        inside = ~reaching[outside]
    distance = np.abs(level) + np.float32(1e-6)
    return np.where(inside, -distance, distance)

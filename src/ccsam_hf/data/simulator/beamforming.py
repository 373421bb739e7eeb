"""Beamforming: maps of tissue -> B-mode image, by the convolution model of ultrasound.

The radio-frequency signal is a field of random scatterers convolved with the pulse-echo response of the probe (Jensen,
"Field: a program for simulating ultrasound systems", Med. Biol. Eng. Comput. 34, 1996; Bamber and Dickinson,
"Ultrasonic B-scanning: a computer simulation", Phys. Med. Biol. 25, 1980). The envelope of that signal is the modulus
of the same convolution at baseband, where the carrier leaves a phase uniform in [0, 2 pi) on each scatterer, because
scatterers lie anywhere within a wavelength. So the speckle of a homogeneous tissue follows the Rayleigh law (Wagner,
Smith, Sandrik and Lopez, "Statistics of speckle in ultrasound B-scans", IEEE Trans. Sonics Ultrason. 30, 1983), and
smooth interfaces, whose echoes add up in phase, do not. The steps are those of a scanner: attenuation along the beams,
side lobes, envelope, noise, log compression, time-gain compensation, scan conversion, smoothing and edge enhancement.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import fft, ndimage

from .phantoms import Phantom, Sector


@dataclass(frozen=True)
class Scanner:
    """Settings of one machine and one operator; lengths in fractions of the image, levels in decibels.

    Attributes:
        oversampling: rows and columns of the beamformed data per row and column of the image.
        axial_width, lateral_width: standard deviation of the pulse down and of the beam across at the focus.
        defocus: how many times wider the beam is, one image height away from the focus.
        focus_depth: depth of the focus.
        aperture: width across which the beams pass through the tissue above: it blurs the sides of shadows.
        looks: number of sub-bands whose intensities are averaged (frequency compounding).
        noise_db: level of the electronic noise; 0 is the mean echo of the reference tissue.
        clutter_db: level of the side lobes, relative to the tissue that causes them.
        gain_curve_db: (H,) error of the time-gain compensation, added to each row.
        dynamic_range_db: span of the grey scale.
        brightness: grey level, in [0, 1], given to the tissue at the `brightness_quantile` of the echoes.
        gamma: exponent of the grey map.
        speckle_reduction: weight, in [0, 1], of the adaptive filter.
        smoothing: standard deviation of the smoothing after compression, in pixels of the image.
        sharpening: weight of the edge enhancement.
        jpeg_quality: quality of a lossy copy on the way, or None.
    """

    oversampling: tuple[float, float]
    axial_width: float
    lateral_width: float
    defocus: float
    focus_depth: float
    aperture: float
    looks: int
    noise_db: float
    clutter_db: float
    gain_curve_db: np.ndarray
    dynamic_range_db: float
    brightness: float
    brightness_quantile: float
    gamma: float
    speckle_reduction: float
    smoothing: float
    sharpening: float
    jpeg_quality: int | None


def random_scanner(rng: Generator, rows: int) -> Scanner:
    """A machine and an operator at random: every factor varies widely, so that a model cannot rely on any."""
    depth = np.linspace(0, 1, rows, dtype=np.float32)
    gain_curve = rng.normal(-11, 8) * depth + rng.normal(0, 3) * np.sin(np.pi * rng.uniform(0.5, 2.5) * depth)
    gain_curve = gain_curve + rng.normal(0, 2) * np.sin(np.pi * rng.uniform(2, 5) * depth + rng.uniform(0, 6))
    axial = float(np.exp(rng.uniform(np.log(0.0013), np.log(0.0036))))
    return Scanner(
        oversampling=tuple(rng.uniform(1.0, 1.5, 2)) if axial < 0.003 else (1.0, 1.0),
        axial_width=axial,
        lateral_width=axial * rng.uniform(1.0, 2.5),
        defocus=rng.uniform(1.0, 4.0),
        focus_depth=rng.uniform(0.15, 0.8),
        aperture=rng.uniform(0.012, 0.08),
        looks=int(rng.integers(1, 5)),
        noise_db=rng.uniform(-55, -24),
        clutter_db=rng.uniform(-48, -18),
        gain_curve_db=gain_curve.astype(np.float32),
        dynamic_range_db=rng.uniform(45, 85),
        brightness=rng.uniform(0.2, 0.62),
        brightness_quantile=rng.uniform(0.45, 0.75),
        gamma=rng.uniform(0.75, 1.4),
        speckle_reduction=rng.uniform(0.2, 1.0) if rng.random() < 0.75 else 0.0,
        smoothing=rng.uniform(0.3, 0.9) if rng.random() < 0.4 else 0.0,
        sharpening=rng.uniform(0.2, 1.0) if rng.random() < 0.4 else 0.0,
        jpeg_quality=int(rng.integers(35, 93)) if rng.random() < 0.3 else None,
    )


def pulse_spectrum(size: tuple[int, int], axial_px: float, lateral_px: float, offset: float = 0.0) -> np.ndarray:
    """Fourier transform of the pulse-echo response at baseband: a Gaussian of unit energy.

    Args:
        size: (height, width) of the grid.
        axial_px, lateral_px: standard deviation of the response in pixels.
        offset: shift of its centre frequency, in cycles per pixel of depth: a sub-band of the pulse.

    Returns:
        (H, W) float32; white noise of unit variance keeps unit variance.
    """
    rows = (fft.fftfreq(size[0]) - offset + 0.5) % 1 - 0.5
    axial = np.exp(-2 * (np.pi * axial_px * rows) ** 2)
    lateral = np.exp(-2 * (np.pi * lateral_px * fft.fftfreq(size[1])) ** 2)
    axial, lateral = axial / np.sqrt(np.mean(axial**2)), lateral / np.sqrt(np.mean(lateral**2))
    return np.outer(axial, lateral).astype(np.float32)


def random_scatterers(rng: Generator, size: tuple[int, int], density: float | np.ndarray = 1.0) -> np.ndarray:
    """Circular complex Gaussian scatterers of unit mean power.

    Args:
        size: (height, width) of the grid.
        density: share of the grid cells that hold a scatterer, in (0, 1], scalar or (H, W). Few scatterers in a cell
            of resolution give the heavy tails of partially developed speckle.

    Returns:
        (H, W) complex64.
    """
    parts = rng.standard_normal((*size, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    scatterers = parts.view(np.complex64)[..., 0]
    if np.min(density) < 1:
        present = rng.random(size, dtype=np.float32) < density
        scatterers *= present / np.sqrt(density)
    return scatterers


def envelope(scatterers: np.ndarray, axial_px: float, lateral_px: float) -> np.ndarray:
    """Envelope of the echo of a scatterer field for one pulse: Rayleigh-distributed where the field is homogeneous."""
    return np.abs(fft.ifft2(fft.fft2(scatterers) * pulse_spectrum(scatterers.shape, axial_px, lateral_px)))


def compounded_intensity(scatterers: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Mean intensity over the sub-bands of the pulse, the beam widening away from the focus; (H, W) float32."""
    height, width = scatterers.shape
    axial_px, lateral_px = scanner.axial_width * height, scanner.lateral_width * width
    depth = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    beam_px = lateral_px * (1 + (scanner.defocus - 1) * np.abs(depth - np.float32(scanner.focus_depth)))
    beams = np.exp(-2 * (np.pi * beam_px * fft.fftfreq(width).astype(np.float32)) ** 2)
    beams /= np.sqrt(np.mean(beams**2, axis=1, keepdims=True))
    echo_spectrum = fft.fft(fft.fft(scatterers, axis=1) * beams, axis=0)
    intensity = np.zeros((height, width), np.float32)
    for look in range(scanner.looks):
        offset = (look - (scanner.looks - 1) / 2) * 0.16 / axial_px
        signal = fft.ifft2(echo_spectrum * pulse_spectrum((height, 1), axial_px, 0.0, offset), overwrite_x=True)
        intensity += signal.real**2 + signal.imag**2
    return intensity / scanner.looks


def stretch(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize of a float32 map (antialiased when it shrinks), the frame staying the same."""
    if field.shape == size:
        return field
    return np.asarray(Image.fromarray(field).resize(size[::-1], Image.Resampling.BILINEAR))


class ScanConversion:
    """Between the image and the beams of a sector: rows of the beam grid are ranges, columns are angles."""

    def __init__(self, sector: Sector, size: tuple[int, int]):
        height, width = size
        ranges = np.linspace(sector.near, sector.far, height, dtype=np.float32)[:, None]
        angles = np.linspace(-sector.half_angle, sector.half_angle, width, dtype=np.float32)[None, :]
        u = sector.apex[0] + ranges * np.sin(angles)
        v = sector.apex[1] + ranges * np.cos(angles)
        self.rows = np.clip((v * height).astype(np.int64), 0, height - 1)
        self.columns = np.clip((u * width).astype(np.int64), 0, width - 1)
        reach, angle = sector.polar(size)
        self.positions = np.stack(
            [
                (reach - sector.near) / (sector.far - sector.near) * (height - 1),
                (angle + sector.half_angle) / (2 * sector.half_angle) * (width - 1),
            ]
        )

    def to_beams(self, image: np.ndarray) -> np.ndarray:
        """Nearest sample of an image map (H, W) on the beam grid (H, W)."""
        return image[self.rows, self.columns]

    def to_image(self, beams: np.ndarray) -> np.ndarray:
        """Bilinear image (H, W) of a map on the beam grid."""
        return ndimage.map_coordinates(beams, self.positions, order=1, mode="nearest")


def echo_levels(phantom: Phantom, scanner: Scanner, rng: Generator) -> np.ndarray:
    """Level of the received echoes in decibels, (H, W) float32: everything up to the display."""
    size = phantom.echo_db.shape
    echo_db, loss_db = phantom.echo_db, phantom.attenuation_db
    interfaces, density = phantom.interfaces, phantom.density
    scan = ScanConversion(phantom.sector, size) if phantom.sector else None
    if scan:
        echo_db, loss_db, interfaces, density = map(scan.to_beams, (echo_db, loss_db, interfaces, density))
    loss_db = ndimage.uniform_filter1d(
        np.cumsum(loss_db, axis=0) / size[0], max(3, int(scanner.aperture * size[1])), axis=1
    )
    transmission = 10 ** (-loss_db / 20)
    amplitude = 10 ** (echo_db / 20) * transmission
    clutter = ndimage.uniform_filter(amplitude, (max(3, size[0] // 25), max(3, size[1] // 8)))
    amplitude = amplitude + clutter * 10 ** (scanner.clutter_db / 20)
    amplitude = np.hypot(
        amplitude, np.float32(10 ** (scanner.noise_db / 20))
    )  # noise passes the same filters as echoes
    grid = tuple(
        fft.next_fast_len(int(side * factor)) for side, factor in zip(size, scanner.oversampling, strict=True)
    )
    scatterers = random_scatterers(rng, grid, stretch(density, grid) if density.min() < 1 else 1.0)
    scatterers = scatterers * stretch(amplitude, grid) + stretch(interfaces * transmission, grid)
    intensity = compounded_intensity(scatterers, scanner)
    level_db = stretch(10 * np.log10(intensity + np.float32(1e-9)), size)
    level_db = level_db + scanner.gain_curve_db[:, None]
    return scan.to_image(level_db) if scan else level_db


def reduce_speckle(level_db: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Average where the levels vary no more than speckle does, leave edges as they are; (H, W) float32.

    Source: Lee, "Digital image enhancement and noise filtering by use of local statistics", IEEE Trans. PAMI 2, 1980,
    after compression, where speckle is additive with a standard deviation of 5.6 dB (a single look).
    """
    mean = ndimage.uniform_filter(level_db, 5)
    variance = np.maximum(ndimage.uniform_filter(level_db**2, 5) - mean**2, np.float32(1e-3))
    speckle_variance = np.float32(5.57**2 / scanner.looks)
    kept = np.clip(1 - speckle_variance / variance, 0, 1)
    filtered = mean + kept * (np.maximum(level_db, mean - 6) - mean)  # the dark pits of speckle are no edges
    return level_db + np.float32(scanner.speckle_reduction) * (filtered - level_db)


def display(level_db: np.ndarray, visible: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Grey image (H, W) uint8 of echo levels: log compression, grey map and post-processing of the machine."""
    reference = np.quantile(level_db[::4, ::4][visible[::4, ::4]], scanner.brightness_quantile)
    if scanner.speckle_reduction:
        level_db = reduce_speckle(level_db, scanner)
    grey = np.clip((level_db - reference) / scanner.dynamic_range_db + scanner.brightness, 0, 1)
    if scanner.smoothing:
        grey = ndimage.gaussian_filter(grey, scanner.smoothing, truncate=2.5)
    if scanner.sharpening:
        grey = np.clip(grey + scanner.sharpening * (grey - ndimage.uniform_filter(grey, 5)), 0, 1)
    grey = np.where(visible, grey**scanner.gamma, 0)
    return np.rint(255 * grey).astype(np.uint8)

"""Tissues: layers, distractors and lesions, painted onto a canvas of echo level, attenuation and interfaces.

Each function owns one tissue that a sonographer would name. Margins, echo patterns and posterior features follow the
ACR BI-RADS and TI-RADS ultrasound lexicons. No number is fitted to a data set: each is drawn from a range that is
wider than what the eye accepts as plausible.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from .shapes import (
    follow,
    one_piece,
    outline_level,
    profile_of,
    random_curve,
    random_field,
    ridges,
    scene_grid,
    soft_inside,
)

MIN_AREA = 0.0025  # of the image: smaller structures are drawn again
MIN_CONTRAST_DB = 5.0  # of a lesion that no dark halo shows


@dataclass
class Canvas:
    """Maps under construction and the random generator of the scene."""

    rng: Generator
    size: tuple[int, int]
    u: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)
    echo_db: np.ndarray = field(init=False)
    attenuation_db: np.ndarray = field(init=False)
    interfaces: np.ndarray = field(init=False)
    density: np.ndarray = field(init=False)

    def __post_init__(self):
        self.u, self.v = scene_grid(self.size)
        self.echo_db, self.attenuation_db, self.interfaces = (np.zeros(self.size, np.float32) for _ in range(3))
        self.density = np.ones(self.size, np.float32)

    def field(self, axial: float, lateral: float) -> np.ndarray:
        """A random field over the scene, (H, W), of unit variance."""
        return random_field(self.rng, self.size, axial, lateral)

    def course(self, lateral: float) -> np.ndarray:
        """A random function of u, (1, W), of unit variance: what changes along a line."""
        return random_field(self.rng, (8, self.size[1]), 0.5, lateral)[:1]

    def curve(self) -> np.ndarray:
        """A smooth depth offset over u, (1, W), of about -1 to 1."""
        return random_curve(self.rng, self.u)

    def paint(self, share: np.ndarray, echo_db: np.ndarray | float, density: float = 1.0) -> None:
        """Cover with a tissue: `share` in [0, 1] of it in each pixel; the interfaces it covers vanish."""
        self.density += share * (density - self.density)
        self.echo_db += share * (echo_db - self.echo_db)
        self.interfaces *= 1 - share


def chance(rng: Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


# --- layers of soft tissue -------------------------------------------------------------------------------------------


def sparse(rng: Generator) -> float:
    """Density of scatterers of a tissue: mostly full, sometimes few enough for coarse, partially developed speckle."""
    return 1.0 if chance(rng, 0.85) else float(rng.uniform(0.2, 0.7))


def fat(canvas: Canvas, curve: np.ndarray) -> np.ndarray:
    """Echo level of subcutaneous fat (H, W): even lobules between bright septa, which also enter the interfaces."""
    rng = canvas.rng
    lobules = canvas.field(rng.uniform(0.02, 0.07), rng.uniform(0.06, 0.2))
    septa = ridges(follow(lobules, curve), rng.uniform(0.04, 0.15)) * np.clip(canvas.field(0.05, 0.08), 0, 2)
    canvas.interfaces += septa * rng.uniform(0, 1.0)
    fine = rng.uniform(0.004, 0.01)
    streaks = follow(canvas.field(fine, fine * rng.uniform(2, 6)), curve)
    patches = canvas.field(0.03, 0.06)
    return rng.uniform(-12, 0) + septa * rng.uniform(3, 12) + rng.uniform(0, 3) * streaks + rng.uniform(0, 3) * patches


def gland_tissue(canvas: Canvas, curve: np.ndarray) -> np.ndarray:
    """Echo level of fibroglandular tissue: streaks along the layer, patches of fat and dark ducts."""
    rng = canvas.rng
    fine = rng.uniform(0.004, 0.012)
    curve = curve + rng.uniform(0, 0.12) * canvas.curve()
    streaks = follow(canvas.field(fine, fine * rng.uniform(1.5, 7)), curve)
    patches = canvas.field(rng.uniform(0.02, 0.09), rng.uniform(0.04, 0.16))
    grain = rng.uniform(0.008, 0.025)
    lobules = follow(canvas.field(grain, grain * rng.uniform(1, 2.5)), curve)
    level = rng.uniform(-3, 3) + rng.uniform(1, 5) * streaks + rng.uniform(0, 5) * lobules
    level = level + rng.uniform(1, 6) * patches
    if chance(rng, 0.9):
        coarse = rng.uniform(0.008, 0.025)
        fibres = ridges(follow(canvas.field(coarse, coarse * rng.uniform(2, 8)), curve), rng.uniform(0.1, 0.35))
        fibres = fibres * np.clip(canvas.field(0.04, 0.06) + rng.uniform(-0.3, 1.0), 0, 2)
        level = level + fibres * rng.uniform(4, 15)
        canvas.interfaces += fibres * rng.uniform(0, 0.9)
    if chance(rng, 0.35):
        spots = canvas.field(rng.uniform(0.012, 0.035), rng.uniform(0.015, 0.06))
        level = level - rng.uniform(4, 14) * soft_inside(rng.uniform(0.8, 1.6) - spots, 0.15)
    return level


def muscle(canvas: Canvas, curve: np.ndarray) -> np.ndarray:
    """Echo level of a muscle: dark, with long bright striations."""
    rng = canvas.rng
    fine = rng.uniform(0.005, 0.016)
    fibres = ridges(follow(canvas.field(fine, rng.uniform(0.06, 0.3)), curve), rng.uniform(0.15, 0.5))
    fibres = fibres * np.clip(canvas.field(0.04, 0.1) + rng.uniform(0, 0.7), 0, 2)
    canvas.interfaces += fibres * rng.uniform(0, 0.6)
    return rng.uniform(-16, -2) + fibres * rng.uniform(3, 15) + rng.uniform(0, 4) * canvas.field(0.02, 0.06)


def below(canvas: Canvas, depth: np.ndarray, softness: float) -> np.ndarray:
    """Share (H, W) of what lies deeper than the curve `depth` (1, W)."""
    return soft_inside(depth - canvas.v, softness)


def fascia(canvas: Canvas, depth: np.ndarray, thickness: float, strength: float) -> None:
    """A bright smooth line along `depth`, its strength varying along its course."""
    rng = canvas.rng
    depth = depth + rng.uniform(0, 0.004) * canvas.course(0.02)
    line = np.exp(-(((canvas.v - depth) / thickness) ** 2))
    course = np.clip(rng.uniform(-0.2, 0.8) + canvas.course(rng.uniform(0.02, 0.1)), 0, 2)
    canvas.interfaces += line * course * strength * rng.uniform(0.1, 0.8)
    canvas.echo_db += line * course * rng.uniform(0, 9)


def skin(canvas: Canvas) -> None:
    """Bright entry echo, dermis and the reverberations of the first millimetres; some images are cropped below it."""
    rng = canvas.rng
    if chance(rng, 0.25):
        return
    thickness = rng.uniform(0.008, 0.06)
    share = soft_inside(canvas.v - thickness, 0.004) * np.ones_like(canvas.u)
    canvas.paint(share, rng.uniform(-6, 10))
    for echo in range(int(rng.integers(0, 4))):
        fascia(
            canvas, thickness * (1 + echo) + 0 * canvas.u, rng.uniform(0.002, 0.006), rng.uniform(0.5, 5) / (1 + echo)
        )


def bones(canvas: Canvas, depth: np.ndarray) -> None:
    """Ribs with their shadows, or a pleural line with its reverberations, at the bottom of a breast image."""
    rng = canvas.rng
    if chance(rng, 0.3):
        for _ in range(int(rng.integers(1, 4))):
            centre = rng.uniform(0, 1)
            top = float(depth[0, int(centre * canvas.size[1])])
            radii = (rng.uniform(0.05, 0.16), rng.uniform(0.03, 0.1))
            level = outline_level(canvas.u, canvas.v, (centre, top + radii[1]), radii, 0)
            canvas.paint(soft_inside(level, 0.006), rng.uniform(-22, -8))
            surface = np.exp(-((level / rng.uniform(0.004, 0.012)) ** 2)) * (canvas.v < top + 0.6 * radii[1])
            surface = surface * np.clip(canvas.course(0.03) + 0.5, 0, 2)
            canvas.interfaces += surface * rng.uniform(0, 0.5)
            canvas.echo_db += surface * rng.uniform(3, 14)
            canvas.attenuation_db += soft_inside(level, 0.01) * rng.uniform(60, 250)
    else:
        spacing = rng.uniform(0.05, 0.14)
        for echo in range(int(rng.integers(1, 4))):
            fascia(canvas, depth + 0.04 + echo * spacing, rng.uniform(0.003, 0.01), rng.uniform(0.3, 2) / (1 + echo))


# --- dark things that are no lesion ----------------------------------------------------------------------------------


def shadows(canvas: Canvas, probability: float) -> None:
    """Columns of lost signal: poor contact, nipple, ligaments, calcified tissue."""
    rng = canvas.rng
    while chance(rng, probability):
        centre, start, width = rng.uniform(0, 1), rng.uniform(0, 0.7), rng.uniform(0.01, 0.12)
        column = np.exp(-(((canvas.u - centre + rng.normal(0, 0.15) * (canvas.v - start)) / width) ** 2))
        canvas.attenuation_db += column * (canvas.v > start) * rng.uniform(5, 45)
    if chance(rng, 0.3):  # one side without contact
        edge = rng.uniform(0.03, 0.25)
        side = canvas.u if chance(rng, 0.5) else 1 - canvas.u
        canvas.attenuation_db += soft_inside(side - edge, edge / 4) * rng.uniform(10, 60) * np.ones_like(canvas.v)


def distractors(canvas: Canvas, top: float, bottom: float) -> None:
    """Fat lobules, ducts, vessels and blurred dark patches between the depths `top` and `bottom`."""
    rng = canvas.rng
    for _ in range(int(rng.integers(0, 5))):
        centre = (rng.uniform(0, 1), rng.uniform(top, bottom))
        kind = rng.choice(["lobule", "duct", "vessel", "patch"], p=[0.4, 0.2, 0.15, 0.25])
        if kind == "lobule":
            radii, drop, softness = (rng.uniform(0.04, 0.16), rng.uniform(0.015, 0.06)), rng.uniform(2, 9), 0.006
        elif kind == "duct":
            radii, drop, softness = (rng.uniform(0.05, 0.2), rng.uniform(0.005, 0.018)), rng.uniform(6, 20), 0.003
        elif kind == "vessel":
            radius = rng.uniform(0.01, 0.035)
            radii, drop, softness = (radius, radius * rng.uniform(0.6, 1.2)), rng.uniform(10, 25), 0.003
        else:
            radii, drop, softness = (rng.uniform(0.04, 0.2), rng.uniform(0.04, 0.2)), rng.uniform(2, 10), 0.03
        profile = profile_of(rng, "lobulated" if kind in ("lobule", "patch") else "oval")
        level = outline_level(canvas.u, canvas.v, centre, radii, rng.normal(0, 0.4), profile)
        share = soft_inside(level, softness * rng.uniform(0.5, 2))
        canvas.paint(share * rng.uniform(0.5, 1), canvas.echo_db - drop)
        if kind in ("lobule", "vessel"):
            wall = np.exp(-((level / 0.004) ** 2)) * np.clip(canvas.field(0.04, 0.05), 0, 2)
            canvas.interfaces += wall * rng.uniform(0, 0.4)
            canvas.echo_db += wall * rng.uniform(0, 8)


# --- lesions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LesionKind:
    """Ranges from which a lesion is drawn; decibels are relative to the tissue it replaces.

    Attributes:
        weight: how often it appears, relative to the other kinds.
        margins: kinds of outline, equally likely.
        contrast_db: level inside.
        softness: width of the border, as a fraction of the image.
        heterogeneity_db: standard deviation of the patches inside.
        loss_db: attenuation over one lesion height; negative is posterior enhancement.
        rim: strength of a smooth capsule.
        halo_db: level of a broad rim around the lesion.
        tallness: ratio of height to width.
    """

    weight: float
    margins: tuple[str, ...]
    contrast_db: tuple[float, float]
    softness: tuple[float, float]
    heterogeneity_db: tuple[float, float]
    loss_db: tuple[float, float]
    rim: tuple[float, float]
    halo_db: tuple[float, float]
    tallness: tuple[float, float]


BREAST_LESIONS = (
    LesionKind(  # carcinoma: irregular, unsharp, shadowing
        0.40,
        ("irregular", "spiculated", "angular", "lobulated"),
        (-22, -4),
        (0.002, 0.014),
        (0.5, 5),
        (-4, 32),
        (0, 0.4),
        (-1, 7),
        (0.45, 1.7),
    ),
    LesionKind(  # fibroadenoma: oval, sharp, a capsule
        0.30, ("oval", "lobulated"), (-18, -3), (0.002, 0.01), (0.2, 2.5), (-8, 4), (0, 1.2), (-1, 3), (0.3, 0.95)
    ),
    LesionKind(  # cyst: anechoic, enhancing
        0.20,
        ("oval", "oval", "lobulated"),
        (-45, -18),
        (0.002, 0.007),
        (0, 2),
        (-14, 0),
        (0, 1.5),
        (-1, 2),
        (0.35, 1.2),
    ),
    LesionKind(  # isoechoic or hyperechoic
        0.10,
        ("oval", "lobulated", "irregular"),
        (-3, 8),
        (0.002, 0.012),
        (0.5, 3),
        (-4, 6),
        (0, 1.5),
        (-9, 0),
        (0.3, 1.2),
    ),
)

THYROID_NODULES = (
    LesionKind(  # suspicious: hypoechoic, irregular, taller than wide
        0.33,
        ("irregular", "angular", "lobulated", "spiculated"),
        (-20, -4),
        (0.002, 0.016),
        (0.5, 4),
        (-3, 16),
        (0, 0.5),
        (-3, 3),
        (0.6, 1.7),
    ),
    LesionKind(  # adenoma, isoechoic with a dark halo
        0.32, ("oval", "lobulated"), (-7, 6), (0.002, 0.01), (0.5, 4), (-6, 3), (0, 1.0), (-14, -2), (0.5, 1.2)
    ),
    LesionKind(  # spongiform or mixed
        0.20, ("oval", "lobulated"), (-12, 0), (0.002, 0.01), (3, 10), (-10, 0), (0, 1.2), (-6, 2), (0.5, 1.2)
    ),
    LesionKind(  # cyst
        0.15,
        ("oval", "oval", "lobulated"),
        (-45, -18),
        (0.002, 0.006),
        (0, 3),
        (-14, 0),
        (0, 1.5),
        (-1, 2),
        (0.5, 1.2),
    ),
)


def draw_kind(rng: Generator, kinds: tuple[LesionKind, ...]) -> LesionKind:
    """One of the kinds, by their weights."""
    weights = np.array([kind.weight for kind in kinds])
    return kinds[rng.choice(len(kinds), p=weights / weights.sum())]


def lesion_outline(
    canvas: Canvas, kind: LesionKind, centre: tuple[float, float], width: float, max_height: float = 1.0
) -> np.ndarray:
    """Level (H, W) of a lesion in one piece: a named margin, roughened by random fields at two scales.

    Args:
        centre: (u, v).
        width, max_height: full width and largest height, as fractions of the image.
    """
    rng = canvas.rng
    margin = str(rng.choice(kind.margins))
    height = min(width * rng.uniform(*kind.tallness), max_height)
    radii = (width / 2, height / 2)
    u, v = canvas.u, canvas.v
    if margin != "oval" and chance(rng, 0.5):  # bent outlines, which no radius describes
        u = u + rng.uniform(0, 0.14) * width * canvas.field(0.2 * height, 0.2 * width)
        v = v + rng.uniform(0, 0.14) * height * canvas.field(0.2 * height, 0.2 * width)
    level = outline_level(u, v, centre, radii, rng.normal(0, 0.35), profile_of(rng, margin))
    rough = {"oval": 0.05, "lobulated": 0.12, "angular": 0.15, "irregular": 0.35, "spiculated": 0.3}[margin]
    scale = max(width, height)
    level = level + rng.uniform(0, rough) * min(radii) * canvas.field(0.14 * scale, 0.14 * scale)
    if rough > 0.1:
        level = level + rng.uniform(0, 0.4 * rough) * min(radii) * canvas.field(0.05 * scale, 0.05 * scale)
    return one_piece(level)


def paint_lesion(canvas: Canvas, kind: LesionKind, level: np.ndarray) -> None:
    """Put a lesion with the given level onto the canvas: inside, rim, halo, calcifications, its effect on the beam."""
    rng = canvas.rng
    inside = level < 0
    rows = np.flatnonzero(inside.any(1))
    height = max((rows[-1] - rows[0] + 1) / canvas.size[0], 0.02)
    surrounding = float(canvas.echo_db[np.abs(level) < 0.03].mean())
    softness = rng.uniform(*kind.softness) * np.exp(np.clip(rng.uniform(0, 0.9) * canvas.field(0.1, 0.1), -1.5, 1.5))
    blur_below = rng.uniform(0, 3) * kind.softness[1] / 0.014
    middle = rows.mean() / canvas.size[0]
    share = soft_inside(level, softness * (1 + blur_below * np.clip((canvas.v - middle) / height, 0, 0.5)))
    halo_db = rng.uniform(*kind.halo_db)
    halo_width = rng.uniform(0.006, 0.03)
    canvas.echo_db += halo_db * np.exp(-(((level - 0.5 * halo_width) / halo_width) ** 2))
    grain = rng.uniform(0.015, 0.07)
    patches = canvas.field(grain, grain * rng.uniform(0.8, 2))
    texture = rng.uniform(*kind.heterogeneity_db) * patches
    texture = texture + rng.normal(0, 2.5) * np.clip(-level / height, 0, 0.5)  # the centre against the border
    contrast = rng.uniform(*kind.contrast_db)
    if abs(contrast) < MIN_CONTRAST_DB and halo_db > -4:
        contrast = np.copysign(MIN_CONTRAST_DB, contrast)
    canvas.paint(share, surrounding + contrast + texture, sparse(rng))
    rim = np.exp(-((level / rng.uniform(0.002, 0.006)) ** 2)) * np.clip(canvas.field(0.05, 0.08) + 0.2, 0, 2)
    canvas.interfaces += rim * rng.uniform(*kind.rim) * 0.5
    canvas.echo_db += rim * rng.uniform(*kind.rim) * 6
    canvas.attenuation_db += share * rng.uniform(*kind.loss_db) / height
    if chance(rng, 0.25):  # calcifications
        dense = rng.uniform(0.0005, 0.01) * np.clip(canvas.field(0.05, 0.05), 0, 2)
        specks = (rng.random(canvas.size, dtype=np.float32) < dense) & (level < -0.005)
        canvas.interfaces += specks * 10 ** (surrounding / 20) * rng.uniform(2, 10)
    if chance(rng, 0.15):  # septa inside
        canvas.echo_db += ridges(patches, 0.1) * share * rng.uniform(3, 14)
    if chance(rng, 0.15):  # cystic parts
        canvas.echo_db -= soft_inside(rng.uniform(0.4, 1.2) - patches, 0.1) * share * rng.uniform(8, 20)
    if chance(rng, 0.3):  # shadows of the lateral edges, by refraction
        columns = np.flatnonzero(inside.any(0))
        for edge in (columns[0], columns[-1]):
            column = np.exp(-(((canvas.u - edge / canvas.size[1]) / rng.uniform(0.008, 0.02)) ** 2))
            start = rows.mean() / canvas.size[0]
            canvas.attenuation_db += column * (canvas.v > start) * (canvas.v < start + 0.1) * rng.uniform(20, 80)


def lesion_width(rng: Generator) -> float:
    """Width of a lesion as a fraction of the image, from 8 % to 75 %: log-uniform, with a surplus of large ones."""
    if chance(rng, 0.35):
        return float(rng.uniform(0.2, 0.7))
    return float(np.exp(rng.uniform(np.log(0.08), np.log(0.75))))

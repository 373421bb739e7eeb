"""Phantoms: target name -> maps of the tissue and the exact masks of its structures.

A phantom is painted from the skin downwards with the tissues of `tissues`. The scenes follow the sonographic anatomy
of the breast, of the thyroid, and of the apical views of the heart with the three structures that CAMUS annotates
(Leclerc et al., "Deep learning for segmentation using an open large-scale dataset in 2D echocardiography", IEEE Trans.
Med. Imaging 38, 2019).
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from .shapes import (
    one_piece,
    outline_level,
    profile_of,
    scene_grid,
    soft_inside,
)
from .tissues import (
    BREAST_LESIONS,
    MIN_AREA,
    THYROID_NODULES,
    Canvas,
    LesionKind,
    below,
    bones,
    chance,
    distractors,
    draw_kind,
    fascia,
    fat,
    gland_tissue,
    lesion_outline,
    lesion_width,
    muscle,
    paint_lesion,
    shadows,
    skin,
    sparse,
)


@dataclass(frozen=True)
class Sector:
    """Field of view of a phased array: apex (u, v), half opening angle in radians, nearest and farthest range."""

    apex: tuple[float, float]
    half_angle: float
    near: float
    far: float

    def polar(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Range and angle of every pixel, each (H, W) float32."""
        u, v = scene_grid(size)
        du, dv = u - np.float32(self.apex[0]), v - np.float32(self.apex[1])
        return np.hypot(du, dv), np.arctan2(du, dv)

    def visible(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool: pixels inside the sector."""
        reach, angle = self.polar(size)
        return (reach >= self.near) & (reach <= self.far) & (np.abs(angle) <= self.half_angle)


@dataclass(frozen=True)
class Phantom:
    """What a scene is made of, every map (H, W).

    Attributes:
        echo_db: mean backscatter in decibels; 0 is the reference tissue of the scene.
        attenuation_db: loss of the echo in decibels per image height beyond what the scanner compensates; negative
            where the tissue attenuates less, which brightens what lies below (posterior enhancement).
        interfaces: amplitude of smooth reflectors, whose echo has no speckle.
        density: share of cells that hold a scatterer.
        visible: bool, the field of view.
        masks: exact bool mask of every annotated structure.
        sector: geometry of the beams, or None for a linear array.
        depth_mm, width_mm: physical size of the image.
    """

    echo_db: np.ndarray
    attenuation_db: np.ndarray
    interfaces: np.ndarray
    density: np.ndarray
    visible: np.ndarray
    masks: dict[str, np.ndarray]
    sector: Sector | None
    depth_mm: float
    width_mm: float


def without_specks(mask: np.ndarray) -> np.ndarray:
    """The mask without the few pixels that the edge of the field of view cuts off: parts below 5 % of the largest."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    return (areas >= 0.05 * areas.max())[parts] & mask


def finish(
    canvas: Canvas,
    masks: dict[str, np.ndarray],
    depth_mm: float,
    width_mm: float,
    sector: Sector | None = None,
) -> Phantom:
    """The phantom of a painted canvas; masks end where the field of view ends."""
    visible = sector.visible(canvas.size) if sector else np.ones(canvas.size, bool)
    maps = (canvas.echo_db, canvas.attenuation_db, canvas.interfaces, canvas.density)
    masks = {name: without_specks(mask & visible) for name, mask in masks.items()}
    return Phantom(*(np.asarray(each, np.float32) for each in maps), visible, masks, sector, depth_mm, width_mm)


def breast_lesion_outline(canvas: Canvas) -> tuple[LesionKind, np.ndarray]:
    """A kind of lesion and its level (H, W), anywhere in the breast, also cut by the border of the image."""
    rng = canvas.rng
    while True:
        kind = draw_kind(rng, BREAST_LESIONS)
        width = lesion_width(rng)
        centre = (rng.uniform(0.04, 0.96), rng.uniform(0.12, 0.35 + 0.4 * rng.random()))
        if width > 0.35:
            centre = (rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.65))
        level = lesion_outline(canvas, kind, centre, width, rng.uniform(0.35, 0.95))
        if (level < 0).mean() >= MIN_AREA:
            return kind, level


def breast(canvas: Canvas) -> Phantom:
    """A breast on a linear array: skin, fat, gland, muscle, ribs, distractors and one lesion (rarely two)."""
    rng = canvas.rng
    curve = canvas.curve() * rng.uniform(0.01, 0.06)
    fat_end = rng.uniform(0.02, 0.38) + curve
    gland_end = fat_end + rng.uniform(0.12, 0.8) + canvas.curve() * rng.uniform(0.01, 0.05)
    muscle_end = gland_end + rng.uniform(0.06, 0.3) + canvas.curve() * 0.02
    softness = rng.uniform(0.004, 0.03)
    canvas.paint(np.ones(canvas.size, np.float32), fat(canvas, curve), sparse(rng))
    canvas.paint(
        below(canvas, fat_end + 0.03 * canvas.field(0.05, 0.06), softness), gland_tissue(canvas, fat_end), sparse(rng)
    )
    if chance(rng, 0.8):
        canvas.paint(below(canvas, gland_end, 0.006), muscle(canvas, gland_end))
        fascia(canvas, gland_end, rng.uniform(0.003, 0.008), rng.uniform(0, 2))
        if chance(rng, 0.7):
            canvas.paint(below(canvas, muscle_end, 0.008), rng.uniform(-25, -6))
            bones(canvas, muscle_end)
    if chance(rng, 0.4):
        fascia(canvas, fat_end, rng.uniform(0.003, 0.007), rng.uniform(0, 1.5))
    canvas.echo_db += rng.uniform(0, 4) * canvas.field(0.15, 0.15)
    skin(canvas)
    distractors(canvas, 0.05, 0.9)
    kind, level = breast_lesion_outline(canvas)
    paint_lesion(canvas, kind, level)
    mask = level < 0
    if chance(rng, 0.04):
        kind, level = breast_lesion_outline(canvas)
        if not (mask & (level < 0.03)).any():
            paint_lesion(canvas, kind, level)
            mask = mask | (level < 0)
    shadows(canvas, 0.4)
    return finish(canvas, {"breast lesion": mask}, depth_mm=rng.uniform(25, 60), width_mm=rng.uniform(36, 52))


# --- thyroid ---------------------------------------------------------------------------------------------------------


def neck(canvas: Canvas) -> None:
    """Skin, thin fat and strap muscles, the ground on which the thyroid lies."""
    rng = canvas.rng
    curve = canvas.curve() * rng.uniform(0.01, 0.04)
    canvas.paint(np.ones(canvas.size, np.float32), muscle(canvas, curve))
    canvas.paint(1 - below(canvas, rng.uniform(0.03, 0.15) + curve, 0.006), fat(canvas, curve))
    for _ in range(int(rng.integers(1, 4))):
        fascia(canvas, rng.uniform(0.05, 0.35) + canvas.curve() * 0.02, rng.uniform(0.003, 0.007), rng.uniform(0.2, 2))
    deep = rng.uniform(0.55, 0.95) + canvas.curve() * 0.05
    canvas.paint(below(canvas, deep, 0.02) * rng.uniform(0.4, 1), rng.uniform(-20, -4))
    if chance(rng, 0.4):
        fascia(canvas, deep, rng.uniform(0.004, 0.01), rng.uniform(0.5, 2.5))
    skin(canvas)


def trachea(canvas: Canvas, centre: float, top: float, radius: float) -> None:
    """A bright arch of cartilage and air, reverberations and darkness below it."""
    rng = canvas.rng
    level = outline_level(canvas.u, canvas.v, (centre, top + radius), (radius * rng.uniform(0.8, 1.2), radius), 0)
    canvas.paint(soft_inside(level, 0.006), rng.uniform(-26, -10))
    upper = canvas.v < top + radius
    for echo in range(int(rng.integers(1, 5))):
        arch = np.exp(-(((level + 0.06 * echo) / rng.uniform(0.004, 0.01)) ** 2)) * upper
        canvas.interfaces += arch * rng.uniform(0.5, 3) / (1 + echo)
    canvas.attenuation_db += soft_inside(level, 0.01) * rng.uniform(30, 150)


def vessel(canvas: Canvas, centre: tuple[float, float], radii: tuple[float, float]) -> None:
    """Carotid artery or jugular vein: anechoic with a bright wall and slight enhancement."""
    rng = canvas.rng
    level = outline_level(canvas.u, canvas.v, centre, radii, rng.normal(0, 0.3), profile_of(rng, "oval"))
    share = soft_inside(level, 0.003)
    canvas.paint(share, rng.uniform(-40, -15))
    wall = np.exp(-((level / 0.005) ** 2)) * np.clip(canvas.field(0.05, 0.08) + 0.4, 0, 2)
    canvas.interfaces += wall * rng.uniform(0, 0.6)
    canvas.echo_db += wall * rng.uniform(0, 8)
    canvas.attenuation_db -= share * rng.uniform(0, 30)


def gland_level(canvas: Canvas) -> np.ndarray:
    """Level (H, W) of the thyroid: one lobe lengthwise, one lobe across, or both lobes and the isthmus."""
    rng = canvas.rng
    view = rng.choice(["lengthwise", "lobe", "both"], p=[0.3, 0.45, 0.25])
    if view == "both":
        centre, top, radius = rng.uniform(0.4, 0.6), rng.uniform(0.22, 0.35), rng.uniform(0.09, 0.16)
        trachea(canvas, centre, top, radius)
        lobe, depth = rng.uniform(0.1, 0.19), top + rng.uniform(0.06, 0.16)
        level = outline_level(canvas.u, canvas.v, (centre, top - 0.02), (radius + lobe, rng.uniform(0.025, 0.06)), 0)
        for side in (-1, 1):
            position = (centre + side * (radius + 0.7 * lobe), depth + rng.normal(0, 0.02))
            radii = (lobe * rng.uniform(0.8, 1.2), lobe * rng.uniform(0.8, 1.5))
            part = outline_level(
                canvas.u, canvas.v, position, radii, side * rng.uniform(-0.1, 0.5), profile_of(rng, "oval")
            )
            level = np.minimum(level, part)
            vessel(
                canvas, (position[0] + side * (radii[0] + 0.08), position[1] + rng.uniform(-0.05, 0.15)), (0.06, 0.07)
            )
        airway = outline_level(canvas.u, canvas.v, (centre, top + radius), (radius, radius), 0)
        level = np.maximum(level, -airway)
    elif view == "lobe":
        side = 1 if chance(rng, 0.5) else -1
        radii = (rng.uniform(0.16, 0.36), rng.uniform(0.14, 0.32))
        centre = (rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.55))
        if chance(rng, 0.6):
            trachea(
                canvas,
                centre[0] - side * (radii[0] + rng.uniform(0.1, 0.25)),
                rng.uniform(0.2, 0.4),
                rng.uniform(0.15, 0.25),
            )
        if chance(rng, 0.8):
            radius = rng.uniform(0.05, 0.11)
            vessel(
                canvas,
                (centre[0] + side * (radii[0] + radius), centre[1] + rng.uniform(-0.05, 0.2)),
                (radius, radius * rng.uniform(0.8, 1.3)),
            )
        level = outline_level(
            canvas.u, canvas.v, centre, radii, side * rng.uniform(-0.2, 0.5), profile_of(rng, "oval")
        )
    else:
        radii = (rng.uniform(0.35, 0.75), rng.uniform(0.12, 0.3))
        centre = (rng.uniform(0.35, 0.65), rng.uniform(0.32, 0.5))
        level = outline_level(canvas.u, canvas.v, centre, radii, rng.normal(0, 0.12), profile_of(rng, "oval"))
    return one_piece(level + rng.uniform(0, 0.012) * canvas.field(0.04, 0.05))


def thyroid(canvas: Canvas, nodule_wanted: bool) -> Phantom:
    """A thyroid on a linear array; the mask of the gland includes the nodule."""
    rng = canvas.rng
    neck(canvas)
    level = gland_level(canvas)
    gland = level < 0
    texture = rng.uniform(0.3, 2.5) * canvas.field(rng.uniform(0.006, 0.03), rng.uniform(0.01, 0.05))
    texture = texture + rng.uniform(0, 2.5) * canvas.field(rng.uniform(0.04, 0.1), rng.uniform(0.05, 0.15))
    canvas.paint(soft_inside(level, rng.uniform(0.002, 0.01)), rng.uniform(-5, 7) + texture, sparse(rng))
    capsule = np.exp(-((level / 0.004) ** 2)) * np.clip(canvas.field(0.1, 0.1) + 0.4, 0, None)
    canvas.interfaces += capsule * rng.uniform(0, 0.6)
    canvas.echo_db += capsule * rng.uniform(0, 6)
    masks = {"thyroid gland": gland}
    if nodule_wanted or chance(rng, 0.3):
        masks["thyroid nodule"] = place_nodule(canvas, gland, level)
    if chance(rng, 0.4):
        distractors(canvas, 0.1, 0.9)
    shadows(canvas, 0.25)
    return finish(canvas, masks, depth_mm=rng.uniform(25, 50), width_mm=rng.uniform(36, 50))


def place_nodule(canvas: Canvas, gland: np.ndarray, gland_level: np.ndarray) -> np.ndarray:
    """Paint a nodule inside the gland and return its mask, which the border of the gland cuts."""
    rng = canvas.rng
    rows, columns = np.nonzero(gland_level < 0.5 * gland_level.min())
    widest = np.ptp(np.flatnonzero(gland.any(0))) / canvas.size[1]
    tallest = np.ptp(np.flatnonzero(gland.any(1))) / canvas.size[0]
    while True:
        kind = draw_kind(rng, THYROID_NODULES)
        width = float(np.exp(rng.uniform(np.log(0.07), np.log(max(0.9 * widest, 0.1)))))
        pick = rng.integers(rows.size)
        centre = ((columns[pick] + 0.5) / canvas.size[1], (rows[pick] + 0.5) / canvas.size[0])
        level = lesion_outline(canvas, kind, centre, width, max(tallest, 0.1))
        level = one_piece(np.maximum(level, gland_level + 0.004))
        if (level < 0).mean() >= MIN_AREA:
            paint_lesion(canvas, kind, level)
            return level < 0


# --- heart -----------------------------------------------------------------------------------------------------------


def chamber_frame(
    canvas: Canvas, apex: tuple[float, float], base: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates of the long axis: `along`, 0 at the apex and 1 at the base, `across` in image units; its length."""
    direction = np.array([base[0] - apex[0], base[1] - apex[1]])
    length = float(np.hypot(*direction))
    cosine, sine = direction / length
    du, dv = canvas.u - apex[0], canvas.v - apex[1]
    wobble = canvas.rng.uniform(0, 0.012) * canvas.field(0.12, 0.12)
    along = (du * cosine + dv * sine) / length
    across = dv * cosine - du * sine + wobble
    return along.astype(np.float32), across.astype(np.float32), length


def bullet(along: np.ndarray, fullness: float, taper: float) -> np.ndarray:
    """Half-width of a ventricle along its axis, at most 1: round at the apex, narrower again at the base."""
    rounded = np.clip(1 - np.clip(1 - along, 0, 1) ** fullness, 0, 1) ** (1 / fullness)
    return rounded * (1 - taper * np.clip(along, 0, 1) ** 3)


def heart(canvas: Canvas) -> Phantom:
    """An apical view: left ventricle, its myocardium as a horseshoe, left atrium; often the right heart too."""
    rng = canvas.rng
    sector = Sector(
        (rng.uniform(0.44, 0.56), rng.uniform(-0.04, 0.05)),
        rng.uniform(0.55, 0.95),
        rng.uniform(0, 0.05),
        rng.uniform(0.9, 1.08),
    )
    canvas.paint(np.ones(canvas.size, np.float32), surroundings(canvas))
    apex = (sector.apex[0] + rng.normal(0, 0.04), sector.apex[1] + rng.uniform(0.14, 0.27))
    base = (apex[0] + rng.normal(0, 0.08), apex[1] + rng.uniform(0.32, 0.52))
    along, across, length = chamber_frame(canvas, apex, base)
    half_width, wall = rng.uniform(0.09, 0.19), rng.uniform(0.035, 0.085)
    fullness, taper = rng.uniform(1.7, 2.8), rng.uniform(0.05, 0.35)
    cavity = np.abs(across) - half_width * bullet(along, fullness, taper)
    cap = wall * rng.uniform(0.5, 1.0) / length
    outer_along = (along + cap) / (1 + cap)
    walls = np.abs(across) - (half_width + wall * rng.uniform(0.8, 1.2)) * bullet(outer_along, fullness, 0.6 * taper)
    ventricle = one_piece(np.maximum(cavity, np.maximum(-along, along - 1) * length))
    outer = one_piece(np.maximum(walls, np.maximum(-outer_along, along - 1) * length))
    atrium_length = rng.uniform(0.12, min(0.34, max(0.16, 0.98 - base[1])))
    atrium_width = half_width * rng.uniform(0.75, 1.35)
    depth = (along - 1) * length / atrium_length  # 0 at the valve, 1 at the roof
    profile = np.clip(1 - np.abs(2 * np.clip(depth, 0, 1) - 0.9).clip(0, 1) ** rng.uniform(2, 3.5), 0, 1) ** 0.5
    shift = rng.normal(0, 0.015)
    atrium_level = np.abs(across - shift) - atrium_width * profile
    atrium_level = atrium_level + rng.uniform(0, 0.006) * canvas.field(0.05, 0.05)
    bounds = np.maximum(0.02 - depth, depth - 0.97) * atrium_length
    atrium = one_piece(np.maximum(atrium_level, bounds))
    if chance(rng, 0.6):
        right_heart(canvas, along, across, length, half_width + wall)
    paint_heart(canvas, outer, ventricle, atrium)
    leaflets(canvas, along, across, half_width * (1 - taper))
    drop_out(canvas, sector)
    masks = {"left ventricle": ventricle < 0, "left atrium": (atrium < 0) & ~(outer < 0) & ~(ventricle < 0)}
    masks["myocardium"] = (outer < 0) & ~masks["left ventricle"]
    return finish(canvas, masks, sector=sector, depth_mm=rng.uniform(120, 180), width_mm=rng.uniform(110, 170))


def surroundings(canvas: Canvas) -> np.ndarray:
    """Echo level around the heart: lung, liver and pericardium as a hazy, patchy ground."""
    rng = canvas.rng
    haze = rng.uniform(2, 9) * canvas.field(rng.uniform(0.03, 0.1), rng.uniform(0.05, 0.15))
    fine = rng.uniform(0.008, 0.03)
    return rng.uniform(-24, -4) + haze + rng.uniform(0, 5) * canvas.field(fine, fine * rng.uniform(1, 4))


def right_heart(canvas: Canvas, along: np.ndarray, across: np.ndarray, length: float, offset: float) -> None:
    """Right ventricle and atrium beside the septum: dark chambers that are not annotated."""
    rng = canvas.rng
    side = -1 if chance(rng, 0.8) else 1
    blood = rng.uniform(-35, -16)
    for start, end, width in (
        (rng.uniform(0.15, 0.4), 0.98, rng.uniform(0.07, 0.14)),
        (1.03, rng.uniform(1.3, 1.6), rng.uniform(0.08, 0.14)),
    ):
        middle, half = (start + end) / 2, (end - start) / 2
        level = np.hypot((along - middle) / half, (side * across - offset - width) / width) - 1
        canvas.paint(soft_inside(level * width, 0.006), blood)


def paint_heart(canvas: Canvas, outer: np.ndarray, ventricle: np.ndarray, atrium: np.ndarray) -> None:
    """Myocardium, blood, endocardial trabeculae, pericardium and near-field clutter."""
    rng = canvas.rng
    softness = rng.uniform(0.003, 0.012)
    grain = canvas.field(rng.uniform(0.01, 0.03), rng.uniform(0.015, 0.05))
    gaps = rng.uniform(0, 6) * np.clip(canvas.field(0.08, 0.08), -1.5, 1.5)  # the wall is not seen evenly
    canvas.paint(soft_inside(outer, softness), rng.uniform(-5, 5) + rng.uniform(0.5, 3) * grain + gaps)
    pericardium = np.exp(-(((outer - 0.005) / rng.uniform(0.005, 0.012)) ** 2)) * np.clip(
        canvas.field(0.08, 0.08), 0, 2
    )
    canvas.echo_db += pericardium * rng.uniform(0, 12)
    blood = rng.uniform(-34, -12) + rng.uniform(0, 4) * canvas.field(0.04, 0.04)
    atrium_wall = np.exp(-((atrium / rng.uniform(0.006, 0.02)) ** 2))
    canvas.paint(atrium_wall * rng.uniform(0.3, 1), rng.uniform(-8, 4))
    canvas.paint(soft_inside(atrium, softness), blood)
    trabeculae = rng.uniform(0, 14) * np.exp(-((ventricle / rng.uniform(0.01, 0.03)) ** 2)) * np.clip(grain, 0, None)
    canvas.paint(soft_inside(ventricle, softness), blood + trabeculae)
    canvas.echo_db += rng.uniform(0, 16) * np.exp(-(((canvas.v - 0.05) / rng.uniform(0.08, 0.25)) ** 2))


def leaflets(canvas: Canvas, along: np.ndarray, across: np.ndarray, annulus: float) -> None:
    """Mitral valve: an annulus line when closed, two leaflets into the ventricle when open."""
    rng = canvas.rng
    opening = rng.uniform(0, 0.28)
    thickness = rng.uniform(0.012, 0.03)
    side = np.clip(np.abs(across) / annulus, 0, 1)
    course = 1 - opening * (1 - side)
    gap = 1 - rng.uniform(0, 0.6) * (opening > 0.1) * (side < 0.3)
    line = np.exp(-(((along - course) / thickness) ** 2)) * (np.abs(across) < annulus * 1.1) * gap
    canvas.paint(line * rng.uniform(0.3, 1), rng.uniform(-4, 8))


def drop_out(canvas: Canvas, sector: Sector) -> None:
    """Loss of signal towards one or both sides of the sector, and shadows of ribs and lung from the top."""
    rng = canvas.rng
    reach, angle = sector.polar(canvas.size)
    for side in (-1, 1):
        if chance(rng, 0.5):
            start = rng.uniform(0.2, 0.85) * sector.half_angle
            canvas.attenuation_db += soft_inside(start - side * angle, 0.06) * rng.uniform(4, 30)
    if chance(rng, 0.3):
        centre = rng.uniform(-1, 1) * sector.half_angle
        canvas.attenuation_db += np.exp(-(((angle - centre) / rng.uniform(0.03, 0.15)) ** 2)) * rng.uniform(5, 35)
    canvas.attenuation_db += rng.uniform(0, 14)


BUILDERS = {
    "breast lesion": breast,
    "thyroid nodule": lambda canvas: thyroid(canvas, nodule_wanted=True),
    "thyroid gland": lambda canvas: thyroid(canvas, nodule_wanted=False),
    "left ventricle": heart,
    "myocardium": heart,
    "left atrium": heart,
}


def build_phantom(target: str, rng: Generator, size: tuple[int, int]) -> Phantom:
    """Draw a scene that shows `target`, until its mask covers enough of the field of view."""
    while True:
        phantom = BUILDERS[target](Canvas(rng, size))
        if phantom.masks[target].mean() >= MIN_AREA:
            return phantom

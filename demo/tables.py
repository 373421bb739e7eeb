"""Results -> what is read about them: HTML tables with headings for screen readers, and sentences."""

from collections.abc import Sequence
from html import escape

import numpy as np

from ccsam_hf import SegmentationResult
from ccsam_hf.visualization import color_of
from session import Session, names_of

NOTHING = "–"
HEADINGS = ("Object", "Area", "Longest diameter", "Short axis", "Box score", "Mask score")


def results_table(session: Session) -> str:
    """One row for each object: its colour in the picture, whether a text found it, scores and sizes."""
    rows = [
        (f"{swatch(index)}{escape(name)}<br><small>{outcome(result)}</small>", *sizes(result), *scores(result))
        for index, (name, result) in enumerate(zip(names_of(session), session.results, strict=True))
    ]
    if not rows:
        return "<p class='empty'>Nothing is outlined yet.</p>"
    return table("Outlined objects", HEADINGS, rows)


def comparison_table(names: Sequence[str], results: Sequence[SegmentationResult], dice: np.ndarray) -> str:
    """Sizes of the objects of different prompts, and how far each pair agrees.

    Args:
        names: P names of prompts.
        results: one for each.
        dice: (P, P) in [0, 1].
    """
    headings = ("Prompt", "Mask score", "Area", "Longest diameter", *(f"Dice with {name}" for name in names))
    rows = []
    for index, (name, result) in enumerate(zip(names, results, strict=True)):
        agreement = [NOTHING if other == index else f"{value:.3f}" for other, value in enumerate(dice[index])]
        rows.append((escape(name), scores(result)[1], *sizes(result)[:2], *agreement))
    return table("Prompts side by side", tuple(map(escape, headings)), rows)


def accepted_table(session: Session) -> str:
    """What was accepted so far."""
    images = [each.annotated for each in session.accepted]
    rows = [
        (escape(image.file_name), str(len(image.objects)), escape(", ".join(label for label, _, _ in image.objects)))
        for image in images
    ]
    return table("Accepted images", ("Image", "Objects", "Labels"), rows) if rows else "<p class='empty'>None yet.</p>"


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table that scrolls on its own where it is wider than the page; cells hold HTML."""
    head = "".join(f"<th scope='col'>{heading}</th>" for heading in headings)
    body = "".join(
        f"<tr><th scope='row'>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return (
        f"<div class='wide' tabindex='0' role='region' aria-label='{escape(caption)}'><table>"
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def swatch(index: int) -> str:
    """A square in the colour that an object has in the picture."""
    return f"<span class='swatch' style='background: rgb{color_of(index)}' aria-hidden='true'></span>"


def outcome(result: SegmentationResult) -> str:
    """Whether there is an object, and why not."""
    if result.reason is not None:
        return escape(f"not found: {result.reason}")
    if not result.mask.any():
        return "empty at this threshold"
    return "found by text" if result.text is not None else "outlined"


def scores(result: SegmentationResult) -> tuple[str, str]:
    """Score of the box that a text found, and of the mask."""
    box = NOTHING if result.box_score is None else f"{result.box_score:.2f}"
    return box, NOTHING if result.reason is not None else f"{result.score:.2f}"


def sizes(result: SegmentationResult) -> tuple[str, str, str]:
    """Area, longest diameter and short axis, in pixels and, where the spacing is known, in millimetres."""
    measured = result.measurements
    return (
        both(f"{measured.area_px:,} px", measured.area_mm2, "mm²"),
        both(f"{measured.longest_diameter_px:.1f} px", measured.longest_diameter_mm, "mm"),
        both(f"{measured.short_axis_px:.1f} px", measured.short_axis_mm, "mm"),
    )


def both(pixels: str, millimetres: float | None, unit: str) -> str:
    """A size in pixels, below that in millimetres where it is known."""
    return pixels if millimetres is None else f"{millimetres:.1f} {unit}<br><small>{pixels}</small>"

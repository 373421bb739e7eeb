"""The picture that takes prompts: a widget for gradio, and the image and the words that a session shows in it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ccsam_hf import SegmentationResult
from ccsam_hf.pixel_spacing import plain_spacing
from ccsam_hf.visualization import heatmap, overlay, to_rgb
from session import Session, names_of

FOLDER = Path(__file__).parent
JPEG = {"format": "JPEG", "quality": 92, "subsampling": 0}
SHARP_SIDE = 640  # smaller images are drawn enlarged, so that outlines stay thin on the screen


def picture() -> gr.HTML:
    """The widget; its event `prompt` brings a point or a box in pixels of the image."""
    return gr.HTML(
        value=shown(Session()),
        html_template=(FOLDER / "picture.html").read_text(),
        css_template=(FOLDER / "picture.css").read_text(),
        js_on_load=(FOLDER / "picture.js").read_text(),
        elem_id="picture",
        mode="text",
    )


def shown(session: Session, refusal: str | None = None) -> dict[str, Any]:
    """What the widget shows of a session: the picture with its outlines, its text alternative and a message.

    Args:
        session: see [`Session`].
        refusal: why the last request was refused, in place of the words on the results.
    """
    kind = "refused" if refusal else "done"
    if session.image is None:
        return {"width": 0, "height": 0, "message": refusal or "", "kind": kind}
    width, height = session.image.size
    words = in_words(session)
    return {
        "src": data_url(drawn_session(session)),
        "width": width,
        "height": height,
        "alt": f"Ultrasound image. {words}",
        "message": refusal or words,
        "kind": kind,
    }


def drawn_session(session: Session) -> Image.Image:
    """The session's image with what it asked last and got."""
    points = (session.points, session.labels) if session.asked == "points" else ()
    return drawn(session.image, session.results, *points)


def drawn(
    image: Image.Image,
    results: Sequence[SegmentationResult],
    points: Sequence[tuple[float, float]] = (),
    labels: Sequence[int] = (),
) -> Image.Image:
    """An image with outlines and fills; small images come enlarged.

    Args:
        image: of any mode.
        results: of its objects. Their boxes are drawn where no point prompted.
        points, labels: of the one object that they prompted.
    """
    image, factor = enlarged_image(image)
    masks = [enlarged(result.mask, factor) for result in results]
    if points:
        return overlay(image, masks, points=[[scaled(point, factor) for point in points]], labels=[labels])
    return overlay(image, masks, boxes=[scaled(result.box, factor) if result.box else None for result in results])


def enlarged_image(image: Image.Image) -> tuple[Image.Image, int]:
    """An image of any mode as RGB, a small one enlarged, and the factor."""
    image = to_rgb(image)
    factor = max(1, round(SHARP_SIDE / min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC), factor


def enlarged(mask: np.ndarray, factor: int) -> np.ndarray:
    """A mask (H, W) at (factor * H, factor * W); its steps are rounded by less than a pixel of the image."""
    height, width = mask.shape
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize((width * factor, height * factor), Image.Resampling.BICUBIC)) > 127


def scaled(coordinates: Sequence[float], factor: int) -> list[float]:
    """Coordinates in an enlarged image."""
    return [value * factor for value in coordinates]


def uncertainty_figure(session: Session) -> str:
    """HTML of the image under its uncertainty, at each pixel the largest of all objects; empty without one."""
    maps = [result.uncertainty for result in session.decoded if result.uncertainty is not None]
    if not maps:
        return ""
    largest = np.maximum.reduce(maps).astype(np.float32)
    image, _ = enlarged_image(session.image)
    heat = heatmap(image, np.asarray(Image.fromarray(largest).resize(image.size, Image.Resampling.BILINEAR)))
    alt = f"Uncertainty over the ultrasound image, at most {largest.max():.3f}; the bar beside it names the colours."
    return f'<img class="uncertainty" src="{data_url(heat)}" alt="{alt}">'


def in_words(session: Session) -> str:
    """What is open and what was outlined, in sentences."""
    if not session.results:
        return f"{opened_in_words(session)} Type a target, click on it, or drag a box around it."
    found, missing = [], []
    for name, result in zip(names_of(session), session.results, strict=True):
        length = result.measurements.longest_diameter_mm
        size = f"{result.measurements.longest_diameter_px:.0f} px" if length is None else f"{length:.1f} mm"
        (found if result.mask.any() else missing).append(f"{name} ({size} long)" if result.mask.any() else name)
    sentences = [f"Outlined: {', '.join(found)}."] if found else []
    return " ".join([*sentences, *([f"Not found or empty: {', '.join(missing)}."] if missing else [])])


def opened_in_words(session: Session) -> str:
    """Name, size, frame and spacing of the opened image."""
    source, (width, height) = session.source, session.image.size
    facts = [f"{source.name}, {width} x {height} pixels"]
    if source.num_frames > 1:
        facts.append(f"frame {session.frame + 1} of {source.num_frames}")
    if spacing_mm := plain_spacing(session.spacing_mm):
        facts.append("{:.3g} mm between rows, {:.3g} mm between columns".format(*spacing_mm))
    return f"{', '.join(facts)}."


def data_url(image: Image.Image) -> str:
    """An image within the page, so that no file of it is left behind."""
    buffer = io.BytesIO()
    image.save(buffer, **JPEG)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""Image + masks -> overlay, image + uncertainty -> heat map with colour bar, and sheets of pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .image_files import upright

# Okabe and Ito's palette for all kinds of colour vision, without its black; the order keeps neighbours apart.
OBJECT_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Anchors of viridis (Smith and van der Walt, CC0): even in lightness, so it reads in grey and by all colour vision.
HEAT_ANCHORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
FILL_OPACITY = 0.3
POINT_COLORS = {1: (255, 255, 255), 0: (0, 0, 0)}


def to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """Any PIL image, or an array (H, W) or (H, W, 3) of uint8, uint16, bool or floats in [0, 1], as 8-bit RGB.

    A PIL image is turned as its EXIF orientation says, as the pipeline turns it.

    Raises:
        ValueError: another shape or type.
    """
    if isinstance(image, Image.Image):
        image = upright(image)
    if isinstance(image, Image.Image) and not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    if values.dtype.kind in "fb":
        values = values * 255.0
    elif values.dtype != np.uint8:
        values = values / 65535 * 255
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] != 3):
        raise ValueError(f"image has shape {values.shape}; expected (height, width) or (height, width, 3)")
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def overlay(
    image: Image.Image | np.ndarray,
    masks: Sequence[np.ndarray] | np.ndarray,
    boxes: Sequence[Sequence[float] | None] | None = None,
    points: Sequence[Sequence[Sequence[float]]] | None = None,
    labels: Sequence[Sequence[int]] | None = None,
) -> Image.Image:
    """Draw masks with a translucent fill and a full outline, each object in a colour of its own.

    Args:
        image: see `to_rgb`; (H, W).
        masks: P masks (H, W), bool.
        boxes: x0 y0 x1 y1 (edges) in pixels of the image for each object, None for an object without one; drawn as
            thin rectangles.
        points: for each object its (x, y) points, drawn as discs.
        labels: for each point 1 (inside, white) or 0 (outside, black); left out, all are inside.

    Returns:
        RGB image of the size of `image`.

    Raises:
        ValueError: a mask of another size.
    """
    picture = np.asarray(to_rgb(image)).astype(np.float32)
    width = line_width(picture.shape[:2])
    masks = [np.asarray(mask).astype(bool) for mask in masks]
    for i, mask in enumerate(masks):
        if mask.shape != picture.shape[:2]:
            raise ValueError(f"mask {i} has shape {mask.shape}; expected {picture.shape[:2]}, the size of the image")
        picture[mask] = (1 - FILL_OPACITY) * picture[mask] + FILL_OPACITY * np.array(color_of(i))
    for i, mask in enumerate(masks):  # after all fills, so that no outline is tinted
        picture[outline(mask, width)] = color_of(i)
    drawn = Image.fromarray(np.rint(picture).astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    for i, box in enumerate(boxes if boxes is not None else []):
        if box is not None:
            x0, y0, x1, y1 = (float(value) for value in box)
            ends = [x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)]  # PIL draws on the last column and row
            draw.rectangle(ends, outline=color_of(i), width=max(1, width // 2))
    for i, object_points in enumerate(points if points is not None else []):
        for j, (x, y) in enumerate(object_points):
            label = 1 if labels is None else int(labels[i][j])
            radius = 2 * width
            ends = [x - radius, y - radius, x + radius, y + radius]
            draw.ellipse(ends, fill=POINT_COLORS.get(label), outline=color_of(i), width=max(1, width // 2))
    return drawn


def heatmap(image: Image.Image | np.ndarray, values: np.ndarray, limit: float | None = None) -> Image.Image:
    """Lay values over an image as colours, and add a bar that says what the colours mean.

    Args:
        image: see `to_rgb`; (H, W).
        values: (H, W), at least 0, such as an uncertainty. Where it is 0 the image shows unchanged.
        limit: value of the brightest colour; left out, the largest value that occurs.

    Returns:
        RGB image of the height of `image`, wider by the bar.

    Raises:
        ValueError: another size, negative values, NaN or infinity, or a limit that is not above zero.
    """
    picture = np.asarray(to_rgb(image)).astype(np.float32)
    values = np.asarray(values, dtype=np.float32)
    if values.shape != picture.shape[:2]:
        raise ValueError(f"values have shape {values.shape}; expected {picture.shape[:2]}, the size of the image")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("values hold NaN, infinity or negative numbers; expected finite values of at least 0")
    if limit is not None and not limit > 0:
        raise ValueError(f"limit={limit} was given; expected a number above zero")
    limit = limit if limit is not None else float(values.max()) or 1.0
    unit = np.clip(values / limit, 0, 1)
    opacity = np.sqrt(unit)[..., None] * 0.9  # the root lets small values show
    blended = Image.fromarray(np.rint((1 - opacity) * picture + opacity * heat_colors(unit)).astype(np.uint8))
    bar = color_bar(blended.height, limit)
    joined = Image.new("RGB", (blended.width + bar.width, blended.height))
    joined.paste(blended, (0, 0))
    joined.paste(bar, (blended.width, 0))
    return joined


def contact_sheet(
    pictures: Sequence[Image.Image], titles: Sequence[str], columns: int = 4, tile_size: int = 256
) -> Image.Image:
    """Set pictures side by side, each scaled into a square with its title below.

    Args:
        pictures: at least one.
        titles: one for each picture; a long one is cut at the tile's edge.
        columns: tiles in a row, at least 1.
        tile_size: side of the square in pixels.

    Returns:
        RGB image.

    Raises:
        ValueError: no picture, another number of titles, or fewer than one column.
    """
    if len(pictures) == 0 or len(pictures) != len(titles) or columns < 1:
        raise ValueError(
            f"{len(pictures)} pictures, {len(titles)} titles and {columns} columns came; expected at least one "
            "picture, a title for each and at least one column"
        )
    columns = min(columns, len(pictures))
    gap, title_height = 6, 18
    cell_width, cell_height = tile_size + gap, tile_size + title_height + gap
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell_width + gap, rows * cell_height + gap), "white")
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        tile = Image.new("RGB", (tile_size, tile_size + title_height), "white")
        scaled = to_rgb(picture)
        factor = tile_size / max(scaled.size)
        scaled = scaled.resize([max(1, round(side * factor)) for side in scaled.size], Image.Resampling.BILINEAR)
        tile.paste(scaled, ((tile_size - scaled.width) // 2, (tile_size - scaled.height) // 2))
        ImageDraw.Draw(tile).text((2, tile_size + 2), title, fill="black", font=ImageFont.load_default(12))
        sheet.paste(tile, (gap + (i % columns) * cell_width, gap + (i // columns) * cell_height))
    return sheet


def color_of(index: int) -> tuple[int, int, int]:
    """Colour of the object with this index; the palette starts again after its end."""
    return OBJECT_COLORS[index % len(OBJECT_COLORS)]


def line_width(size: tuple[int, int]) -> int:
    """Width of outlines in pixels, growing with the image."""
    return max(1, round(min(size) / 200))


def outline(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask (H, W) that lie within `width` steps of its edge or of the image's edge."""
    inside = mask.copy()
    for _ in range(width):
        padded = np.pad(inside, 1)
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def heat_colors(unit: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of any shape as RGB in [0, 255], float32, on a new last axis."""
    anchors = np.array(HEAT_ANCHORS, dtype=np.float32)
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(unit, places, anchors[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)


def color_bar(height: int, limit: float) -> Image.Image:
    """A vertical bar from 0 (below) to `limit` (above) with both numbers beside it."""
    bar = Image.new("RGB", (64, height), "white")
    unit = np.linspace(1, 0, max(height - 8, 1))[:, None].repeat(12, axis=1)
    bar.paste(Image.fromarray(np.rint(heat_colors(unit)).astype(np.uint8)), (4, 4))
    draw, font = ImageDraw.Draw(bar), ImageFont.load_default(12)
    draw.text((20, 2), f"{limit:.2g}", fill="black", font=font)
    if height >= 40:
        draw.text((20, height - 18), "0", fill="black", font=font)
    return bar


__all__ = ["contact_sheet", "heatmap", "overlay", "to_rgb"]

"""Masks drawn from the prompt alone: what a model must beat to have read anything in the image."""

import numpy as np


def inscribed_ellipse(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fills the ellipse that touches the four sides of a box.

    Args:
        box: (4,) x0 y0 x1 y1, edges.
        size: (height, width) of the mask.

    Returns:
        (H, W) bool: the pixels whose middle lies inside the ellipse.
    """
    x0, y0, x1, y1 = np.asarray(box, dtype=float)
    y, x = np.ogrid[: size[0], : size[1]]
    across = (x + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    down = (y + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return across**2 + down**2 <= 1


def filled_box(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fills a box.

    Args:
        box: (4,) x0 y0 x1 y1, edges.
        size: (height, width) of the mask.

    Returns:
        (H, W) bool: the pixels whose middle lies in the box.
    """
    x0, y0, x1, y1 = np.asarray(box, dtype=float)
    y, x = np.ogrid[: size[0], : size[1]]
    return (x + 0.5 >= x0) & (x + 0.5 <= x1) & (y + 0.5 >= y0) & (y + 0.5 <= y1)


def median_disc(point: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
    """Fills a disc around a click, cut off at the frame.

    Args:
        point: (2,), x and y.
        radius: pixels; `median_disc_radius` of the evaluated objects makes it the baseline of a click.
        size: (height, width) of the mask.

    Returns:
        (H, W) bool: the pixels whose middle is at most the radius away.
    """
    y, x = np.ogrid[: size[0], : size[1]]
    return (x - point[0]) ** 2 + (y - point[1]) ** 2 <= radius**2


def median_disc_radius(areas: list[int]) -> float:
    """Radius of the disc whose area is the median of the objects' areas.

    The median is taken over the evaluated objects themselves: the baseline knows their usual size, a model does not.

    Args:
        areas: pixels of each object, at least one.

    Returns:
        Pixels.

    Raises:
        ValueError: no area is given.
    """
    if not areas:
        raise ValueError("areas is empty; the median needs at least one object")
    return float(np.sqrt(np.median(areas) / np.pi))

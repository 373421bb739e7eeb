"""One request of a script: file and prompts in, session with results out; what the endpoint `/segment` does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from session import (
    DEFAULT_THRESHOLD,
    INSIDE,
    MAX_OBJECTS,
    OUTSIDE,
    Session,
    answered,
    checked_box,
    checked_point,
    digest_of,
    find_texts,
    go_to_frame,
    open_file,
    use_model,
    use_spacing,
    use_threshold,
)


@dataclass(frozen=True)
class Prompts:
    """What a script asks for: exactly one kind of prompt.

    Args:
        text: targets, separated by commas.
        boxes: for each object x0, y0, x1, y1 in pixels of the image.
        points: of one object, each x, y.
        labels: for each point 1 (inside) or 0 (outside); left out, all are inside.
    """

    text: str = ""
    boxes: Sequence[Sequence[float]] = ()
    points: Sequence[Sequence[float]] = ()
    labels: Sequence[int] = ()

    def __post_init__(self):
        given = [kind for kind in ("text", "boxes", "points") if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'no prompt'} came; expected one of text, boxes and points")
        check_rows("boxes", self.boxes, 4)
        check_rows("points", self.points, 2)
        if len(self.boxes) > MAX_OBJECTS:
            raise ValueError(f"{len(self.boxes)} boxes came; at most {MAX_OBJECTS} fit into one request: send fewer")
        if not isinstance(self.labels, Sequence):
            raise ValueError(f"labels {self.labels!r} came; expected a list with a number for each point")
        if self.labels and len(self.labels) != len(self.points):
            raise ValueError(f"{len(self.labels)} labels came for {len(self.points)} points; expected one for each")
        if any(label not in (INSIDE, OUTSIDE) for label in self.labels):
            raise ValueError(f"labels {self.labels} came; expected {INSIDE} (inside) or {OUTSIDE} (outside)")


def check_rows(name: str, rows: object, length: int) -> None:
    """Raise ValueError unless the rows are a list of lists of that many numbers each."""
    if not isinstance(rows, (list, tuple)) or not all(is_numbers(row, length) for row in rows):
        raise ValueError(f"{name} {rows!r} came; expected a list that holds a list of {length} numbers for each")


def is_numbers(values: object, length: int) -> bool:
    """Whether the values are a list of that many numbers."""
    return (
        isinstance(values, (list, tuple))
        and len(values) == length
        and all(isinstance(value, (int, float)) for value in values)
    )


def requested(
    session: Session,
    path: str | Path,
    prompts: Prompts,
    *,
    frame: int = 0,
    spacing_mm: Sequence[float] = (),
    threshold: float = DEFAULT_THRESHOLD,
    model: str | None = None,
) -> Session:
    """Open a file and answer the prompts; a frame that the session has encoded already is not encoded again.

    Args:
        session: of the script's last request.
        path: PNG, JPEG, TIFF, BMP or DICOM file.
        prompts: see [`Prompts`].
        frame: of a loop, from 0.
        spacing_mm: millimetres between rows and between columns; left out, what the file states.
        threshold: of the probability.
        model: one of `shared_models.model_names`; left out, the session's.

    Raises:
        ValueError: something that is not accepted; the message says what is.
    """
    if spacing_mm and not is_numbers(spacing_mm, 2):
        raise ValueError(f"spacing_mm {spacing_mm!r} came; expected [millimetres between rows, between columns]")
    session = replace(session, asked=None, decoded=(), boxes=(), points=(), labels=())
    if model is not None and model != session.model:
        session = use_model(session, model)
    if session.source is None or session.source.digest != digest_of(Path(path).read_bytes()):
        session = open_file(session, path)
    if frame != session.frame:
        session = go_to_frame(session, frame)
    session = replace(session, spacing_mm=session.source.spacing_mm)
    if spacing_mm:
        session = use_spacing(session, *spacing_mm)
    session = use_threshold(session, threshold)
    if prompts.text:
        return find_texts(session, prompts.text)
    boxes = tuple(checked_box(session, box) for box in prompts.boxes)
    points = tuple(checked_point(session, point) for point in prompts.points)
    labels = tuple(prompts.labels) or (INSIDE,) * len(points)
    return answered(replace(session, boxes=boxes, points=points, labels=labels, asked="boxes" if boxes else "points"))

"""What one user has opened, asked and got: a frozen `Session`, and functions that make the next one from it.

No widget is known here. Every function takes a session and returns another; what it cannot do is a ValueError whose
words are for the page.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

import shared_models
from ccsam_hf import EncodedImage, SegmentationResult
from ccsam_hf.descriptions import split_targets
from ccsam_hf.formats.annotations import AnnotatedImage
from ccsam_hf.formats.mask_files import UNNAMED, png_bytes
from ccsam_hf.geometry import boxes_from_masks
from ccsam_hf.image_files import count_frames, is_dicom, read_image
from ccsam_hf.measurements import check_spacing, measure_mask
from ccsam_hf.objects import clean_mask
from ccsam_hf.pixel_spacing import PixelSpacing, plain_spacing
from ccsam_hf.visualization import to_rgb

KINDS = ("text", "points", "boxes")  # of prompts
DEFAULT_THRESHOLD = 0.5
NUM_SAMPLES = 8  # draws of an uncertainty map
NOTICE = "For research. Not a medical device."
MAX_OBJECTS = 12
MAX_ACCEPTED = 100
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")  # that labelling tools open themselves
INSIDE, OUTSIDE = 1, 0


@dataclass(frozen=True)
class Source:
    """An opened file: a copy that is the session's own and goes with it.

    Args:
        folder: removed with the last session that holds it; files for the user are written here too.
        path: of the copy.
        name: of the file as the user named it.
        digest: of its content.
        num_frames: of a DICOM loop, or pages of a TIFF file.
        spacing_mm: that the file states, None where it states none.
    """

    folder: TemporaryDirectory
    path: Path
    name: str
    digest: str
    num_frames: int
    spacing_mm: tuple[float, float] | PixelSpacing | None

    @property
    def is_dicom(self) -> bool:
        """Whether it is a DICOM file."""
        return is_dicom(self.path)

    def stem_of_frame(self, frame: int) -> str:
        """First part of the names of files about a frame: the image's name, and the frame where there are several."""
        stem = Path(self.name).stem or "image"
        return f"{stem}_frame{frame + 1}" if self.num_frames > 1 else stem


@dataclass(frozen=True)
class Accepted:
    """An image whose masks the user has accepted.

    Args:
        annotated: name of the image and its objects.
        digest: of the file's content.
        png: the image as the content of a PNG file where a labelling tool could not open the user's own file: DICOM,
            TIFF and frames of a loop.
    """

    annotated: AnnotatedImage
    digest: str
    png: bytes | None


@dataclass(frozen=True)
class Session:
    """One user's state.

    Args:
        model: name of the model, one of `shared_models.model_names`.
        source: the opened file, None before the first.
        frame: which of its frames is looked at, from 0.
        image: that frame.
        spacing_mm: (between rows, between columns) in millimetres or what the file says of it, None where unknown.
        encoded: that frame, encoded by that model.
        texts, boxes, points, labels: the prompts given so far; the points are those of one object.
        asked: which kind of them `decoded` answers, None before the first.
        decoded: what the pipeline answered.
        threshold: of the probability, above which a pixel belongs to an object.
        with_uncertainty: whether results carry an uncertainty map.
        accepted: what the user has kept for annotation files.
    """

    model: str = shared_models.BUNDLED
    source: Source | None = None
    frame: int = 0
    image: Image.Image | None = None
    spacing_mm: tuple[float, float] | PixelSpacing | None = None
    encoded: EncodedImage | None = None
    texts: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    asked: str | None = None
    decoded: tuple[SegmentationResult, ...] = ()
    threshold: float = DEFAULT_THRESHOLD
    with_uncertainty: bool = False
    accepted: tuple[Accepted, ...] = ()

    @property
    def results(self) -> tuple[SegmentationResult, ...]:
        """What was segmented, at the session's threshold and spacing; this neither encodes nor decodes."""
        return tuple(
            at_threshold(result, self.threshold, self.spacing_mm, self.asked != "points") for result in self.decoded
        )


# --- the image -------------------------------------------------------------------------------------------------------


def open_file(
    session: Session, path: str | Path, spacing_mm: tuple[float, float] | PixelSpacing | None = None
) -> Session:
    """Open a file in place of the one before, at its first frame, and encode it; prompts and results are dropped.

    Args:
        session: accepted annotations, model and threshold stay.
        path: PNG, JPEG, TIFF, BMP or DICOM file.
        spacing_mm: known from elsewhere; left out, what the file states.
    """
    path = Path(path)
    content = path.read_bytes()
    folder = TemporaryDirectory(prefix="ccsam-", ignore_cleanup_errors=True)
    copy = Path(folder.name) / f"image{path.suffix.lower()}"
    copy.write_bytes(content)
    image, spacing_of_file = read_frame(copy, path.name, 0)
    source = Source(folder, copy, path.name, digest_of(content), count_frames(copy), spacing_of_file)
    empty = Session(
        model=session.model,
        threshold=session.threshold,
        with_uncertainty=session.with_uncertainty,
        accepted=session.accepted,
    )
    opened = replace(
        empty, source=source, image=image, spacing_mm=spacing_of_file if spacing_mm is None else spacing_mm
    )
    return encoded(opened)


def digest_of(content: bytes) -> str:
    """What tells the content of one file from that of another."""
    return hashlib.sha256(content).hexdigest()


def close(session: Session) -> None:
    """Remove the session's files now; without this they go when nothing holds the session any more."""
    if session.source is not None:
        session.source.folder.cleanup()


def read_frame(path: Path, name: str, frame: int) -> tuple[Image.Image, tuple[float, float] | PixelSpacing | None]:
    """`read_image`, whose errors call the file by the user's name for it."""
    try:
        return read_image(path, frame)
    except (ValueError, ImportError) as error:
        raise ValueError(str(error).replace(str(path), name)) from error


def go_to_frame(session: Session, frame: int) -> Session:
    """Read and encode another frame of the file, from 0, and ask there again what was asked last."""
    source = opened_source(session)
    image, _ = read_frame(source.path, source.name, int(frame))
    return answered(encoded(replace(session, frame=int(frame), image=image)))


def use_model(session: Session, model: str) -> Session:
    """Let another model see the image, and ask it again what was asked last."""
    changed = replace(session, model=model)
    return changed if session.image is None else answered(encoded(changed))


def encoded(session: Session) -> Session:
    """The session with its image encoded."""
    return replace(session, encoded=shared_models.encode(session.model, session.image))


def opened_source(session: Session) -> Source:
    """The opened file; ValueError where there is none."""
    if session.source is None:
        raise ValueError("no image is open: upload one, or pick an example")
    return session.source


# --- prompts ---------------------------------------------------------------------------------------------------------


def find_texts(session: Session, text: str) -> Session:
    """Look for each target of a text; targets are separated by commas, semicolons or line breaks."""
    opened_source(session)
    texts = tuple(dict.fromkeys(split_targets(text))) if text.strip(" ,;\n") else ()
    if not texts:
        raise ValueError("no target was named: type what to outline, for instance left ventricle, left atrium")
    if len(texts) > MAX_OBJECTS:
        raise ValueError(f"{len(texts)} targets were named; at most {MAX_OBJECTS} fit into one request: name fewer")
    return answered(replace(session, texts=texts, asked="text"))


def add_point(session: Session, x: float | None, y: float | None, label: int) -> Session:
    """Add a point (x, y) in pixels of the image, `INSIDE` or `OUTSIDE`, to those of the one object."""
    points, labels = (*session.points, checked_point(session, (x, y))), (*session.labels, int(label))
    return answered(replace(session, points=points, labels=labels, asked="points"))


def add_box(session: Session, corners: Sequence[float | None], keep: bool = False) -> Session:
    """Take a box between two corners x, y, x, y, in place of the earlier ones or, with `keep`, beside them."""
    boxes = (*(session.boxes if keep else ()), checked_box(session, corners))
    if len(boxes) > MAX_OBJECTS:
        raise ValueError(f"there are {MAX_OBJECTS} boxes already, as many as fit: take one back first")
    return answered(replace(session, boxes=boxes, asked="boxes"))


def undo(session: Session, kind: str) -> Session:
    """Take back the last point or the last box."""
    if kind == "points":
        return answered(replace(session, points=session.points[:-1], labels=session.labels[:-1], asked="points"))
    return answered(replace(session, boxes=session.boxes[:-1], asked="boxes"))


def clear(session: Session, kind: str) -> Session:
    """Take back all points or all boxes."""
    emptied = {"points": (), "labels": ()} if kind == "points" else {"boxes": ()}
    return answered(replace(session, asked=kind, **emptied))


def checked_point(session: Session, point: Sequence[float | None]) -> tuple[float, ...]:
    """A point (x, y) in pixels of the image; ValueError unless it lies within."""
    opened_source(session)
    size = session.image.size
    if len(point) != 2 or any(value is None for value in point):
        raise ValueError("a point lacks a coordinate: give x and y in pixels of the image, for both corners of a box")
    if not all(0 <= value <= limit for value, limit in zip(point, size, strict=True)):
        raise ValueError(f"x {point[0]:g}, y {point[1]:g} is outside the image, which is {size[0]} x {size[1]} pixels")
    return tuple(float(value) for value in point)


def checked_box(session: Session, corners: Sequence[float | None]) -> tuple[float, ...]:
    """The box x0, y0, x1, y1 between two corners; ValueError unless it lies within and has a width and height."""
    (x0, y0), (x1, y1) = checked_point(session, corners[:2]), checked_point(session, corners[2:])
    if x0 == x1 or y0 == y1:
        raise ValueError(f"the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) holds nothing: draw it wider and higher")
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def prompts_of(session: Session, kind: str) -> dict[str, Any]:
    """The prompts of one kind, as `CCSamPipeline` takes them; empty where there are none."""
    if kind == "text":
        return {"text": list(session.texts)} if session.texts else {}
    if kind == "boxes":
        return {"boxes": [list(box) for box in session.boxes]} if session.boxes else {}
    if not session.points:
        return {}
    return {"points": [[list(point) for point in session.points]], "labels": [list(session.labels)]}


# --- results ---------------------------------------------------------------------------------------------------------


def answered(session: Session) -> Session:
    """The session with the prompts that were asked last decoded; without a prompt there is no result."""
    prompts = prompts_of(session, session.asked) if session.asked else {}
    if not prompts:
        return replace(session, decoded=())
    results = shared_models.decode(session.model, session.encoded, prompts, session.spacing_mm)
    return with_maps(replace(session, decoded=tuple(results)))


def with_maps(session: Session) -> Session:
    """The session whose results carry uncertainty maps where the user wants them."""
    prompts = prompts_of(session, session.asked) if session.asked else {}
    if "text" in prompts:
        prompts = {"boxes": [list(result.box) for result in session.decoded if result.box is not None]}
    if not (session.with_uncertainty and any(prompts.values())):
        return session
    maps = iter(shared_models.uncertainties(session.model, session.encoded, prompts, NUM_SAMPLES))
    prompted = [session.asked == "points" or result.box is not None for result in session.decoded]
    return replace(
        session,
        decoded=tuple(
            replace(result, uncertainty=next(maps) if has_map else np.zeros_like(result.probability))
            for result, has_map in zip(session.decoded, prompted, strict=True)
        ),
    )


def use_uncertainty(session: Session, wanted: bool) -> Session:
    """Draw uncertainty maps for these results and all that follow, or do without; masks are not decoded again."""
    decoded = tuple(replace(result, uncertainty=None) for result in session.decoded)
    return with_maps(replace(session, with_uncertainty=bool(wanted), decoded=decoded))


def use_threshold(session: Session, threshold: float) -> Session:
    """Cut the probability elsewhere; this neither encodes nor decodes."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold {threshold} came; expected a probability between 0 and 1")
    return replace(session, threshold=float(threshold))


def use_spacing(session: Session, row_mm: float | None, column_mm: float | None) -> Session:
    """Measure with another spacing, or without one where both are empty or zero."""
    if (row_mm or None, column_mm or None) == (plain_spacing(session.spacing_mm) or (None, None)):
        return session  # unchanged: a file's spacing keeps the region in which it holds
    if not row_mm and not column_mm:
        return replace(session, spacing_mm=None)
    if not row_mm or not column_mm:
        raise ValueError("one of two spacings came; expected millimetres between rows and between columns, or neither")
    check_spacing((row_mm, column_mm))
    return replace(session, spacing_mm=(float(row_mm), float(column_mm)))


def at_threshold(
    result: SegmentationResult,
    threshold: float,
    spacing_mm: tuple[float, float] | PixelSpacing | None,
    prompted_by_box: bool,
) -> SegmentationResult:
    """A result cut, cleaned and measured anew from its own probability; at `DEFAULT_THRESHOLD` it is the pipeline's.

    Args:
        result: of the pipeline, without draws, so that its probability is that of its mask.
        threshold: within (0, 1).
        spacing_mm: for the measurements.
        prompted_by_box: whether the box prompted; otherwise it follows the mask.
    """
    mask, memory = result.mask, result.memory
    if threshold != DEFAULT_THRESHOLD and memory is not None:
        mask = clean_mask(result.probability > threshold, memory.box, memory.points, memory.labels)
    box = result.box
    if not prompted_by_box:
        box = tuple(boxes_from_masks(torch.from_numpy(mask)).tolist()) if mask.any() else None
    return replace(result, mask=mask, box=box, measurements=measure_mask(mask, spacing_mm))


def names_of(session: Session, kind: str | None = None) -> list[str]:
    """What to call each object of a kind of prompt, by default of the one asked last."""
    kind = kind or session.asked
    if kind == "text":
        return list(session.texts)
    if kind == "boxes":
        return [f"box {index + 1}" for index in range(len(session.boxes))]
    return ["points"] if session.points else []


# --- accepted masks --------------------------------------------------------------------------------------------------


def accept(session: Session, label: str = "") -> Session:
    """Keep the masks at hand for annotation files, in place of those accepted earlier for the same image.

    Args:
        session: with at least one result that is not empty.
        label: of the objects that no text named.
    """
    source = opened_source(session)
    label = " ".join(label.split()) or UNNAMED
    objects = [(result.label or label, result.mask, result.score) for result in session.results if result.mask.any()]
    if not objects:
        raise ValueError("nothing is outlined that could be accepted: give a text, a point or a box first")
    width, height = session.image.size
    stem = source.stem_of_frame(session.frame)
    opens_itself = source.num_frames == 1 and source.path.suffix in PICTURE_SUFFIXES
    name = source.name if opens_itself else f"{stem}.png"
    annotated = AnnotatedImage(name, height, width, objects)
    kept = Accepted(annotated, source.digest, None if opens_itself else png_bytes(to_rgb(session.image)))
    namesakes = [each for each in session.accepted if each.annotated.file_name == name]
    if any(each.digest != source.digest for each in namesakes):
        raise ValueError(f"another image called {name} is accepted already: export that one and clear the list first")
    others = tuple(each for each in session.accepted if each.annotated.file_name != name)
    if len(others) == MAX_ACCEPTED:
        raise ValueError(f"{MAX_ACCEPTED} images are accepted, as many as are kept: export them, then clear the list")
    return replace(session, accepted=(*others, kept))

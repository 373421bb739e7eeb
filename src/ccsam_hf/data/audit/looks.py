"""An image and its masks -> what is wrong with them alone, and what is kept to compare it with others (`look_at`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ...image_files import read_image as read_image_file
from ...image_files import to_grey
from ..cases import Case, ImageFile, MaskFiles, decode
from ..readers.label_maps import ObjectMask, check_one_object
from .burnt_in import colored_pixels, stroke_pixels
from .findings import UNREADABLE, Finding, ImageKey
from .fingerprints import Fingerprint, fingerprint

FULL_SHARE = 0.95
TINY_SHARE = 0.001
THUMBNAIL_SIDE = 64
AROUND_OBJECT = 0.2  # of the object's height and width, added at each side of its box
MIN_MARKS_AT_OBJECT = 10  # pixels


@dataclass
class Look:
    """What is kept of an image after a look at it.

    Attributes:
        key: (data set, name).
        split, patient_id, category: of its cases.
        size: (height, width), and `fingerprint`; both None where it cannot be read.
        masks: target -> the bits of a thumbnail, see `thumbnail`.
        findings: about this image alone.
    """

    key: ImageKey
    split: str | None
    patient_id: str | None
    category: str | None
    size: tuple[int, int] | None = None
    fingerprint: Fingerprint | None = None
    masks: dict[str, bytes] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def report(self, kind: str, severity: str, detail: str, remove: bool = False) -> None:
        """Note a finding about this image."""
        removed = (self.key,) if remove else ()
        finding = Finding(kind, severity, (self.key,), (self.split,), detail, remove=removed)
        if finding not in self.findings:  # objects of one label map share its faults
            self.findings.append(finding)


def look_at(cases: Sequence[Case], label_values: set[int]) -> Look:
    """Read one image and its masks.

    Args:
        cases: the objects of the image.
        label_values: the values that label maps of its data set may hold.
    """
    first = cases[0]
    look = Look((first.dataset, first.name), first.split, first.patient_id, first.category)
    image, colored = None, None
    try:
        image, colored = read_image(first)
    except UNREADABLE as error:
        look.report("unreadable image", "error", told(error, first.image_source.paths), remove=True)
    else:
        look.size, look.fingerprint = image.shape, fingerprint(image)
    files: dict[Path, Image.Image] = {}
    objects = []
    for case in cases:
        try:
            mask = read_mask(case, files)
        except UNREADABLE as error:
            look.report("unreadable mask", "error", told(error, case.mask_source.paths), remove=True)
            continue
        if image is not None:
            mask = case.turn_mask(mask)
        if image is not None and mask.shape != image.shape:
            detail = f"the mask of {case.target!r} has size {mask.shape}, the image {image.shape} (height, width)"
            look.report("mask of another size", "error", detail, remove=True)
            continue
        check_area(look, case, mask)
        look.masks[case.target] = thumbnail(mask)
        objects.append(mask)
    sources = [case.mask_source for case in cases if isinstance(case.mask_source, MaskFiles)]
    for path, picture in files.items():
        of_one_object = any(path in source.paths and source.value is None for source in sources)
        check_values(look, path, picture, None if of_one_object else label_values)
    if image is not None:
        check_marks(look, stroke_pixels(image) | colored, objects)
    return look


def told(error: Exception, paths: Sequence[Path]) -> str:
    """What an error says, files by their name alone: reports and split lists are passed on."""
    text = str(error)
    for path in paths:
        text = text.replace(str(path), path.name)
    return text


def read_image(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The grey image and its coloured pixels, from one decoding; colour is seen in image files alone."""
    if not isinstance(case.image_source, ImageFile):
        image = case.image
        return image, np.zeros(image.shape, dtype=bool)
    picture, _ = read_image_file(case.image_source.path)
    image = to_grey(picture)
    if picture.mode in ("1", "L", "LA") or picture.mode.startswith("I"):
        return image, np.zeros(image.shape, dtype=bool)
    return image, colored_pixels(np.asarray(picture.convert("RGB")))


def read_mask(case: Case, files: dict[Path, Image.Image]) -> np.ndarray:
    """The mask of a case as it was drawn, (H, W) bool; a mask file that was decoded is kept in `files`, used again."""
    source = case.mask_source
    if not isinstance(source, MaskFiles):
        return source.read()
    for path in source.paths:
        if path not in files:
            files[path] = decode(path)
        if isinstance(source, ObjectMask):
            check_one_object(files[path], path)
    sizes = sorted({(files[path].height, files[path].width) for path in source.paths})
    if len(sizes) > 1:
        raise ValueError(f"the masks of {case.target!r} have the sizes {sizes} (height, width); expected one size")
    return np.any([source.mask_in(files[path], path) for path in source.paths], axis=0)


def check_area(look: Look, case: Case, mask: np.ndarray) -> None:
    """Report a mask without object, or with one that is too small or too large to be one."""
    share = mask.mean()
    if share == 0:
        normal = case.category == "normal"
        look.report("empty mask", "note" if normal else "warning", f"no pixel is {case.target!r}")
    elif share < TINY_SHARE:
        look.report("tiny mask", "warning", f"{int(mask.sum())} pixels ({share:.3%}) are {case.target!r}")
    elif share > FULL_SHARE:
        look.report("full mask", "error", f"{share:.1%} of the image is {case.target!r}", remove=True)


def check_values(look: Look, path: Path, picture: Image.Image, label_values: set[int] | None) -> None:
    """Report grey values that a mask file should not hold.

    Args:
        look: gets the finding.
        path, picture: the file and what it holds.
        label_values: what a label map may hold; None for the mask of a single object, which has two values.
    """
    values = np.asarray(picture if picture.mode in ("L", "P") else picture.convert("L"))
    present = np.flatnonzero(np.bincount(values.ravel().astype(np.uint8), minlength=256))
    if label_values is None and len(present) > 2:
        between = np.mean((values != present[0]) & (values != present[-1]))
        detail = f"{path.name} holds {len(present)} grey values; {between:.2%} of the pixels lie between the extremes"
        look.report("smeared mask", "warning", detail)
    unknown = [int(value) for value in present if label_values is not None and value not in label_values]
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        detail = f"{path.name} holds {', '.join(map(str, unknown[:8]))}{more}; known are {sorted(label_values)}"
        look.report("unknown label value", "warning", detail)


def check_marks(look: Look, marks: np.ndarray, objects: Sequence[np.ndarray]) -> None:
    """Report what is burnt into an image, as the pixels `marks`, at its objects or elsewhere."""
    if not marks.any():
        return
    at_object = 0
    for mask in objects:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            height, width = np.ptp(rows) * AROUND_OBJECT, np.ptp(columns) * AROUND_OBJECT
            top, left = max(0, int(rows[0] - height)), max(0, int(columns[0] - width))
            box = marks[top : int(rows[-1] + height) + 1, left : int(columns[-1] + width) + 1]
            at_object = max(at_object, int(box.sum()))
    detail = f"{int(marks.sum())} pixels of thin bright strokes or colour"
    if at_object >= MIN_MARKS_AT_OBJECT:
        look.report("marks at the object", "warning", f"{detail}, {at_object} of them at the object")
    else:
        look.report("burnt-in marks", "note", detail)


def thumbnail(mask: np.ndarray) -> bytes:
    """A mask (H, W) as 64 x 64 bits: whether any of it lies there."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((THUMBNAIL_SIDE,) * 2, Image.Resampling.BOX)
    return np.packbits(np.asarray(small) > 0).tobytes()


def dice_of(one: bytes, other: bytes) -> float:
    """Dice of two thumbnails; 1 where both are empty."""
    one_bits, other_bits = (np.unpackbits(np.frombuffer(each, dtype=np.uint8)).astype(bool) for each in (one, other))
    total = one_bits.sum() + other_bits.sum()
    return float(2 * (one_bits & other_bits).sum() / total) if total else 1.0

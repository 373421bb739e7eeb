"""Layout "dicom": one's own DICOM images and loops with masks.

    images/<name>.dcm                one frame or a loop; also <UID> without an extension
    masks/<name>.png                 of an image of one frame: one object, as in layout "folder"
    masks/<name>_<frame>.png         of a loop, for each frame that was outlined: <name>_000.png is the first
    masks/<name>.dcm                 instead, for an image of one frame: DICOM SEG, a case for each of its segments
    cases.csv                        optional, see layout "folder": its names are those of the DICOM files

A loop gives a case for each frame with a mask, named <name>_<frame>; the other frames are counted in a note. A segment
gives its label as the target and its number as the class id; everything else is an "object" where `cases.csv` does not
say what it is. Patient and pixel spacing are those of the header where `cases.csv` has none; frames of a loop whose
header names no patient stay together under the loop's name.

The patient is the header's PatientID as it stands, and a built data set carries it along: give the files pseudonyms
before that. SEG files are read by pydicom: binary ones, with one frame for each segment.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...image_files import is_dicom, is_dicom_without_image, read_image, stem_of, to_grey
from ...pixel_spacing import PixelSpacing, simplified, spacing_of_dicom
from ..cases import DEFAULT_TARGET, Case, MaskFiles, check_pairs, image_files
from .folder import read_table
from .label_maps import ObjectMask

EXTENSIONS = (".dcm", ".dicom")
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"  # Segmentation Storage, DICOM PS3.4 B.5
FRAME_NAME = re.compile(r"(?P<loop>.+)_(?P<frame>\d{3}|[1-9]\d{3,})")


@dataclass(frozen=True)
class DicomFrame:
    """One frame of a DICOM file, in grey.

    Attributes:
        path: the file.
        frame: from 0.
    """

    path: Path
    frame: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) from the header."""
        return read_header(self.path).size

    def read(self) -> np.ndarray:
        """(H0, W0) uint8; of more than 8 bits the highest 8, rounded."""
        return to_grey(read_image(self.path, self.frame)[0])


@dataclass(frozen=True)
class SegmentMask:
    """One segment of a DICOM SEG file.

    Attributes:
        path: the file.
        index: of its frame, from 0.
    """

    path: Path
    index: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) from the header."""
        return read_header(self.path).size

    def read(self) -> np.ndarray:
        """(H0, W0) bool."""
        height, width = self.size
        dataset = read_dataset(self.path)
        with reading(self.path):
            # All frames at once: a frame of bits need not start at a byte, and pydicom's choice of one assumes so.
            return dataset.pixel_array.reshape(-1, height, width)[self.index] > 0


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    for folder in ("images", "masks"):
        if not (directory / folder).is_dir():
            raise FileNotFoundError(f"{directory} has no folder {folder!r}; layout 'dicom' needs images/ and masks/")
    images = dicom_files(directory / "images")
    if not images:
        raise ValueError(f"{directory / 'images'} holds no DICOM file; expected <name>{' or <name>'.join(EXTENSIONS)}")
    others = sorted(set((directory / "images").iterdir()) - set(images.values()))
    if others:
        notes.append(
            f"{directory}: {len(others)} file(s) in images/ are no DICOM images, such as reports, and not read, for "
            f"instance {others[0].name}"
        )
    headers = {name: read_header(path) for name, path in images.items()}
    masks = list_masks(
        directory,
        {name: header.num_frames for name, header in headers.items()},
        {name: header.uid for name, header in headers.items()},
    )
    num_left = sum(header.num_frames - len({mask.frame for mask in masks[name]}) for name, header in headers.items())
    if num_left:
        notes.append(f"{directory}: {num_left} frame(s) of loops have no mask: they are left out")
    about = read_table(directory / "cases.csv", images)
    labels = {name: [mask.fields.get("target") for mask in masks[name]] for name in about}
    renamed = [name for name, found in labels.items() if any(found) and about[name]["target"] not in found]
    if renamed:
        notes.append(
            f"{directory / 'cases.csv'} calls {len(renamed)} image(s) other than their SEG files do, for instance "
            f"{renamed[0]!r}: the labels of the segments are used"
        )
    cases, without = [], defaultdict(list)
    for name, path in images.items():
        header = headers[name]
        is_loop = header.num_frames > 1
        fields = {
            "target": DEFAULT_TARGET,
            "patient_id": header.patient_id or (name if is_loop else None),
        } | about.get(name, {})
        for mask in masks[name]:
            case = Case(
                name=f"{name}_{mask.frame:03d}" if is_loop else name,
                image_source=DicomFrame(path, mask.frame),
                mask_source=mask.source,
                dataset=directory.resolve().name,
                **(fields | mask.fields),
            )
            spacing_mm, reason = (case.spacing_mm, None) if case.spacing_mm else spacing_of(case, header)
            cases.append(replace(case, spacing_mm=spacing_mm))
            if reason:
                without[reason].append(case.name)
    notes += [
        f"{directory}: {len(names)} case(s) have no mm, such as {names[0]}: {why}" for why, names in without.items()
    ]
    return cases


def spacing_of(case: Case, header: "Header") -> tuple[tuple[float, float] | None, str | None]:
    """The spacing at a case's mask and why there is none; the mask is read where a region bounds the spacing."""
    spacing = simplified(header.spacing, header.size)
    return spacing.at_mask(case.mask) if isinstance(spacing, PixelSpacing) else (spacing, None)


@dataclass(frozen=True)
class FrameMask:
    """A mask and what is known of it.

    Attributes:
        frame: the frame of the image, from 0.
        source: where the mask lies.
        fields: of `Case`.
    """

    frame: int
    source: MaskFiles | SegmentMask
    fields: dict[str, Any]


def list_masks(directory: Path, num_frames: dict[str, int], uids: dict[str, str]) -> dict[str, list[FrameMask]]:
    """Name of the image -> its masks in the order of frames or segments.

    Args:
        directory: of the layout.
        num_frames: by name of the image.
        uids: SOP Instance UID by name of the image.

    Raises:
        ValueError: an image has no mask, a mask no image, or an image two masks.
    """
    masks: dict[str, list[FrameMask]] = {name: [] for name in num_frames}
    unknown = []
    for path in image_files(directory / "masks"):
        match = FRAME_NAME.fullmatch(path.stem)
        if path.suffix.lower() != ".png":
            unknown.append(path.name)
        elif num_frames.get(path.stem) == 1:
            masks[path.stem].append(FrameMask(0, ObjectMask((path,)), {}))
        elif match and int(match["frame"]) < num_frames.get(match["loop"], 0) > 1:
            masks[match["loop"]].append(FrameMask(int(match["frame"]), ObjectMask((path,)), {}))
        else:
            unknown.append(path.name)
    for name, path in dicom_files(directory / "masks").items():
        if masks.get(name):
            raise ValueError(f"{directory / 'masks'} has {name}.png and {path.name}; expected one of them: remove one")
        if num_frames.get(name, 1) > 1:
            raise ValueError(f"{path} is a mask of a loop; expected masks/{name}_<frame>.png: export its frames")
        if name in masks:
            masks[name] = segments_of(path, uids[name])
        else:
            unknown.append(path.name)
    pattern = "masks/<name>.png or .dcm, or masks/<name>_<frame>.png of a frame that the loop has"
    check_pairs(directory, num_frames, [*(name for name in masks if masks[name]), *unknown], mask_pattern=pattern)
    return {name: sorted(of_image, key=lambda mask: mask.frame) for name, of_image in masks.items()}


def segments_of(path: Path, image_uid: str) -> list[FrameMask]:
    """The segments of a SEG file for an image of one frame, by number.

    Args:
        path: the file.
        image_uid: SOP Instance UID of the image that has its name.

    Raises:
        ValueError: another kind of file, or one that refers to other images alone.
    """
    header = read_dataset(path, stop_before_pixels=True)
    with reading(path):
        referred = {str(item.value) for item in header.iterall() if item.keyword == "ReferencedSOPInstanceUID"}
    if referred and image_uid not in referred:
        raise ValueError(
            f"{path} refers to the image {min(referred)} and the image of its name is {image_uid}; expected the mask "
            "of that image: name the file as the image that it was drawn on"
        )
    if (header.get("SOPClassUID"), header.get("SegmentationType")) != (SEGMENTATION, "BINARY"):
        raise ValueError(
            f"{path} is of class {header.get('SOPClassUID')} and type {header.get('SegmentationType')}; expected a "
            "DICOM SEG of type BINARY: export the mask as PNG"
        )
    with reading(path):
        labels = {int(item.SegmentNumber): str(item.SegmentLabel).strip() for item in header.SegmentSequence}
        of_frames = [
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            for group in header.get("PerFrameFunctionalGroupsSequence") or []
            if "SegmentIdentificationSequence" in group
        ] or list(labels)  # where frames do not say, they stand in the order of the segments
        num_frames = int(header.NumberOfFrames)
    if sorted(of_frames) != sorted(labels) or num_frames != len(labels):
        raise ValueError(
            f"{path} has {num_frames} frame(s) of the segments {of_frames} and describes {sorted(labels)}; expected "
            "one frame for each segment: export the mask as PNG"
        )
    return [
        FrameMask(
            0,
            SegmentMask(path, of_frames.index(number)),
            {"target": label or DEFAULT_TARGET, "class_id": number},
        )
        for number, label in sorted(labels.items())
    ]


def dicom_files(folder: Path) -> dict[str, Path]:
    """The DICOM files of a folder that hold an image, by name, sorted; ValueError where two share one.

    They are told by their content, whatever they are called: a PACS exports them under their UIDs.
    """
    files: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file() and is_dicom(path)):
        name = stem_of(path)
        if is_dicom_without_image(path):
            continue
        if name in files:
            raise ValueError(f"{path} and {files[name]} share the name {name!r}: rename one of them")
        files[name] = path
    return files


@dataclass(frozen=True)
class Header:
    """What a header tells.

    Attributes:
        size: (height, width).
        num_frames: at least 1.
        uid: SOP Instance UID, "" where there is none.
        patient_id: None where it is empty.
        spacing: what the header says of the size of its pixels.
    """

    size: tuple[int, int]
    num_frames: int
    uid: str
    patient_id: str | None
    spacing: PixelSpacing


def read_header(path: Path) -> Header:
    """Read a header, not the pixels; errors as `read_dataset`."""
    dataset = read_dataset(path, stop_before_pixels=True)
    with reading(path):
        return Header(
            size=(int(dataset.Rows), int(dataset.Columns)),
            num_frames=int(dataset.get("NumberOfFrames") or 1),
            uid=str(dataset.get("SOPInstanceUID") or ""),
            patient_id=str(dataset.get("PatientID") or "").strip() or None,
            spacing=spacing_of_dicom(dataset),
        )


def read_dataset(path: Path, stop_before_pixels: bool = False) -> Any:
    """A file as pydicom's data set; ImportError without pydicom, ValueError where the file cannot be read."""
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"{path} needs pydicom: pip install ccsam-hf[data]") from error
    with reading(path):
        return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what pydicom raises for a damaged file into ValueError; it raises many kinds."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} is not a DICOM file that can be read ({type(error).__name__}: {error}); expected a complete one"
        ) from error

"""Masks and the DICOM file they belong to -> a DICOM Segmentation, written by highdicom (extra `data`).

For research. Not a medical device.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..checks import import_extra
from ..descriptions import find_target
from ..visualization import color_of
from .dicom_headers import ALGORITHM, LONG_STRING, PATIENT_AND_STUDY, RESEARCH_USE, SERIES_NUMBER, UTF_8, dicom_bytes
from .mask_files import UNNAMED, checked_masks

CONTENT_LABEL = "RESEARCH_USE"  # DICOM allows 16 capital letters and underscores
REFERENCED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")


@dataclass(frozen=True)
class SegmentCodes:
    """What a segment is, as keywords of `pydicom.sr.codedict.codes.SCT` (SNOMED CT as DICOM PS3.16 uses it).

    Attributes:
        category: of context group 7150, Segmentation Property Category.
        type: of context group 7151, Segmentation Property Type, where that has the structure.
        region: the organ that a lesion lies in, None for an organ.
    """

    category: str
    type: str
    region: str | None = None


STRUCTURE, ABNORMAL = "AnatomicalStructure", "MorphologicallyAbnormalStructure"
CODES = {
    "thyroid nodule": SegmentCodes(ABNORMAL, "Nodule", "Thyroid"),
    "thyroid gland": SegmentCodes(STRUCTURE, "Thyroid"),
    "breast lesion": SegmentCodes(ABNORMAL, "Lesion", "Breast"),
    "left ventricle": SegmentCodes(STRUCTURE, "LeftVentricle"),
    "myocardium": SegmentCodes(STRUCTURE, "LeftVentricleMyocardium"),
    "left atrium": SegmentCodes(STRUCTURE, "LeftAtrium"),
    "right ventricle": SegmentCodes(STRUCTURE, "RightVentricle"),
    "fetal head": SegmentCodes(STRUCTURE, "Head"),
    "pubic symphysis": SegmentCodes(STRUCTURE, "SymphysisPubis"),
    "kidney": SegmentCodes(STRUCTURE, "Kidney"),
    "urinary bladder": SegmentCodes(STRUCTURE, "Bladder"),
    "prostate": SegmentCodes(STRUCTURE, "Prostate"),
    "liver": SegmentCodes(STRUCTURE, "Liver"),
    "liver lesion": SegmentCodes(ABNORMAL, "Lesion", "Liver"),
    "gallbladder": SegmentCodes(STRUCTURE, "Gallbladder"),
    "spleen": SegmentCodes(STRUCTURE, "Spleen"),
    "carotid artery": SegmentCodes(STRUCTURE, "CarotidArtery"),
    "carotid plaque": SegmentCodes(ABNORMAL, "Plaque", "CarotidArtery"),
    "lymph node": SegmentCodes(STRUCTURE, "LymphNode"),
    "brachial plexus": SegmentCodes(STRUCTURE, "BrachialPlexus"),
    "ovarian lesion": SegmentCodes(ABNORMAL, "Lesion", "Ovary"),
    "uterine fibroid": SegmentCodes(ABNORMAL, "Leiomyoma", "Uterus"),
    "appendix": SegmentCodes(STRUCTURE, "Appendix"),
}


# Any other text: an area of the image (a code of DICOM's own, DCM), of which the label alone says what it shows.
ANY_AREA = SegmentCodes("SpatialAndRelationalConcept", "ImageRegion")


def masks_dicom_seg(
    masks: Sequence[np.ndarray] | Mapping[int, Sequence[np.ndarray]],
    labels: Sequence[str | None],
    source: Any,
    frame_numbers: int | None = None,
) -> bytes:
    """Masks as a DICOM Segmentation (binary) that refers to the image, or to the frames of a loop, they were made of.

    Ultrasound has no Frame of Reference: each segment lies pixel on pixel on the frame that it names as its source.
    highdicom 0.28 makes such a file for one frame only, so the frames of a loop are set in afterwards; their order in
    time is a second dimension beside the segments.

    Args:
        masks: P masks (H, W) bool of one frame, or {frame: P masks} of several frames of a loop, counted from 0.
        labels: for each object what it is, None for an object without a name. Targets of the registry
            (`descriptions.TARGETS`) get their SNOMED codes, anything else that of an area of the image.
        source: DICOM image that was segmented: path, or pydicom Dataset such as `secondary_capture` makes.
        frame_numbers: the frame, from 0, that `masks` without frames belong to; needed for a loop alone.

    Returns:
        Content of the file. Segment i + 1 is mask i, and each has a frame also where its mask is empty. Patient and
        study are those of the source, the series is new. The pixel spacing stays with the source: highdicom refuses to
        read one without the thickness of a slice, which ultrasound does not state.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: highdicom is absent.
        TypeError, ValueError: masks that are not bool, of another size than the source or of another number than the
            labels; a frame that the source lacks; or a source that no segmentation can refer to.
    """
    highdicom, pydicom = import_extra("highdicom", "data", "DICOM-SEG"), import_extra("pydicom", "data", "DICOM-SEG")
    header = referable_header(source)
    num_frames = int(header.get("NumberOfFrames") or 1)
    by_frame = frames_of(masks, frame_numbers, num_frames)
    expected = (len(labels), int(header.Rows), int(header.Columns))
    of_frames = [checked_masks(by_frame[frame]) for frame in sorted(by_frame)]
    for array in of_frames:
        if array.shape != expected:
            raise ValueError(
                f"masks of shape {array.shape} came; expected {expected}: one for each label, height and width of the "
                "source"
            )
    stacked = np.stack(of_frames)  # (F, P, H, W)
    uids = [pydicom.uid.generate_uid() for _ in range(2)]
    try:
        segmentation = highdicom.seg.Segmentation(
            source_images=[for_highdicom(header)],
            pixel_array=np.moveaxis(stacked[:1], 1, 3).astype(np.uint8),  # (1, H, W, P)
            segmentation_type="BINARY",
            segment_descriptions=[describe_segment(i, label) for i, label in enumerate(labels)],
            series_instance_uid=uids[0],
            series_number=SERIES_NUMBER,
            sop_instance_uid=uids[1],
            instance_number=1,
            manufacturer="ccsam-hf",
            manufacturer_model_name=ALGORITHM,
            software_versions=__version__,
            device_serial_number="none",
            content_label=CONTENT_LABEL,
            content_description=RESEARCH_USE,
            series_description=f"{ALGORITHM} segmentation. {RESEARCH_USE}"[:LONG_STRING],
            omit_empty_frames=False,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"no DICOM-SEG can be made for the source ({type(error).__name__}: {error}); expected a DICOM ultrasound "
            "image or loop: save the masks as PNG or NIfTI"
        ) from error
    segmentation.SpecificCharacterSet = UTF_8  # labels are free text
    segmentation.PatientOrientation = header.get("PatientOrientation")
    segmentation.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence", None)
    if num_frames > 1:
        set_frames(segmentation, stacked, sorted(by_frame))
    return dicom_bytes(segmentation)


def frames_of(masks: Any, frame: int | None, num_frames: int) -> dict[int, Sequence[np.ndarray]]:
    """{frame: masks} of either form; ValueError where a frame is missing, unknown or said twice."""
    if isinstance(masks, Mapping):
        if frame is not None:
            raise ValueError(f"frame_numbers={frame} came beside masks that name their frames; leave it out")
        by_frame = dict(masks)
    elif frame is None and num_frames > 1:
        raise ValueError(f"the source is a loop of {num_frames} frames; expected frame_numbers: which one it is")
    else:
        by_frame = {0 if frame is None else frame: masks}
    unknown = [number for number in by_frame if number not in range(num_frames)]
    if unknown or not by_frame:
        raise ValueError(
            f"masks of frame(s) {unknown} came for a source with {num_frames}; expected at least one frame, each from "
            f"0 to {num_frames - 1}"
        )
    return by_frame


def referable_header(source: Any) -> Any:
    """The header of a DICOM image that a segmentation can refer to, as a pydicom Dataset without pixels.

    Args:
        source: path or Dataset, which stays as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pydicom is absent.
        ValueError: it is no DICOM file, or lacks what a reference needs.
    """
    pydicom = import_extra("pydicom", "data", "DICOM-SEG")
    if isinstance(source, (str, Path)):
        try:
            source = pydicom.dcmread(source, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, EOFError, ValueError, KeyError) as error:
            raise ValueError(f"the source {source} is not a DICOM file that can be read ({error})") from error
    missing = [keyword for keyword in REFERENCED if not source.get(keyword)]
    if missing:
        raise ValueError(
            f"the source lacks {', '.join(missing)}; a DICOM-SEG refers to its image by these: export it "
            "anew with them, or save the masks as PNG or NIfTI"
        )
    pixels = pydicom.datadict.tag_for_keyword("PixelData")
    header = pydicom.Dataset()
    header.update({tag: source.get_item(tag) for tag in source.keys() if tag != pixels})
    return header


def for_highdicom(header: Any) -> Any:
    """A header as highdicom reads it of one frame without a place in space.

    Attributes that may be empty are absent in some files, and loops of ultrasound have no functional groups: both are
    set here. A Frame of Reference would ask for a position, which ultrasound does not state.
    """
    pydicom = import_extra("pydicom", "data", "DICOM-SEG")
    header = deepcopy(header)
    for keyword in PATIENT_AND_STUDY:
        if keyword not in header:
            setattr(header, keyword, None)
    for keyword in ("FrameOfReferenceUID", "PixelSpacing"):
        if keyword in header:
            delattr(header, keyword)
    groups = pydicom.Dataset()
    groups.PixelMeasuresSequence = [pydicom.Dataset()]
    header.SharedFunctionalGroupsSequence = [groups]
    header.NumberOfFrames = 1
    return header


def describe_segment(index: int, label: str | None) -> Any:
    """Number, label, codes, colour and algorithm of a segment, as highdicom takes them."""
    highdicom = import_extra("highdicom", "data", "DICOM-SEG")
    concepts = import_extra("pydicom.sr.codedict", "data", "DICOM-SEG").codes
    text = " ".join((label or UNNAMED).replace("\\", "/").split())  # a backslash separates values
    target = None if label is None else find_target(label)
    codes = CODES.get(target.name, ANY_AREA) if target else ANY_AREA
    scheme = concepts.DCM if codes is ANY_AREA else concepts.SCT
    segment = highdicom.seg.SegmentDescription(
        segment_number=index + 1,
        segment_label=text[:LONG_STRING],
        segmented_property_category=getattr(concepts.SCT, codes.category),
        segmented_property_type=getattr(scheme, codes.type),
        anatomic_regions=None if codes.region is None else [getattr(concepts.SCT, codes.region)],
        algorithm_type="SEMIAUTOMATIC",  # someone gave a prompt
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"{ALGORITHM} (ccsam-hf {__version__})",
            family=concepts.DCM.ArtificialIntelligence,
            version=__version__,
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*color_of(index)),
    )
    segment.SegmentDescription = text  # the label in full
    return segment


def set_frames(segmentation: Any, masks: np.ndarray, frames: Sequence[int]) -> None:
    """Set the frames of a loop into a segmentation that was made for one frame.

    Args:
        segmentation: of highdicom; it is changed.
        masks: (F, P, H, W) bool.
        frames: F numbers in the loop, from 0, ascending.
    """
    pydicom = import_extra("pydicom", "data", "DICOM-SEG")
    of_first = list(segmentation.PerFrameFunctionalGroupsSequence)  # one for each segment
    per_frame = []
    for segment, template in enumerate(of_first, start=1):
        for frame in frames:
            group = deepcopy(template)
            group.FrameContentSequence[0].DimensionIndexValues = [segment, frame + 1]
            group.FrameContentSequence[0].TemporalPositionIndex = frame + 1
            group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = frame + 1
            per_frame.append(group)
    in_time = pydicom.Dataset()
    in_time.DimensionIndexPointer = pydicom.datadict.tag_for_keyword("TemporalPositionIndex")
    in_time.FunctionalGroupPointer = pydicom.datadict.tag_for_keyword("FrameContentSequence")
    in_time.DimensionOrganizationUID = segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID
    in_time.DimensionDescriptionLabel = "Temporal Position Index"
    segmentation.DimensionIndexSequence = [segmentation.DimensionIndexSequence[0], in_time]
    segmentation.PerFrameFunctionalGroupsSequence = per_frame
    segmentation.NumberOfFrames = len(per_frame)
    segmentation.SegmentsOverlap = "YES" if (masks.sum(axis=1) > 1).any() else "NO"
    segmentation.PixelData = pydicom.pixels.pack_bits(np.moveaxis(masks, 1, 0).astype(np.uint8).ravel())


__all__ = ["masks_dicom_seg"]

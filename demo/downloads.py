"""A session's results -> files in the session's own folder: masks, JSON, and annotations of accepted images."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccsam_hf.formats.annotations import label_studio_config, to_coco, to_cvat, to_label_studio
from ccsam_hf.formats.dicom_headers import dicom_bytes
from ccsam_hf.formats.dicom_seg import masks_dicom_seg
from ccsam_hf.formats.mask_files import mask_png, results_json
from ccsam_hf.formats.nifti import masks_nifti
from ccsam_hf.formats.secondary_capture import secondary_capture
from ccsam_hf.pixel_spacing import plain_spacing
from session import NOTICE, Session, opened_source

FORMATS = {"PNG": "png", "NIfTI": "nifti", "DICOM-SEG": "dicom-seg", "JSON": "json"}  # as shown: as asked for
TOOLS = ("COCO", "Label Studio", "CVAT")


def write_results(session: Session, formats: Sequence[str]) -> list[Path]:
    """Write the results at the session's threshold; files written before are removed.

    Args:
        session: with at least one result.
        formats: values of `FORMATS`. "dicom-seg" of an image that is no DICOM file brings that image along as a DICOM
            Secondary Capture, to which it refers.

    Returns:
        Paths of PNG masks in the order of the objects, then the other files.

    Raises:
        ImportError: a library of the extra `data` is absent.
        ValueError: there is no result, no format or an unknown one.
    """
    if not session.results:
        raise ValueError("there is no result to download yet: give a text, a point or a box first")
    unknown = sorted(set(formats) - set(FORMATS.values()))
    if unknown or not formats:
        raise ValueError(f"formats {list(formats)} came; expected one or more of {', '.join(FORMATS.values())}")
    folder, stem = emptied(session), session.source.stem_of_frame(session.frame)
    masks, names = [result.mask for result in session.results], mask_names(session)
    contents: dict[str, bytes] = {}
    if "png" in formats:
        contents |= {name: mask_png(mask) for name, mask in zip(names, masks, strict=True)}
    if "nifti" in formats:
        contents[f"{stem}_masks.nii.gz"] = masks_nifti(masks, session.spacing_mm)
    if "dicom-seg" in formats:
        contents |= dicom_files(session, stem)
    if "json" in formats:
        contents[f"{stem}.json"] = as_json(about(session))
    return [write(folder / name, content) for name, content in contents.items()]


def mask_names(session: Session) -> list[str]:
    """The name of the PNG file of each mask."""
    stem, count = session.source.stem_of_frame(session.frame), len(session.results)
    return [f"{stem}_mask.png"] if count == 1 else [f"{stem}_mask_{index}.png" for index in range(count)]


def about(session: Session) -> dict[str, Any]:
    """What is known of the results, ready for JSON."""
    source = opened_source(session)
    width, height = session.image.size
    return {
        "image": source.name,
        "frame": session.frame,
        "size": {"width": width, "height": height},
        "spacing_mm": plain_spacing(session.spacing_mm),
        "model": session.model,
        "threshold": session.threshold,
        **results_json(session.results, mask_names(session)),
        "notice": NOTICE,
    }


def dicom_files(session: Session, stem: str) -> dict[str, bytes]:
    """The DICOM Segmentation and, where the image is no DICOM file, the image that it refers to."""
    source = opened_source(session)
    masks, labels = [result.mask for result in session.results], [result.label for result in session.results]
    if source.is_dicom:
        frame = session.frame if source.num_frames > 1 else None
        return {f"{stem}_seg.dcm": masks_dicom_seg(masks, labels, source.path, frame)}
    capture = secondary_capture(session.image, session.spacing_mm, name=stem)
    return {
        f"{stem}_seg.dcm": masks_dicom_seg(masks, labels, capture),
        f"{stem}_image.dcm": dicom_bytes(capture),
    }


def write_annotations(session: Session, tool: str) -> list[Path]:
    """Write what the session has accepted for a labelling tool; files written before are removed.

    Args:
        session: with at least one accepted image.
        tool: one of `TOOLS`.

    Returns:
        The annotation file, the settings of the project for Label Studio, and a PNG of each image that the tool could
        not open itself.

    Raises:
        ImportError: pycocotools is absent.
        ValueError: nothing was accepted yet, or the tool is unknown.
    """
    if not session.accepted:
        raise ValueError("no image is accepted yet: outline something, then accept it")
    images = [each.annotated for each in session.accepted]
    if tool == "COCO":
        contents = {"annotations_coco.json": as_json(to_coco(images))}
    elif tool == "Label Studio":
        labels = [label for image in images for label, _, _ in image.objects]
        contents = {
            "annotations_label_studio.json": as_json(to_label_studio(images)),
            "label_config.xml": label_studio_config(labels).encode(),
        }
    elif tool == "CVAT":
        contents = {"annotations_cvat.xml": to_cvat(images).encode()}
    else:
        raise ValueError(f"{tool!r} came; expected one of {', '.join(TOOLS)}")
    contents |= {each.annotated.file_name: each.png for each in session.accepted if each.png is not None}
    folder = emptied(session)
    return [write(folder / name, content) for name, content in contents.items()]


def as_json(value: Any) -> bytes:
    """A value as the content of a JSON file."""
    return (json.dumps(value, indent=2) + "\n").encode()


def emptied(session: Session) -> Path:
    """The folder of the session's files for the user, without those of before."""
    folder = Path(opened_source(session).folder.name) / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def write(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name, and rename it."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(content)
    return unfinished.rename(path)

"""Layout "ddti": thyroid nodules, the open database of Pedraza et al., Proc. SPIE 9287, 2015.

The release comes in two forms. As published, an XML file for each patient holds the outlines in its images:

    <n>_<k>.jpg     image k of patient n
    <n>.xml         <mark><image>k</image><svg>[{"points": [{"x": 1, "y": 2}, ...]}, ...]</svg></mark>, once or more

All outlines of an image are united, their lines included; an image without any has an empty mask. The copy that is
passed on with TN3K holds 637 images with one nodule each, renumbered, so that no patient is known:

    image/<n>.PNG, mask/<n>.PNG         also inside 1_or_data/
    p_image/<n>.PNG, p_mask/<n>.PNG     also inside 2_preprocessed_data/stage1/; cropped and resized to 256 x 256

The first of these places that exists is read; the form with XML files where none does. US30K names the images of this
copy "test<n>". The release knows no splits.

Source: the copy in ynatovich/mlhc at commit ad2ac74. The published form was not at hand: its fields are those that
public loaders read, which also tell that the annotations of patients 197 and 205 break off behind their last outline.
"""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw

from ..cases import Case, ImageFile, header_size
from .pairs import binary_mask, files_by_name, list_pairs, parse_xml

PLACES = (
    ("image", "mask"),
    ("1_or_data/image", "1_or_data/mask"),
    ("p_image", "p_mask"),
    ("2_preprocessed_data/stage1/p_image", "2_preprocessed_data/stage1/p_mask"),
)

Outline = list[tuple[float, float]]  # (x, y) in pixels of the image


@dataclass(frozen=True)
class OutlinedMask:
    """The union of all outlines of an image, filled.

    Attributes:
        xml_path: the patient's annotations.
        image_path: the image, for the size of the mask.
        number: which of the patient's images it is.
    """

    xml_path: Path
    image_path: Path
    number: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """The annotations."""
        return (self.xml_path,)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, from its header."""
        return header_size(self.image_path)

    def read(self) -> np.ndarray:
        """(H0, W0) bool."""
        height, width = self.size
        canvas = Image.new("L", (width, height))
        draw = ImageDraw.Draw(canvas)
        for outline in read_outlines(self.xml_path, []).get(self.number, []):
            draw.polygon(outline, fill=1)
        return np.asarray(canvas) > 0


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    places = [place for place in PLACES if (directory / place[0]).is_dir()]
    if not places:
        return read_published(directory, notes)
    if len(places) > 1:
        unread = ", ".join(image_folder for image_folder, _ in places[1:])
        notes.append(f"{directory} holds the images more than once: {places[0][0]} is read, {unread} is not")
    image_folder, mask_folder = places[0]
    return [
        Case(
            name=name,
            target="thyroid nodule",
            image_source=ImageFile(image),
            mask_source=binary_mask(mask),
            dataset="DDTI",
        )
        for name, (image, mask) in list_pairs(directory / image_folder, directory / mask_folder).items()
    ]


def read_published(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the form with XML files."""
    annotations = {path.stem: path for path in sorted(directory.glob("*.xml"))}
    if not annotations:
        raise FileNotFoundError(
            f"{directory} has none of the folders {', '.join(place for place, _ in PLACES)} and no <n>.xml; layout "
            "'ddti' needs one of them"
        )
    images: dict[tuple[str, int], Path] = {}
    for name, path in files_by_name(directory).items():
        match = re.fullmatch(r"(.+)_(\d+)", name)
        if not match or match[1] not in annotations:
            raise ValueError(f"{path} belongs to no <n>.xml; expected <n>_<k> with the name of an XML file beside it")
        images[match[1], int(match[2])] = path
    if not images:
        raise ValueError(f"{directory} holds no case: no <n>_<k>.jpg beside its XML files")
    outlined = {(patient, number) for patient, path in annotations.items() for number in read_outlines(path, notes)}
    missing = sorted(outlined - set(images))
    if missing:
        patient, number = missing[0]
        raise ValueError(
            f"{directory}: {len(missing)} outlined image(s) are missing, for instance {patient}_{number}.jpg: add the "
            "images or remove their marks"
        )
    empty = sorted(path.name for key, path in images.items() if key not in outlined)
    if empty:
        notes.append(
            f"{directory}: {len(empty)} image(s) have no outline, for instance {empty[0]}: their masks are empty"
        )
    return [
        Case(
            name=path.stem,
            target="thyroid nodule",
            image_source=ImageFile(path),
            mask_source=OutlinedMask(annotations[patient], path, number),
            dataset="DDTI",
            patient_id=patient,
        )
        for (patient, number), path in images.items()
    ]


def read_outlines(path: Path, notes: list[str]) -> dict[int, list[Outline]]:
    """Number of the image -> its outlines, for the images of a patient that have any.

    Args:
        path: the patient's XML file.
        notes: gets a sentence for each annotation that breaks off behind its last outline, or encloses nothing.

    Raises:
        ValueError: the file is no XML or declares entities, or a mark names no image or has no readable points.
    """
    outlines: dict[int, list[Outline]] = defaultdict(list)
    for mark in parse_xml(path.read_bytes(), path).iter("mark"):
        number, found = (mark.findtext("image") or "").strip(), outlines_of(mark, path, notes)
        if found and not number.isdecimal():
            raise ValueError(f"{path} has a mark of image {number!r}; expected the number k of <n>_<k>.jpg")
        enclosing = [outline for outline in found if len(outline) > 2]
        if len(enclosing) < len(found):
            notes.append(f"{path}: {len(found) - len(enclosing)} outline(s) of fewer than 3 points are left out")
        if enclosing:
            outlines[int(number)] += enclosing
    return dict(outlines)


def outlines_of(mark: ElementTree.Element, path: Path, notes: list[str]) -> list[Outline]:
    """The outlines in one mark; those before the break where the annotation breaks off."""
    text = (mark.findtext("svg") or "").strip()
    if not text:
        return []
    try:
        try:
            lists = [region.get("points", []) for region in json.loads(text)]
        except json.JSONDecodeError:
            starts = [match.end() for match in re.finditer(r'"points"\s*:\s*', text)]
            if not starts:
                raise
            lists = [json.JSONDecoder().raw_decode(text, start)[0] for start in starts]
            notes.append(
                f"{path}: an annotation breaks off; the {len(lists)} outline(s) before that are whole and used"
            )
        return [[(float(point["x"]), float(point["y"])) for point in points] for points in lists]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} has a mark whose outlines cannot be read ({error!r}); expected a list of "
            '{"points": [{"x": ..., "y": ...}, ...]}: repair or remove the mark'
        ) from error

"""Layout "ddti": thyroid nodules, the open database of Pedraza et al., Proc. SPIE 9287, 2015.

The release comes in two forms. As published, an XML file for each patient holds the outlines in its images:

    <n>_<k>.jpg     image k of patient n
    <n>.xml         <mark><image>k</image><svg>[{"points": [{"x": 1, "y": 2}, ...]}, ...]</svg></mark>, once or more

All outlines of an image are united, their lines included; an image without any has an empty mask. Some files break
off in the middle of their JSON, at 2,500 characters: the outlines that are whole are used, and an image whose outlines
cannot be read at all is left out. Notes name all of these files. The copy that is
passed on with TN3K holds 637 images with one nodule each, renumbered, so that no patient is known:

    image/<n>.PNG, mask/<n>.PNG         also inside 1_or_data/
    p_image/<n>.PNG, p_mask/<n>.PNG     also inside 2_preprocessed_data/stage1/; cropped and resized to 256 x 256

The first of these places that exists is read; the form with XML files where none does. US30K names the images of this
copy "test<n>". The release knows no splits.

Source: the copy in ynatovich/mlhc at commit ad2ac74, and 196 patients of the published form.
"""

import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass
class Annotations:
    """What the XML file of a patient holds.

    Attributes:
        outlines: number of the image -> its outlines of at least 3 points, for the images that have any.
        unreadable: number of the image -> why none of its outlines can be read.
        breaks_off: whether the text of a mark ends before its JSON does.
        lost: how many outlines are not whole because of that.
        thin: how many outlines have fewer than 3 points.
    """

    outlines: dict[int, list[Outline]] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    breaks_off: bool = False
    lost: int = 0
    thin: int = 0


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
        for outline in read_annotations(self.xml_path).outlines.get(self.number, []):
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
            release="DDTI",
        )
        for name, (image, mask) in list_pairs(directory / image_folder, directory / mask_folder).items()
    ]


def read_published(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the form with XML files."""
    files = {path.stem: path for path in sorted(directory.glob("*.xml"))}
    if not files:
        raise FileNotFoundError(
            f"{directory} has none of the folders {', '.join(place for place, _ in PLACES)} and no <n>.xml; layout "
            "'ddti' needs one of them"
        )
    images = images_of_patients(directory, files)
    annotations, unreadable = read_all_annotations(files)
    outlined = {(patient, number) for patient, found in annotations.items() for number in found.outlines}
    missing = sorted(outlined - set(images))
    if missing:
        patient, number = missing[0]
        raise ValueError(
            f"{directory}: {len(missing)} outlined image(s) are missing, for instance {patient}_{number}.jpg: add the "
            "images or remove their marks"
        )
    for patient, found in annotations.items():
        unreadable |= {f"{patient}_{number}": reason for number, reason in found.unreadable.items()}
    kept = {
        (patient, number): path
        for (patient, number), path in images.items()
        if patient not in unreadable and f"{patient}_{number}" not in unreadable
    }
    if not kept:
        name, reason = next(iter(unreadable.items()))
        raise ValueError(f"{directory} holds no case: no outline can be read, for instance of {name}: {reason}")
    note_faults(directory, annotations, unreadable, notes)
    empty = sorted(path.name for key, path in kept.items() if key not in outlined)
    if empty:
        notes.append(
            f"{directory}: {len(empty)} image(s) have no outline, for instance {empty[0]}: their masks are empty"
        )
    return [
        Case(
            name=path.stem,
            target="thyroid nodule",
            image_source=ImageFile(path),
            mask_source=OutlinedMask(files[patient], path, number),
            dataset="DDTI",
            release="DDTI",
            patient_id=patient,
        )
        for (patient, number), path in kept.items()
    ]


def images_of_patients(directory: Path, files: dict[str, Path]) -> dict[tuple[str, int], Path]:
    """(patient, number) -> image file; ValueError where an image belongs to no XML file or there is none."""
    images: dict[tuple[str, int], Path] = {}
    for name, path in files_by_name(directory).items():
        match = re.fullmatch(r"(.+)_(\d+)", name)
        if not match or match[1] not in files:
            raise ValueError(f"{path} belongs to no <n>.xml; expected <n>_<k> with the name of an XML file beside it")
        images[match[1], int(match[2])] = path
    if not images:
        raise ValueError(f"{directory} holds no case: no <n>_<k>.jpg beside its XML files")
    return images


def read_all_annotations(files: dict[str, Path]) -> tuple[dict[str, Annotations], dict[str, str]]:
    """Patient -> annotations, and patient -> why the file cannot be read at all."""
    annotations: dict[str, Annotations] = {}
    unreadable: dict[str, str] = {}
    for patient, path in files.items():
        try:
            annotations[patient] = read_annotations(path)
        except ValueError as error:
            unreadable[patient] = str(error).removeprefix(f"{path} ")
    return annotations, unreadable


def note_faults(
    directory: Path, annotations: dict[str, Annotations], unreadable: dict[str, str], notes: list[str]
) -> None:
    """One sentence for all annotations that break off, one for all that cannot be read, one for empty outlines."""
    cut_off = {patient: found for patient, found in annotations.items() if found.breaks_off}
    if cut_off:
        names = ", ".join(f"{patient}.xml" for patient in cut_off)
        notes.append(
            f"{directory}: the annotations of {len(cut_off)} file(s) break off ({names}): what is whole before the "
            f"break is used, {sum(found.lost for found in cut_off.values())} outline(s) are lost"
        )
    if unreadable:
        named = "; ".join(f"{name}: {reason}" for name, reason in unreadable.items())
        notes.append(
            f"{directory}: the outlines of {len(unreadable)} patient(s) or image(s) cannot be read, they are "
            f"left out ({named})"
        )
    thin = {patient: found.thin for patient, found in annotations.items() if found.thin}
    if thin:
        names = ", ".join(f"{patient}.xml" for patient in thin)
        notes.append(f"{directory}: {sum(thin.values())} outline(s) of fewer than 3 points are left out ({names})")


def read_annotations(path: Path) -> Annotations:
    """The annotations of a patient.

    Raises:
        ValueError: the file is no XML or declares entities, or a mark with outlines names no image.
    """
    annotations = Annotations()
    for mark in parse_xml(path.read_bytes(), path).iter("mark"):
        number, text = (mark.findtext("image") or "").strip(), (mark.findtext("svg") or "").strip()
        if not text:
            continue
        if not number.isdecimal():
            raise ValueError(f"{path} has a mark of image {number!r}; expected the number k of <n>_<k>.jpg")
        try:
            found, lost = parse_outlines(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            annotations.unreadable[int(number)] = (
                f'outlines cannot be read ({error!r}); expected a list of {{"points": [{{"x": ..., "y": ...}}, ...]}}'
            )
            continue
        enclosing = [outline for outline in found if len(outline) > 2]
        annotations.thin += len(found) - len(enclosing)
        annotations.breaks_off |= lost is not None
        annotations.lost += lost or 0
        if enclosing:
            annotations.outlines.setdefault(int(number), []).extend(enclosing)
    for number in annotations.outlines:
        annotations.unreadable.pop(number, None)  # another mark of the image has a whole outline
    return annotations


def parse_outlines(text: str) -> tuple[list[Outline], int | None]:
    """The outlines of one mark, and how many are lost where the text breaks off; None where it does not.

    Raises:
        ValueError: the text is no JSON and no outline in it is whole.
        KeyError, TypeError, AttributeError: it is JSON of another form.
    """
    lost = None
    try:
        lists = [region.get("points", []) for region in json.loads(text)]
    except json.JSONDecodeError:
        lists = []
        starts = [match.end() for match in re.finditer(r'"points"\s*:\s*', text)]
        for start in starts:
            with contextlib.suppress(json.JSONDecodeError):
                lists.append(json.JSONDecoder().raw_decode(text, start)[0])
        if not lists:
            raise
        lost = len(starts) - len(lists)
    return [[(float(point["x"]), float(point["y"])) for point in points] for points in lists], lost

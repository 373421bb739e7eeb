"""Layouts "camus" and "camus-sequence": the heart in two apical views.

Released by Leclerc et al., IEEE Trans. Med. Imaging 38(9), 2019, in two forms. The one in NIfTI has masks of all 500
patients, and of every frame from end diastole to end systole:

    database_nifti/patient0001/patient0001_<2CH|4CH>_<ED|ES>.nii.gz, ..._<ED|ES>_gt.nii.gz
    database_nifti/patient0001/patient0001_<2CH|4CH>_half_sequence.nii.gz, ..._half_sequence_gt.nii.gz
    database_split/subgroup_<training|validation|testing>.txt       a patient a line; optional

The older one is in mhd. Its test patients have no masks and are left out with a note:

    <training|testing>/patient0001/patient0001_<2CH|4CH>_<ED|ES>.mhd, ..._<ED|ES>_gt.mhd, each with its .raw

Copies as image files, with `images/` and `labels/`, are read by `camus_images`.

The directory is the one with these folders or the one with the patients. "camus" reads the frames ED and ES,
"camus-sequence" the half sequences, of which the older form has no masks. A mask holds 1 left ventricle, 2 myocardium,
3 left atrium: three cases an image. Names are those of the US30K archive, "0001_2CH_ED"; the frames of a loop are
"0001_2CH_f000" and on. The older form counts its test patients from 1 again: these are "test0001". They are in split
"test", the others of that form in none. The category is the view. Info_2CH.cfg and the sequences in mhd are not read.

Source: the file names in public loaders of both forms; the release itself was not at hand. Rows are NIfTI's second
axis: so SimpleITK hands them out, and so these loaders show the probe at the top.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..cases import Case, check_pairs
from . import camus_images
from .camus_images import CLASSES

FRAMES = ("ED", "ES")
LOOP = ("half_sequence",)
FILE_NAME = re.compile(
    r"(?P<image>(?P<patient>patient\d+)_(?P<view>[24]CH)_(?P<phase>\w+?))(?P<mask>_gt)?\.(nii|nii\.gz|mhd)"
)
SPLIT_LISTS = {"training": "train", "validation": "validation", "testing": "test"}
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}  # NIfTI's units of length
MAX_VALUES = 500_000_000  # of a volume: ten times CAMUS's longest loop; above it a small file may fill the memory


@dataclass(frozen=True)
class VolumeFrame:
    """One frame of a NIfTI or mhd file: an image, or the mask of one structure in a map of `CLASSES`.

    The volumes read last are kept for a while: frames of a loop are read one after the other.

    Attributes:
        path: the file; of an mhd file the header.
        frame: from 0.
        value: of the structure in a map of classes; None for an image.
    """

    path: Path
    frame: int
    value: int | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, and the one with the pixels of an mhd file."""
        return (self.path, data_file(self.path)) if self.path.suffix == ".mhd" else (self.path,)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) from the header."""
        return read_header(self.path).size

    def read(self) -> np.ndarray:
        """(H0, W0) uint8 of an image, bool of a mask.

        Raises:
            ImportError: nibabel or SimpleITK is missing.
            ValueError: the file cannot be read, has no such frame, or holds values other than 0 to 255 or `CLASSES`.
        """
        num_frames = read_header(self.path).num_frames
        if not 0 <= self.frame < num_frames:
            raise ValueError(f"frame {self.frame} was asked of {self.path}; expected 0 to {num_frames - 1}")
        paths = self.paths
        with reading(self.path):
            states = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
            volume = read_volume(self.path, states)
        values = volume[self.frame]
        if self.value is not None:
            unknown = set(np.unique(values).tolist()) - {0, *CLASSES}
            if unknown:
                raise ValueError(
                    f"{self.path} holds the class {min(unknown)}; expected 0 to {max(CLASSES)}: write it again with "
                    "the values of the release"
                )
            return values == self.value
        if not (values.min() >= 0 and values.max() <= 255):
            raise ValueError(
                f"{self.path} holds values from {values.min()} to {values.max()}; expected 0 to 255: scale it first"
            )
        return np.rint(values).astype(np.uint8)


@dataclass(frozen=True)
class VolumeHeader:
    """What a header tells.

    Attributes:
        size: (height, width).
        num_frames: at least 1.
        spacing_mm: millimetres (between rows, between columns), None where the header has no such number.
        directions: unit vectors along columns and rows, (2 or 3, 2) as a flat tuple; None where it does not say.
    """

    size: tuple[int, int]
    num_frames: int
    spacing_mm: tuple[float, float] | None
    directions: tuple[float, ...] | None


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases at end diastole and end systole: see `ccsam_hf.data.readers`."""
    if camus_images.is_form_of(directory):
        return camus_images.read(directory, notes)
    return list_volumes(directory, notes, FRAMES)


def read_sequences(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of every frame of the half sequences: see `ccsam_hf.data.readers`."""
    return list_volumes(directory, notes, LOOP)


def list_volumes(directory: Path, notes: list[str], phases: tuple[str, ...]) -> list[Case]:
    """The cases of some phases."""
    cases, without_masks, incomplete = [], [], []
    for folder, number, split in list_patients(directory, notes):
        images, masks = files_of(folder, phases)
        if number.startswith("test") and images and not masks:
            without_masks.append(folder)
            continue
        if not images and not masks:
            raise ValueError(
                f"{folder} holds no {folder.name}_<2CH|4CH>_<{'|'.join(phases)}> as .nii.gz, .nii or .mhd: add the "
                "files or remove the folder. The release in mhd has no masks of sequences; the one in NIfTI has"
            )
        check_pairs(folder, images, masks, mask_pattern="<name>_gt")
        if len(images) < 2 * len(phases):
            incomplete.append(folder)
        for stem, path in images.items():
            cases += cases_of(path, masks[stem], number, split)
    if without_masks:
        notes.append(
            f"{directory}: {len(without_masks)} patient(s) have no masks, for instance {without_masks[0].name} of "
            f"{without_masks[0].parent.name}: they are left out"
        )
    if incomplete:
        notes.append(
            f"{directory}: {len(incomplete)} patient(s) have fewer than {2 * len(phases)} images of "
            f"{', '.join(phases)}, for instance {incomplete[0].name}: those there are used"
        )
    if not cases:
        raise ValueError(f"{directory} holds no case: no patient has masks")
    return cases


def list_patients(directory: Path, notes: list[str]) -> list[tuple[Path, str, str | None]]:
    """(folder, number of the patient as in names of cases, split) of every patient."""
    if (directory / "database_nifti").is_dir():
        roots = [directory / "database_nifti"]
    else:
        roots = [directory / part for part in ("training", "testing") if (directory / part).is_dir()] or [directory]
    patients = []
    for root in roots:
        folders = sorted(path for path in root.glob("patient*") if path.is_dir())
        if not folders:
            raise FileNotFoundError(
                f"{root} has no folder patient<n>; layout 'camus' needs it here or in database_nifti/, training/ or "
                "testing/, or images/ and labels/"
            )
        part = root.resolve().name
        prefix, split = ("test", "test") if part == "testing" else ("", None)
        listed: dict[str, str] = {}
        if part not in ("training", "testing"):
            listed = listed_splits(root, [folder.name for folder in folders], notes)
        patients += [
            (folder, prefix + folder.name.removeprefix("patient"), listed.get(folder.name, split))
            for folder in folders
        ]
    return patients


def listed_splits(root: Path, names: list[str], notes: list[str]) -> dict[str, str]:
    """Name of the patient -> split, from the lists beside the folder of the patients."""
    folder = root.resolve().parent / "database_split"
    splits: dict[str, str] = {}
    for part, split in SPLIT_LISTS.items():
        path = folder / f"subgroup_{part}.txt"
        for name in path.read_text(encoding="utf-8-sig").split() if path.is_file() else ():
            if splits.setdefault(name, split) != split:
                raise ValueError(f"{path} names {name}, which is in {splits[name]} too; expected one list a patient")
    missing = sorted(set(splits) - set(names))
    if missing:
        raise ValueError(
            f"{folder} names {len(missing)} patient(s) without a folder in {root}, for instance {missing[0]}: add the "
            "folders or remove the lines"
        )
    left_out = [name for name in names if name not in splits]
    if left_out:
        notes.append(
            f"no list in {folder} names {len(left_out)} patient(s), for instance {left_out[0]}: they have no split"
        )
    return splits


def files_of(folder: Path, phases: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks of a patient by "patient0001_2CH_ED", sorted."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = FILE_NAME.fullmatch(path.name)
        if not match or match["phase"] not in phases:
            continue
        if match["patient"] != folder.name:
            raise ValueError(f"{path} lies with {folder.name}; expected files of this patient alone: move it")
        files = masks if match["mask"] else images
        if match["image"] in files:
            raise ValueError(f"{path} and {files[match['image']]} hold the same: remove one of them")
        files[match["image"]] = path
    return images, masks


def cases_of(image_path: Path, mask_path: Path, number: str, split: str | None) -> list[Case]:
    """The cases of one image or loop: a case for each frame and structure."""
    match = FILE_NAME.fullmatch(image_path.name)
    header, mask_header = read_header(image_path), read_header(mask_path)
    if header.num_frames != mask_header.num_frames:
        raise ValueError(
            f"{image_path} has {header.num_frames} frame(s) and {mask_path} {mask_header.num_frames}; expected as many"
        )
    check_grid(image_path, header, mask_path, mask_header)
    if match["phase"] in FRAMES and header.num_frames != 1:
        raise ValueError(f"{image_path} has {header.num_frames} frames; expected the one of {match['phase']}")
    return [
        Case(
            name=f"{number}_{match['view']}_{match['phase'] if match['phase'] in FRAMES else f'f{frame:03d}'}",
            target=target,
            image_source=VolumeFrame(image_path, frame),
            mask_source=VolumeFrame(mask_path, frame, class_id),
            dataset="CAMUS",
            release="CAMUS",
            class_id=class_id,
            split=split,
            patient_id=number,
            spacing_mm=header.spacing_mm,
            category=match["view"],
        )
        for frame in range(header.num_frames)
        for class_id, target in CLASSES.items()
    ]


def check_grid(image_path: Path, header: VolumeHeader, mask_path: Path, mask_header: VolumeHeader) -> None:
    """Raise ValueError where the header of a mask puts its pixels elsewhere than that of its image does."""
    for what, of_image, of_mask in (
        ("pixel spacing", header.spacing_mm, mask_header.spacing_mm),
        ("direction of rows and columns", header.directions, mask_header.directions),
    ):
        if of_image and of_mask and not np.allclose(of_image, of_mask, rtol=1e-3, atol=1e-3 * max(map(abs, of_image))):
            raise ValueError(
                f"{mask_path} has the {what} {of_mask} and its image {image_path} {of_image}; expected one grid: "
                "resample the mask onto its image"
            )


def read_header(path: Path) -> VolumeHeader:
    """Read a header, not the pixels.

    Raises:
        ImportError: nibabel (NIfTI) or SimpleITK (mhd) is missing.
        ValueError: it cannot be read, is no stack of grey frames, or is too large.
    """
    if path.suffix == ".mhd":
        reader = mhd_reader(path)
        with reading(path):
            reader.ReadImageInformation()
        shape, lengths, num_values = reader.GetSize(), reader.GetSpacing(), reader.GetNumberOfComponents()
        axes = np.reshape(reader.GetDirection(), (reader.GetDimension(),) * 2)
    else:
        nibabel = library("nibabel", path)
        with reading(path):
            volume = nibabel.load(path)
            header, axes = volume.header, volume.affine[:3, :3]
            shape, dtype = header.get_data_shape(), header.get_data_dtype()
            scale = MILLIMETRES[header.get_xyzt_units()[0]]
            lengths = [round(float(length) * scale, 6) for length in header.get_zooms()]
        num_values = len(dtype.fields or (dtype,))
        axes = axes if header["sform_code"] > 0 or header["qform_code"] > 0 else None
    if len(shape) not in (2, 3) or num_values != 1 or min(shape) < 1:
        raise ValueError(
            f"{path} has the shape {tuple(shape)} with {num_values} value(s) a pixel; expected one grey image or "
            "several of one size: (width, height) or (width, height, frames)"
        )
    if np.prod(shape, dtype=np.float64) > MAX_VALUES:
        raise ValueError(f"{path} has the shape {tuple(shape)}; expected at most {MAX_VALUES:,} values: crop it")
    width, height, *frames = (int(side) for side in shape)
    spacing = float(lengths[1]), float(lengths[0])
    known = all(0 < length < np.inf for length in spacing)
    return VolumeHeader((height, width), frames[0] if frames else 1, spacing if known else None, unit_vectors(axes))


def unit_vectors(axes: np.ndarray | None) -> tuple[float, ...] | None:
    """The first two columns at length 1, as a flat tuple; None where one has no length."""
    if axes is None or not np.isfinite(axes).all():
        return None
    lengths = np.linalg.norm(axes[:, :2], axis=0)
    return tuple((axes[:, :2] / lengths).round(4).ravel().tolist()) if lengths.min() > 0 else None


@lru_cache(maxsize=2)
def read_volume(path: Path, states: tuple) -> np.ndarray:
    """(number of frames, height, width), as stored.

    Args:
        path: a file whose header `read_header` accepts.
        states: change when the file does, so that it is read again.
    """
    if path.suffix == ".mhd":
        volume = library("SimpleITK", path).GetArrayFromImage(mhd_reader(path).Execute())
    else:
        volume = np.asanyarray(library("nibabel", path).load(path).dataobj).T
    return volume if volume.ndim == 3 else volume[None]


def mhd_reader(path: Path) -> Any:
    """SimpleITK's reader of an mhd file whose pixels lie beside it."""
    data_file(path)
    reader = library("SimpleITK", path).ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    return reader


def library(name: str, path: Path) -> ModuleType:
    """An optional library; ImportError that says which file needs it and how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{path} needs {name}: pip install ccsam-hf[data]") from error


def data_file(path: Path) -> Path:
    """The file with the pixels of an mhd header; ValueError unless it is a .raw or .zraw beside it."""
    with reading(path):
        text = path.read_text(encoding="latin-1")
    match = re.search(r"^ElementDataFile\s*=\s*(?P<name>[^/\\\n]+\.z?raw)\s*$", text, re.MULTILINE)
    if not match:
        raise ValueError(f"{path} names no data file beside it; expected a line ElementDataFile = <name>.raw")
    return path.with_name(match["name"])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for a damaged file into ValueError; they raise many kinds."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())  # SimpleITK writes several lines
        raise ValueError(
            f"{path} cannot be read ({reason}); expected a complete NIfTI or mhd file: download it again"
        ) from error

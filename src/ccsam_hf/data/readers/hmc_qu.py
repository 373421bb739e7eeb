"""Layout "hmc-qu": the wall of the left ventricle, as released by Degerli et al. on Kaggle (hmcqu-dataset).

    HMC-QU/A4C/ES0001 _4CH_1.avi                                      a cine loop
    LV Ground-truth Segmentation Masks/Mask_ES0001 _4CH_1.mat         "predicted": (frames, 224, 224), 0 and 1
    A4C.xlsx            columns A: loop, H and I: first and last frame of one heart cycle, counted from 1

The masks cover one heart cycle, not the loop: mask i belongs to frame H - 1 + i, counted from 0. Each such frame is a
case, named by its loop and its number there ("ES0001 _4CH_1_012"); the patient is the part before the first space or
"_". Masks are resized to the frame (nearest neighbour). The older release calls the table HMC_QU.xlsx. Loops, masks
and table are found in any subfolder. Loops without masks (a third of the A4C and all A2C loops) are left out and
counted. Without a table the masks must be as many as the frames of their loop. Frames of a loop that was unpacked are
read in the form of the US30K archive:

    img/0001_ch4_000.png, label/0001_ch4_000.png                      every value but zero

Source: vitalab/vital at commit 841ad77 (vital/data/HMC_QU) and SMILELab-FL/FedCVD, whose loaders agree on the names,
the variable and the frames. The release itself was not at hand: which codec its loops have, and whether each file of
masks is as long as its cycle in the table, could not be checked; where it is not, the masks count from frame H on.
"""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from ..cases import Case, ImageFile
from .pairs import binary_mask, list_pairs, patient_of

TABLES = ("A4C.xlsx", "HMC_QU.xlsx")
LOOP_COLUMN, FIRST_COLUMN, LAST_COLUMN, NUM_COLUMNS = 0, 7, 8, 9  # A, H, I and their number
UNREADABLE_MATRIX = (OSError, ValueError, TypeError, LookupError, NotImplementedError, MatReadError)
FIELDS = {"target": "myocardium", "dataset": "HMC-QU", "release": "HMC-QU"}


@dataclass(frozen=True)
class LoopFrame:
    """One frame of a cine loop.

    The loop is decoded from its start up to the frame, which finds it in any codec, even where the stored times of all
    frames are shifted. Gaps between the times are frames that were dropped, see `place_of`. For frame 40 at 600 x 800
    decoding takes 15 to 45 ms.

    Attributes:
        path: the loop.
        index: number of the frame, from 0.
        size: (height, width) of the loop.
    """

    path: Path
    index: int
    size: tuple[int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The loop."""
        return (self.path,)

    def read(self) -> np.ndarray:
        """(H0, W0) uint8 grey values."""
        times, frames = decode_loop(self.path, self.path.stat().st_mtime_ns)
        place = place_of(self.index, times)
        if place >= len(frames):
            raise ValueError(f"{self.path} ends before frame {self.index}: download it again")
        return frames[place].copy()


def place_of(number: int, times: Sequence[int | None]) -> int:
    """Which of the frames that a loop holds is shown as its frame `number`, from 0.

    A frame that the recorder dropped is held as nothing, and the one before is shown in its place: presentation times
    then leave a gap of whole steps. Where times are missing or uneven, frames are counted.
    """
    if len(times) < 2 or None in times:
        return number
    ordered = np.sort(np.asarray(times))
    steps = np.diff(ordered)
    if steps.min() <= 0 or (steps % steps.min()).any():
        return number
    numbers = (ordered - ordered[0]) // steps.min()
    return number if number > numbers[-1] else int(np.searchsorted(numbers, number, side="right")) - 1


@dataclass(frozen=True)
class MatrixMask:
    """One mask of a MATLAB file, resized by nearest neighbour.

    Attributes:
        path: the MATLAB file.
        variable: name of the array.
        axis: the axis that counts the masks.
        index: number of the mask, from 0.
        size: (height, width) of the frame.
    """

    path: Path
    variable: str
    axis: int
    index: int
    size: tuple[int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The MATLAB file."""
        return (self.path,)

    def read(self) -> np.ndarray:
        """(H0, W0) bool."""
        masks = load_masks(self.path, self.variable, self.path.stat().st_mtime_ns)
        mask = Image.fromarray(np.take(masks, self.index, self.axis) != 0)
        height, width = self.size
        return np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`. Needs PyAV for cine loops."""
    if (directory / "img").is_dir():
        return [
            Case(
                name=name,
                image_source=ImageFile(image),
                mask_source=binary_mask(mask),
                patient_id=patient_of(name),
                **FIELDS,
            )
            for name, (image, mask) in list_pairs(directory / "img", directory / "label").items()
        ]
    loops = by_stem(directory.rglob("*.avi"))
    masks = {name.removeprefix("Mask_"): path for name, path in by_stem(directory.rglob("Mask_*.mat")).items()}
    if not masks:
        raise FileNotFoundError(f"{directory} has no Mask_<loop>.mat and no folder 'img'; layout 'hmc-qu' needs one")
    without_loop = sorted(set(masks) - set(loops))
    if without_loop:
        raise ValueError(
            f"{directory}: {len(without_loop)} file(s) of masks have no cine loop, for instance "
            f"{masks[without_loop[0]].name}: add {without_loop[0]}.avi or remove the masks"
        )
    without_masks = sorted(set(loops) - set(masks))
    if without_masks:
        notes.append(
            f"{directory}: {len(without_masks)} of {len(loops)} cine loops have no masks, for instance "
            f"{loops[without_masks[0]].name}: they are left out"
        )
    cycles = read_cycles(directory)
    remarks = Remarks([], [])
    cases = [case for name in sorted(masks) for case in cases_of_loop(loops[name], masks[name], cycles, remarks)]
    if remarks.resized:
        notes.append(
            f"{directory}: the masks of {len(remarks.resized)} loop(s) are resized to the frames, for instance "
            f"{remarks.resized[0]}"
        )
    if remarks.other_length:
        notes.append(
            f"{directory}: {len(remarks.other_length)} file(s) hold another number of masks than their cycle in the "
            f"table, for instance {remarks.other_length[0]}: the masks count from its first frame on"
        )
    return cases


@dataclass(frozen=True)
class Remarks:
    """What was put right, a text for each loop."""

    resized: list[str]
    other_length: list[str]


def cases_of_loop(loop: Path, masks: Path, cycles: dict[str, tuple[int, int]] | None, remarks: Remarks) -> list[Case]:
    """The cases of one cine loop.

    Args:
        loop, masks: the two files.
        cycles: see `read_cycles`.
        remarks: gets what was put right.
    """
    name = loop.stem
    frames, size = loop_header(loop)
    if cycles is not None and name not in cycles:
        raise ValueError(f"the table has no heart cycle of {name!r}, which has masks: complete columns A, H and I")
    first, last = cycles[name] if cycles is not None else (1, frames)
    variable, shape = masks_header(masks)
    cycle = last - first + 1
    axis = 2 if shape[2] == cycle != shape[0] else 0
    if shape[axis] != cycle:
        if cycles is None:
            raise ValueError(
                f"{masks} holds {shape[axis]} masks and {loop.name} {frames} frames, and which frames the masks "
                f"belong to is unknown: add {TABLES[0]} of the release"
            )
        remarks.other_length.append(f"{masks.name} ({shape[axis]} masks, cycle of {cycle} frames)")
    if first < 1 or first - 1 + shape[axis] > frames:
        raise ValueError(
            f"{masks} has shape {shape} and its first mask belongs to frame {first} of {loop.name}, which has "
            f"{frames} frames: correct column H of the table or remove the masks"
        )
    mask_size = shape[1:] if axis == 0 else shape[:2]
    if mask_size != size:
        remarks.resized.append(f"{masks.name} from {mask_size} to {size} (height, width)")
    return [
        Case(
            name=f"{name}_{frame:03d}",
            image_source=LoopFrame(loop, frame, size),
            mask_source=MatrixMask(masks, variable, axis, index, size),
            patient_id=patient_of(name),
            **FIELDS,
        )
        for index, frame in enumerate(range(first - 1, first - 1 + shape[axis]))
    ]


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Name without extension -> path, sorted; ValueError where two files of different folders share a name."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if path.stem in found:
            raise ValueError(f"{path} and {found[path.stem]} share the name {path.stem!r}: remove one of them")
        found[path.stem] = path
    return found


# A frame is decoded from those before it, so frame by frame a loop would be decoded once for each. The loop and the
# masks that were read last are kept; the time of the file's last change is part of the key.
@lru_cache(maxsize=1)
def decode_loop(path: Path, modified_ns: int) -> tuple[list[int | None], list[np.ndarray]]:
    """Presentation times and frames of a cine loop, (H0, W0) uint8 grey values each.

    Raises:
        ValueError: it cannot be read.
    """
    av = import_av()
    try:
        with av.open(str(path)) as loop:
            times = [packet.pts for packet in loop.demux(video=0) if packet.size]
        with av.open(str(path)) as loop:
            return times, [np.array(frame.to_image().convert("L")) for frame in loop.decode(video=0)]
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, error) from error


@lru_cache(maxsize=1)
def load_masks(path: Path, variable: str, modified_ns: int) -> np.ndarray:
    """The array of masks in a MATLAB file; ValueError where it cannot be read."""
    try:
        return loadmat(path, variable_names=[variable])[variable]
    except UNREADABLE_MATRIX as error:
        raise unreadable(path, error) from error


def loop_header(path: Path) -> tuple[int, tuple[int, int]]:
    """Number of frames and (height, width) of a cine loop, from its header."""
    av = import_av()
    try:
        with av.open(str(path)) as loop:
            stream = loop.streams.video[0]
            return stream.frames, (stream.height, stream.width)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise unreadable(path, error) from error


def masks_header(path: Path) -> tuple[str, tuple[int, int, int]]:
    """Name and shape of the one array with three axes in a MATLAB file, from its header."""
    try:
        variables = whosmat(path)
    except UNREADABLE_MATRIX as error:
        raise unreadable(path, error) from error
    arrays = [(name, shape) for name, shape, _ in variables if len(shape) == 3]
    if len(arrays) != 1:
        raise ValueError(
            f"{path} holds the variables {[(name, shape) for name, shape, _ in variables]}; expected one array "
            "(frames, height, width)"
        )
    return arrays[0]


def read_cycles(directory: Path) -> dict[str, tuple[int, int]] | None:
    """Loop -> (first, last) frame of its heart cycle, counted from 1; None where there is no table."""
    tables = [path for table in TABLES for path in sorted(directory.rglob(table))]
    if not tables:
        return None
    rows = sheet_rows(tables[0])
    if not any(row[LOOP_COLUMN] == "ECHO" for row in rows):
        raise ValueError(
            f"{tables[0]} has no head 'ECHO' in column A of its first sheet; expected the release's table"
        )
    return {
        row[LOOP_COLUMN].strip(): (int(row[FIRST_COLUMN]), int(row[LAST_COLUMN]))
        for row in rows
        if isinstance(row[LOOP_COLUMN], str) and isinstance(row[FIRST_COLUMN], int | float) and row[LAST_COLUMN]
    }


def sheet_rows(path: Path) -> list[tuple]:
    """The rows of the first sheet of an Excel workbook, with at least `NUM_COLUMNS` values each."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ImportError(f"{path} needs openpyxl: pip install ccsam-hf[data]") from error
    try:
        sheet = load_workbook(path, read_only=True, data_only=True).worksheets[0]
        return list(sheet.iter_rows(max_col=NUM_COLUMNS, values_only=True))
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an Excel workbook ({error}): download it again") from error


def import_av():
    """PyAV, or the error that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading cine loops needs PyAV: pip install ccsam-hf[data]") from error
    return av


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error to raise where a file of the release cannot be read."""
    return ValueError(f"{path} cannot be read ({error}): download it again")

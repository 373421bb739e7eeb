"""A directory as it was downloaded -> the cases in it, one reader a layout (`read_cases`, `LAYOUTS`).

Each reader is a module of its own whose first lines show the layout. A reader lists: `read(directory, notes)` returns
cases without decoding pixels, and adds a sentence to `notes` for whatever differs from the layout and was put right.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..cases import Case, ImageFile
from . import built, busi, camus, cca, coco, ddti, dicom, folder, hc18, hmc_qu, mmotu, nerve, tg3k, tn3k, udiat, us30k

logger = logging.getLogger(__name__)

Reader = Callable[[Path, list[str]], list[Case]]
LAYOUTS: dict[str, Reader] = {
    "folder": folder.read,
    "coco": coco.read,
    "dicom": dicom.read,
    "us30k": us30k.read,
    "busi": busi.read,
    "tn3k": tn3k.read,
    "tg3k": tg3k.read,
    "ddti": ddti.read,
    "udiat": udiat.read,
    "camus": camus.read,
    "camus-sequence": camus.read_sequences,
    "hmc-qu": hmc_qu.read,
    "hc18": hc18.read,
    "cca": cca.read,
    "nerve": nerve.read,
    "mmotu": mmotu.read,
    "built": built.read,
}


def list_cases(directory: str | Path, layout: str) -> tuple[list[Case], list[str]]:
    """List the cases of a directory without a look at their pixels or sizes.

    Args:
        directory: the folder that holds the layout's own files and folders.
        layout: a key of `LAYOUTS`.

    Returns:
        At least one case, those without an object (an empty mask) among them; and notes on what differs from the
        layout and was put right.

    Raises:
        FileNotFoundError: the directory or a folder of the layout is missing.
        ValueError: the layout is unknown, there is no case, an image has no mask or a mask no image, or a table or
            list beside them does not fit.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; accepted are {', '.join(LAYOUTS)}")
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory; expected one of layout {layout!r}")
    notes: list[str] = []
    cases = LAYOUTS[layout](directory, notes)
    return cases, notes + notes_on_turns(cases) + notes_on_patients(directory, cases)


def notes_on_patients(directory: Path, cases: list[Case]) -> list[str]:
    """A note where one patient is named for all images, as software does that removes names: "ANONYMOUS"."""
    patients = {case.patient_id for case in cases}
    files = {path for case in cases for path in case.image_source.paths}
    if len(files) < 2 or len(patients) != 1 or None in patients or any(case.split for case in cases):
        return []
    return [
        f"{directory}: all {len(files)} files are of one patient, {patients.pop()!r}, so a drawn split keeps them "
        "together, in train: where they are of several, say so by patient_id in cases.csv or in the headers"
    ]


def notes_on_turns(cases: list[Case]) -> list[str]:
    """A note where EXIF turns images and the size of a mask cannot tell which picture it was drawn on."""
    unclear = []
    for source in {case.image_source for case in cases if isinstance(case.image_source, ImageFile)}:
        with suppress(ValueError, OSError):  # files that cannot be read are reported where they are checked
            if source.header.orientation != 1 and source.header.size == source.header.stored_size:
                unclear.append(source.path)
    if not unclear:
        return []
    return [
        f"{len(unclear)} image(s) are turned by EXIF and keep their size, for instance {min(unclear)}: their masks "
        "are taken as drawn on the upright picture, as viewers show it"
    ]


def read_cases(directory: str | Path, layout: str) -> list[Case]:
    """List the cases of a directory as `list_cases` does, log its notes, and look at the header of every file.

    Raises:
        FileNotFoundError, ValueError: as `list_cases`, and ValueError where a file is not an image or an image and its
            mask differ in size.
    """
    cases, notes = list_cases(directory, layout)
    for note in notes:
        logger.warning("%s", note)
    for case in cases:
        case.check()
    return cases

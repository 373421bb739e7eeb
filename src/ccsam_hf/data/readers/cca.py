"""Layout "cca": the common carotid artery across its axis, Momot, Mendeley Data d4xt63mgjm, 2022.

    US images/<recording>_slice_<n>.png
    Expert mask images/<recording>_slice_<n>.png

The directory is the one with these folders or with a folder that holds them. A recording is named by when it begins,
"202201121748100022VAS". The release has 100 images of each of 11 people, who were recorded one after the other; which
recordings are of one person it does not tell, but in their order the images add up to 100 again and again, and there a
person ends. Where they do not add up, as in a part of the release, the recordings stand for the patients.

Source: the release's description, and 800 images of 20 recordings, which add up to 100 eight times. The release itself
was not at hand.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..cases import Case, ImageFile
from .pairs import binary_mask, list_pairs

IMAGE_FOLDER, MASK_FOLDER = "US images", "Expert mask images"
IMAGES_OF_PERSON = 100


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    roots = [root for root in (directory, *sorted(directory.iterdir())) if (root / IMAGE_FOLDER).is_dir()]
    root = roots[0] if roots else directory
    pairs = list_pairs(root / IMAGE_FOLDER, root / MASK_FOLDER)
    recordings = {name: recording_of(name) for name in pairs}
    unnamed = [name for name, recording in recordings.items() if recording is None]
    if unnamed:
        notes.append(
            f"{directory}: {len(unnamed)} image(s) are not named <recording>_slice_<n>, for instance {unnamed[0]!r}: "
            "they have no patient"
        )
    known = [recording for recording in recordings.values() if recording is not None]
    people = people_of(known)
    if people is None:
        notes.append(
            f"{directory}: the recordings do not add up to {IMAGES_OF_PERSON} images a person: each recording counts "
            "as a patient, though several may be of one person"
        )
        people = {recording: recording for recording in known}
    return [
        Case(
            name=name,
            target="carotid artery",
            image_source=ImageFile(image),
            mask_source=binary_mask(mask),
            dataset="CCA",
            release="CCA",
            patient_id=people.get(recordings[name]),
        )
        for name, (image, mask) in pairs.items()
    ]


def recording_of(name: str) -> str | None:
    """The recording in an image's name, None where it is named otherwise."""
    match = re.fullmatch(r"(\w+?)_slice_\d+", name)
    return match[1] if match else None


def people_of(recordings: Iterable[str]) -> dict[str, str] | None:
    """Recording -> the first recording of the same person; None where the images of people do not add up to 100.

    Args:
        recordings: of each image; by their names they sort in the order in which they were made.
    """
    people: dict[str, str] = {}
    first, total = None, 0
    for recording, count in sorted(Counter(recordings).items()):
        first = recording if first is None else first
        people[recording] = first
        total += count
        if total > IMAGES_OF_PERSON:
            return None
        if total == IMAGES_OF_PERSON:
            first, total = None, 0
    return people if total == 0 else None

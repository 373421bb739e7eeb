"""Layout "us30k": the archive of SAMUS (Lin et al., arXiv:2309.06824, 2023), seven data sets in one form.

    <Dataset>/img/<name>.png                the folders of `Target.class_ids`, for instance Breast-BUSI
    <Dataset>/label/<name>.png              class ids; of a data set with one class every value but zero
    MainPatient/class.json                  number of classes, the background included: {"Breast-BUSI": 2, ...}
    MainPatient/{train,val}*.txt            <class id>/<Dataset>/<name>
    MainPatient/test*.txt                   <Dataset>/<name>, or with the class id as above

The directory is US30K itself or the one that holds US30K/. TG3K stands under two folder names that mean the same.

Every image of the archive gives one case for each class of its data set, and the lists tell its split, the same for
all classes. Noted and kept: an image that no list names (without a split), an image of which the lists name some
classes only. Noted and left out: data sets that are not part of US30K, listed data sets that the archive does not
hold. A listed image that is missing from a data set at hand is an error. train.txt, val.txt and test.txt decide over
lists of longer names (train-Breast-BUSI.txt), which add the images that those three do not name. The lists in a data
set's own folder (<Dataset>/MainPatient/) are read only where MainPatient/ has none.

Names of CAMUS and HMC-QU begin with the patient ("0055_2CH_000"); the other data sets tell none.

Source: xianlin7/SAMUS at commit 030ed07, example_of_required_dataset_format/ and utils/data_us.py.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...descriptions import TARGETS
from ..cases import IMAGE_EXTENSIONS, Case, ImageFile, MaskFiles
from .pairs import JPEG_EXTENSIONS, JpegMask, binary_mask, list_pairs, patient_of

SPLIT_OF_LIST = {"train": "train", "val": "validation", "test": "test"}
DATASETS_OF_PATIENTS = ("CAMUS", "HMC-QU")

# Folder -> class id -> name of the target.
CLASSES: dict[str, dict[int, str]] = {
    folder: {target.class_ids[folder]: target.name for target in TARGETS.values() if folder in target.class_ids}
    for folder in sorted({folder for target in TARGETS.values() for folder in target.class_ids})
}

Key = tuple[str, str]  # data set, name


@dataclass(frozen=True)
class ArchivedImage:
    """An image of the archive with its label, and the folder of its data set."""

    folder: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Entry:
    """A line of a list.

    Attributes:
        path: the list.
        folder: folder of the data set.
        name: name of the image.
        class_id: one class of the image, or None for all.
    """

    path: Path
    folder: str
    name: str
    class_id: int | None

    @property
    def key(self) -> Key:
        """Data set and name of the image."""
        return dataset_of(self.folder), self.name

    @property
    def split(self) -> str:
        """The split that the list is for."""
        return SPLIT_OF_LIST[list_kind(self.path)]


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    root = find_root(directory)
    images = list_images(root, notes)
    check_class_counts(root, {image.folder for image in images.values()})
    splits = read_splits(root, images, notes)
    return [
        Case(
            name=name,
            target=target,
            image_source=ImageFile(found.image),
            mask_source=mask_source(found, class_id),
            dataset=dataset,
            release=dataset,
            class_id=class_id,
            split=splits.get((dataset, name)),
            patient_id=patient_of(name) if dataset in DATASETS_OF_PATIENTS else None,
        )
        for (dataset, name), found in sorted(images.items(), key=lambda item: item[0])
        for class_id, target in sorted(CLASSES[found.folder].items())
    ]


def find_root(directory: Path) -> Path:
    """The folder that holds the data sets: the directory or US30K/ in it."""
    for root in (directory, directory / "US30K"):
        if any((root / folder).is_dir() for folder in CLASSES):
            return root
    raise FileNotFoundError(f"{directory} has none of the folders {', '.join(CLASSES)} of layout 'us30k'")


def dataset_of(folder: str) -> str:
    """Name of the data set in a folder of the archive: "Breast-BUSI" -> "BUSI"."""
    dataset = folder.rsplit("-", 1)[-1]
    return "HMC-QU" if dataset == "HMCQU" else dataset


def list_images(root: Path, notes: list[str]) -> dict[Key, ArchivedImage]:
    """The images of all data sets that belong to US30K; ValueError where a data set holds a name twice."""
    images: dict[Key, ArchivedImage] = {}
    for folder in (folder for folder in CLASSES if (root / folder).is_dir()):
        pairs = list_pairs(root / folder / "img", root / folder / "label")
        twice = [name for name in pairs if (dataset_of(folder), name) in images]
        if twice:
            other = images[dataset_of(folder), twice[0]].folder
            raise ValueError(
                f"{root}: {len(twice)} image(s) of {dataset_of(folder)} lie in {other} and in {folder}, for instance "
                f"{twice[0]!r}: remove one of the folders"
            )
        images |= {(dataset_of(folder), name): ArchivedImage(folder, *pair) for name, pair in pairs.items()}
    others = {
        path.name: len(list((path / "img").iterdir()))
        for path in root.iterdir()
        if path.name not in CLASSES and (path / "img").is_dir()
    }
    if others:
        notes.append(f"{root}: folders that are not part of US30K are left out: {counted(others, 'images')}")
    return images


def check_class_counts(root: Path, folders: Iterable[str]) -> None:
    """Raise ValueError where class.json is no table of numbers or counts other classes than ours."""
    path = root / "MainPatient" / "class.json"
    if not path.is_file():
        return
    try:
        counts = {folder: int(count) for folder, count in json.loads(path.read_text("utf-8-sig")).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} cannot be read ({error!r}); expected {{"Breast-BUSI": 2, ...}}') from error
    for folder in sorted(folders):
        expected = len(CLASSES[folder]) + 1
        if counts.get(folder, expected) != expected:
            raise ValueError(
                f"{path} counts {counts[folder]} classes in {folder}; expected {expected}, the background included: "
                "labels of other classes have another meaning"
            )


def mask_source(found: ArchivedImage, class_id: int) -> MaskFiles | JpegMask:
    """Where the pixels of one class lie."""
    if len(CLASSES[found.folder]) == 1:
        return binary_mask(found.label)
    if found.label.suffix.lower() in JPEG_EXTENSIONS:
        raise ValueError(f"{found.label} is a JPEG, which blurs class ids into each other: export the labels as PNG")
    return MaskFiles((found.label,), value=class_id)


# --- the lists -------------------------------------------------------------------------------------------------------


def read_splits(root: Path, images: Mapping[Key, ArchivedImage], notes: list[str]) -> dict[Key, str]:
    """Image -> split, for the images that a list names."""
    entries = [entry for path, own_folder in find_lists(root, notes) for entry in entries_of(path, own_folder)]
    strange = Counter(entry.folder for entry in entries if entry.folder not in CLASSES)
    if strange:
        notes.append(f"{root}: lists name data sets that are not part of US30K: {counted(strange, 'entries')}")
    entries = [entry for entry in entries if entry.folder in CLASSES]
    check_files(root, {entry.key for entry in entries}, images, notes)
    entries = [entry for entry in entries if entry.key in images]
    note_differences(root, entries, images, notes)

    splits = one_split_each(root, [entry for entry in entries if entry.path.stem in SPLIT_OF_LIST])
    overruled = sorted({entry.key for entry in entries if splits.get(entry.key, entry.split) != entry.split})
    if overruled:
        notes.append(
            f"{root}: {len(overruled)} image(s) stand in another split in a list of a longer name, for instance "
            f"{'/'.join(overruled[0])}: train.txt, val.txt and test.txt decide"
        )
    return splits | one_split_each(root, [entry for entry in entries if entry.key not in splits])


def find_lists(root: Path, notes: list[str]) -> list[tuple[Path, str | None]]:
    """The lists to read, each with the folder of its data set where it lies in one."""
    lists: list[tuple[Path, str | None]] = [(path, None) for path in lists_in(root / "MainPatient")]
    if not lists:
        lists = [(path, folder) for folder in CLASSES for path in lists_in(root / folder / "MainPatient")]
        notes.append(
            f"{root} has no list of a split in MainPatient: "
            + ("the lists in the data sets' own folders are read" if lists else "no image has a split")
        )
    return lists


def lists_in(folder: Path) -> list[Path]:
    """The lists of splits in a folder, sorted."""
    return sorted(path for path in folder.glob("*.txt") if list_kind(path))


def list_kind(path: Path) -> str | None:
    """How a list is named, "train" for train.txt and train-Breast-BUSI.txt; None for other files."""
    match = re.match(r"(train|val|test)(?![a-z])", path.stem)
    return match and match[1]


def entries_of(path: Path, own_folder: str | None) -> list[Entry]:
    """The entries of a list; ValueError for a line of another form or a class that its data set does not have."""
    entries = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        parts = line.strip().split("/")
        if parts == [""]:
            continue
        class_id = int(parts.pop(0)) if len(parts) > 1 and parts[0].isdecimal() else None
        if len(parts) == 1 and own_folder is not None:
            parts.insert(0, own_folder)
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{path}, line {number}: {line.strip()!r}; expected <class id>/<Dataset>/<name>")
        folder, name = parts
        if class_id is not None and class_id not in CLASSES.get(folder, (class_id,)):
            raise ValueError(
                f"{path}, line {number}: {line.strip()!r} names class {class_id}; labels of {folder} have "
                f"{', '.join(map(str, sorted(CLASSES[folder])))}"
            )
        if name.lower().endswith(IMAGE_EXTENSIONS):
            name = name.rpartition(".")[0]
        entries.append(Entry(path, folder, name, class_id))
    return entries


def check_files(root: Path, listed: set[Key], images: Mapping[Key, ArchivedImage], notes: list[str]) -> None:
    """Note the listed data sets that are not at hand; raise ValueError for listed images that others lack."""
    at_hand = {dataset for dataset, _ in images}
    absent = Counter(dataset for dataset, _ in listed if dataset not in at_hand)
    if absent:
        notes.append(f"{root}: lists name data sets that are not here: {counted(absent, 'images')}")
    missing = sorted(key for key in listed - set(images) if key[0] in at_hand)
    if missing:
        raise ValueError(
            f"{root}: {len(missing)} listed image(s) have no file, for instance {'/'.join(missing[0])}: complete the "
            "archive or remove the lines from the lists"
        )


def note_differences(root: Path, entries: list[Entry], images: Mapping[Key, ArchivedImage], notes: list[str]) -> None:
    """Note images listed under another folder, in no list at all, or with some of their classes only."""
    moved = sorted({(entry.folder, entry.name) for entry in entries if images[entry.key].folder != entry.folder})
    if moved:
        folder, name = moved[0]
        notes.append(
            f"{root}: {len(moved)} image(s) are listed under another folder than they lie in, for instance "
            f"{folder}/{name} in {images[dataset_of(folder), name].folder}: they are read there"
        )
    named: dict[Key, set[int]] = defaultdict(set)
    for entry in entries:
        named[entry.key] |= set(CLASSES[entry.folder]) if entry.class_id is None else {entry.class_id}
    unlisted = sorted(set(images) - set(named))
    if unlisted and named:
        notes.append(
            f"{root}: {len(unlisted)} image(s) stand in no list, for instance {'/'.join(unlisted[0])}: they are kept "
            "without a split"
        )
    partial = sorted(key for key, classes in named.items() if classes != set(CLASSES[images[key].folder]))
    if partial:
        notes.append(
            f"{root}: of {len(partial)} image(s) the lists name some classes only, for instance "
            f"{'/'.join(partial[0])}: the others are kept in the same split"
        )


def one_split_each(root: Path, entries: Iterable[Entry]) -> dict[Key, str]:
    """Image -> split; ValueError where lists put an image into two."""
    lists: dict[Key, dict[str, Path]] = defaultdict(dict)
    for entry in entries:
        lists[entry.key].setdefault(entry.split, entry.path)
    twice = sorted(key for key, splits in lists.items() if len(splits) > 1)
    if twice:
        raise ValueError(
            f"{root}: {len(twice)} image(s) stand in two splits, for instance {'/'.join(twice[0])} in "
            f"{' and '.join(path.name for path in lists[twice[0]].values())}: remove them from one"
        )
    return {key: next(iter(splits)) for key, splits in lists.items()}


def counted(counts: Mapping[str, int], what: str) -> str:
    """Names with their counts, as "A (2 images), B (1 images)"."""
    return ", ".join(f"{name} ({count} {what})" for name, count in sorted(counts.items()))

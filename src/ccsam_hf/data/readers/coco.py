"""Layout "coco": instance annotations in the json format of COCO (cocodataset.org, "Data format", object detection).

    annotations.json                     or the only other json file that has images, annotations and categories
    annotations/instances_<split>.json   instead of it, one for each of train, val, test; or instances_train2017.json
    images/<file_name>                   or in <split>2017/, <split>/, images/<split>2017/, images/<split>/ or here

All annotations of one category in one image, crowds among them, are united into one case: its target is the name of
the category, its class id the id. An image without annotations gets an empty mask where the file knows one category;
where it knows several, nobody can say which are absent, and the image is left out and counted. Cases are named by the
"file_name" without its extension, with the split in front where two splits use the same names.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..cases import Case, ImageFile, image_files

KEYS = ("images", "annotations", "categories")
SPLITS_OF_COCO = {"train": "train", "val": "validation", "test": "test"}
SPLIT_FILE = re.compile(r"instances_(?P<split>train|val|test)(?P<year>\d{4})?\.json")


@dataclass(frozen=True)
class CocoMask:
    """The union of COCO segmentations.

    Attributes:
        path: the json file.
        size: (height, width) of the image, as the file states it.
        segmentations: json text of a list of segmentations that `check_segmentation` accepts.
    """

    path: Path
    size: tuple[int, int]
    segmentations: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """The json file."""
        return (self.path,)

    def read(self) -> np.ndarray:
        """(H0, W0) bool; ImportError where a polygon needs pycocotools and there is none."""
        mask = np.zeros(self.size, dtype=bool)
        for segmentation in json.loads(self.segmentations):
            mask |= fill(segmentation, self.size)
        return mask


@dataclass(frozen=True)
class AnnotationFile:
    """One json file.

    Attributes:
        path: the file.
        split: one of `cases.SPLITS`, or None.
        folders: where its images may lie, in the order in which they are looked for.
    """

    path: Path
    split: str | None
    folders: tuple[Path, ...]


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    files = find_files(directory)
    cases = [case for file in files for case in cases_of(file, directory.resolve().name, notes)]
    if not cases:
        raise ValueError(f"{directory} holds no case: no image with an annotation")
    places = {(case.name, case.split) for case in cases}
    repeated = sorted(name for name, count in Counter(name for name, _ in places).items() if count > 1)
    if repeated:
        cases = [replace(case, name=f"{case.split}/{case.name}") for case in cases]
        notes.append(
            f"{directory}: {len(repeated)} name(s) stand in several splits, for instance {repeated[0]!r}: the split "
            "is put in front of all names"
        )
    listed = {case.image_source.path for case in cases}
    folders = {folder for file in files for folder in file.folders if folder.is_dir()}
    unlisted = sorted(path for folder in folders for path in image_files(folder) if path not in listed)
    if unlisted:
        notes.append(f"{directory}: {len(unlisted)} image(s) give no case, for instance {unlisted[0]}")
    return sorted(cases, key=lambda case: (case.name, case.class_id))


def find_files(directory: Path) -> list[AnnotationFile]:
    """The json files of a directory: one, or one a split."""
    single = directory / "annotations.json"
    of_splits = sorted((directory / "annotations").glob("instances_*.json"))
    if single.is_file() and of_splits:
        raise ValueError(f"{single} and {of_splits[0]} are both there; expected one file, or one a split: remove one")
    if not of_splits:
        path = single if single.is_file() else only_coco_file(directory)
        return [AnnotationFile(path, None, (directory / "images", directory))]
    files: dict[str, AnnotationFile] = {}
    for path in of_splits:
        match = SPLIT_FILE.fullmatch(path.name)
        if not match or match["split"] in files:
            raise ValueError(
                f"{path} is the second file of its split or names none; expected at most one of "
                f"instances_<split>.json for each of {', '.join(SPLITS_OF_COCO)}"
            )
        names = f"{match['split']}{match['year'] or '2017'}", match["split"]
        folders = [parent / name for parent in (directory, directory / "images") for name in names]
        files[match["split"]] = AnnotationFile(
            path, SPLITS_OF_COCO[match["split"]], (*folders, directory / "images", directory)
        )
    return list(files.values())


def only_coco_file(directory: Path) -> Path:
    """The one json file in a directory that has the keys of COCO."""
    found = []
    for path in sorted(directory.glob("*.json")):
        with suppress(ValueError):
            load(path)
            found.append(path)
    if not found:
        raise FileNotFoundError(
            f"{directory} has no annotations.json, annotations/instances_<split>.json or other json file with "
            f"{', '.join(KEYS)}; layout 'coco' needs one"
        )
    if len(found) > 1:
        raise ValueError(f"{directory} has {len(found)} json files of COCO; expected one: call it annotations.json")
    return found[0]


def load(path: Path) -> dict[str, list[dict[str, Any]]]:
    """A json file; ValueError unless it has the three lists of COCO."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as json ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in KEYS):
        raise ValueError(f"{path} is no file of COCO instances; expected an object with the lists {', '.join(KEYS)}")
    return content


def cases_of(file: AnnotationFile, dataset: str, notes: list[str]) -> list[Case]:
    """The cases of one json file.

    Raises:
        ValueError: an entry lacks a field or names an id that is not there; an id, a category or an image stands
            twice; an image file is missing or would lie outside the folders; a segmentation cannot be used.
    """
    content = load(file.path)
    try:
        images = {image["id"]: image for image in content["images"]}
        targets = {index(category["id"]): str(category["name"]) for category in content["categories"]}
        names = {key: Path(image["file_name"]).with_suffix("").as_posix() for key, image in images.items()}
        sizes = {key: (index(image["height"]), index(image["width"])) for key, image in images.items()}
        segmentations = defaultdict(list)
        for annotation in content["annotations"]:
            key = annotation["image_id"], annotation["category_id"]
            segmentations[key].append((annotation["id"], annotation["segmentation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file.path} has an entry that cannot be used ({error!r}); expected images with id, file_name, height, "
            "width, categories with id and name, annotations with id, image_id, category_id and segmentation"
        ) from error
    check_unique(file.path, "image id", (image["id"] for image in content["images"]))
    check_unique(file.path, "category id", (category["id"] for category in content["categories"]))
    check_unique(file.path, "category", targets.values())
    check_unique(file.path, "image", names.values())
    dangling = [key for key in segmentations if key[0] not in images or key[1] not in targets]
    if dangling:
        raise ValueError(
            f"{file.path} annotates {len(dangling)} image(s) or categories that it does not list, for instance image "
            f"{dangling[0][0]} with category {dangling[0][1]}: complete or remove them"
        )
    for (image, _), parts in segmentations.items():
        for number, segmentation in parts:
            try:
                check_segmentation(segmentation, sizes[image])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{file.path}: annotation {number} cannot be used: {error}") from error

    annotated = {image for image, _ in segmentations}
    without = [key for key in images if key not in annotated]
    if len(targets) == 1:
        segmentations |= {(key, next(iter(targets))): [] for key in without}
    elif without:
        notes.append(
            f"{file.path}: {len(without)} image(s) have no annotation, for instance {names[without[0]]!r}: they are "
            f"left out, since any of the {len(targets)} categories may be absent"
        )
    paths = locate(file, {image: images[image]["file_name"] for image, _ in segmentations})
    return [
        Case(
            name=names[image],
            target=targets[category],
            image_source=ImageFile(paths[image]),
            mask_source=CocoMask(file.path, sizes[image], json.dumps([segmentation for _, segmentation in parts])),
            dataset=dataset,
            class_id=category,
            split=file.split,
        )
        for (image, category), parts in segmentations.items()
    ]


def check_unique(path: Path, kind: str, values: Iterable[Any]) -> None:
    """Raise ValueError where a value stands twice."""
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{path} has {len(repeated)} {kind}(s) twice, for instance {repeated[0]!r}; expected each once"
        )


def locate(file: AnnotationFile, file_names: dict[Any, str]) -> dict[Any, Path]:
    """Image id -> its file; ValueError where one is missing or would lie outside the folders."""
    paths, missing = {}, []
    for key, name in file_names.items():
        as_windows = PureWindowsPath(name)  # knows both kinds of slashes, and drives
        if as_windows.anchor or Path(name).is_absolute() or ".." in as_windows.parts:
            raise ValueError(f"{file.path} has the file_name {name!r}; expected a path within the folder of images")
        found = next((folder / name for folder in file.folders if (folder / name).is_file()), None)
        if found is None:
            missing.append(name)
        paths[key] = found
    if missing:
        raise ValueError(
            f"{file.path} lists {len(missing)} image(s) without a file, for instance {missing[0]!r}; looked for in "
            f"{', '.join(str(folder) for folder in file.folders)}: add or remove them"
        )
    return paths


def check_segmentation(segmentation: Any, size: tuple[int, int]) -> None:
    """Refuse what is no segmentation of an image, before a library that trusts it gets to see it.

    pycocotools takes polygons of two points for boxes, and gives back uninitialised memory for run lengths that do not
    add up to the image.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1 ...] in pixels, or {"size": [height, width], "counts": ...}
            with run lengths as a list or in COCO's compressed form.
        size: (height, width) of the image.

    Raises:
        ValueError, KeyError, TypeError: it is something else, or does not fit the image.
    """
    height, width = size
    if isinstance(segmentation, list):
        if not segmentation:
            raise ValueError("its segmentation is empty; expected an outline, a box alone is no mask")
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f"a polygon is {polygon!r:.80}; expected x and y of at least 3 points in one list")
            if not all(-width <= x <= 2 * width for x in polygon[::2]):
                raise ValueError(f"a polygon has x outside the image of width {width}")
            if not all(-height <= y <= 2 * height for y in polygon[1::2]):
                raise ValueError(f"a polygon has y outside the image of height {height}")
        return
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its run lengths are of size {segmentation['size']} and its image of {[height, width]}")
    runs = run_lengths(segmentation["counts"])
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError(f"its run lengths add up to {sum(runs)} pixels; expected {height * width}, none below 0")


def fill(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool of a segmentation that `check_segmentation` accepts."""
    if isinstance(segmentation, dict):
        runs = run_lengths(segmentation["counts"])
        values = np.arange(len(runs)) % 2 == 1  # background first
        return np.repeat(values, runs).reshape(size, order="F")
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("polygons of COCO need pycocotools: pip install ccsam-hf[data]") from error
    return mask.decode(mask.merge(mask.frPyObjects(segmentation, *size))).astype(bool)


def run_lengths(counts: list[int] | str) -> list[int]:
    """Run lengths as a list, whether they came as one or compressed.

    Source: the format of pycocotools' `rleToString`: each number in groups of 5 bits from the lowest on, each group a
    character behind "0"; bit 5 says that another group follows, bit 4 of the last one is the sign. From the fourth
    number on it is the difference to the one before the last.
    """
    if isinstance(counts, list):
        return counts
    runs, value, shift = [], 0, 0
    for group in (ord(character) - ord("0") for character in counts):
        if not 0 <= group < 64:
            raise ValueError("its compressed run lengths hold a character that COCO does not use")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("its compressed run lengths break off")
    return runs

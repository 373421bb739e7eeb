"""Simulated data sets in the layouts of published ones, with what a reader must give back (`Truth`).

Every function fills a directory and returns the truths in the order in which the reader lists the cases. Images are
PNG files; where the release has JPEG files, the true image is the decoded one and the true mask the simulated one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ccsam_hf.data.simulator import SimulatedCase, simulate

SIZE = (64, 80)
CLASSES_OF_CAMUS = {1: "left ventricle", 2: "myocardium", 3: "left atrium"}


@dataclass(frozen=True)
class Truth:
    """A case as it was written."""

    name: str
    target: str
    image: np.ndarray
    mask: np.ndarray
    dataset: str
    class_id: int = 1
    split: str | None = None
    patient_id: str | None = None


def scene(target: str, seed: int) -> SimulatedCase:
    """A small simulated case."""
    return simulate(target, seed, SIZE)


def write_image(path: Path, values: np.ndarray) -> np.ndarray:
    """Write grey values, the folders above included, and return what any decoder reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))
    return np.asarray(Image.open(path).convert("L"))


def write_json(path: Path, content) -> None:
    """Write a json file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_list(path: Path, *lines: str) -> None:
    """Write a list without a line end at its end, as the archive has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")


# --- us30k -----------------------------------------------------------------------------------------------------------


def write_us30k(directory: Path) -> list[Truth]:
    """The archive of SAMUS, with the names and lines of the example in its repository."""
    truths = [
        *archived(directory, "Breast-BUSI", "benign0031", "breast lesion", 1, "BUSI", "test"),
        *archived(directory, "Breast-BUSI", "benign0046", "breast lesion", 2, "BUSI", "train"),
        *archived(directory, "Breast-BUSI", "benign0080", "breast lesion", 3, "BUSI", "validation"),
        *archived_camus(directory, "0001_2CH_000", 1, "validation"),
        *archived_camus(directory, "0027_2CH_000", 2, "test"),
        *archived_camus(directory, "0055_2CH_000", 3, "train"),
        *archived(directory, "ThyroidNodule-DDTI", "test1", "thyroid nodule", 1, "DDTI", "test"),
        *archived(directory, "Echocardiography-HMCQU", "0001_ch4_000", "myocardium", 4, "HMC-QU", "test", "0001"),
        *archived(directory, "ThyroidNodule-TG3K", "trainval0000", "thyroid gland", 1, "TG3K", "train"),
        *archived(directory, "ThyroidNodule-TG3K", "trainval3226", "thyroid gland", 2, "TG3K", "validation"),
        *archived(directory, "ThyroidNodule-TN3K", "test0000", "thyroid nodule", 2, "TN3K", "test"),
        *archived(directory, "ThyroidNodule-TN3K", "trainval0000", "thyroid nodule", 3, "TN3K", "validation"),
        *archived(directory, "ThyroidNodule-TN3K", "trainval0001", "thyroid nodule", 4, "TN3K", "train"),
        *archived(directory, "Breast-UDIAT", "000001", "breast lesion", 4, "UDIAT", "test", value=255),
    ]
    lists = directory / "MainPatient"
    write_json(
        lists / "class.json",
        {
            "Breast-BUSI": 2,
            "Breast-UDIAT": 2,
            "Echocardiography-CAMUS": 4,
            "Echocardiography-HMCQU": 2,
            "ThyroidNodule-DDTI": 2,
            "ThyroidNodule-TG3K": 2,
            "ThyroidNodule-TN3K": 2,
        },
    )
    write_list(
        lists / "train.txt",
        "1/Breast-BUSI/benign0046",
        "1/ThyroidNodule-TN3K/trainval0001",
        "1/ThyroidNodule-TG3K/trainval0000",
        *(f"{class_id}/Echocardiography-CAMUS/0055_2CH_000" for class_id in CLASSES_OF_CAMUS),
    )
    write_list(
        lists / "val.txt",
        "1/Breast-BUSI/benign0080",
        *(f"{class_id}/Echocardiography-CAMUS/0001_2CH_000" for class_id in CLASSES_OF_CAMUS),
        "1/ThyroidGland-TG3K/trainval3226",
        "1/ThyroidNodule-TN3K/trainval0000",
    )
    write_list(
        lists / "test.txt",
        "Breast-BUSI/benign0031",
        "Breast-UDIAT/000001",
        "Echocardiography-CAMUS/0027_2CH_000",
        "Echocardiography-HMCQU/0001_ch4_000",
        "ThyroidNodule-DDTI/test1",
        "ThyroidNodule-TN3K/test0000",
    )
    write_list(lists / "train-Breast-BUSI.txt", "1/Breast-BUSI/benign0046")
    write_list(lists / "val-EchocardiographyLA-CAMUS.txt", "3/Echocardiography-CAMUS/0001_2CH_000")
    write_list(lists / "test-Breast-BUSI.txt", "Breast-BUSI/benign0031")
    return truths


def archived(
    directory: Path,
    folder: str,
    name: str,
    target: str,
    seed: int,
    dataset: str,
    split: str | None,
    patient_id: str | None = None,
    value: int = 1,
) -> list[Truth]:
    """An image of a data set with one class; `value` marks the object in the label."""
    case = scene(target, seed)
    image = write_image(directory / folder / "img" / f"{name}.png", case.image)
    write_image(directory / folder / "label" / f"{name}.png", case.mask * value)
    return [Truth(name, target, image, case.mask, dataset, split=split, patient_id=patient_id)]


def archived_camus(directory: Path, name: str, seed: int, split: str | None) -> list[Truth]:
    """An image of CAMUS, whose label holds three classes."""
    case = scene("left ventricle", seed)
    folder = directory / "Echocardiography-CAMUS"
    image = write_image(folder / "img" / f"{name}.png", case.image)
    label = sum(class_id * case.masks[target].astype(int) for class_id, target in CLASSES_OF_CAMUS.items())
    write_image(folder / "label" / f"{name}.png", label)
    return [
        Truth(name, target, image, case.masks[target], "CAMUS", class_id, split, name.split("_")[0])
        for class_id, target in CLASSES_OF_CAMUS.items()
    ]


# --- thyroid and breast ----------------------------------------------------------------------------------------------


def write_tn3k(directory: Path) -> list[Truth]:
    """TN3K: JPEG images and masks, splits by position."""
    write_json(directory / "tn3k-trainval-fold0.json", {"val": [0], "train": [1, 2]})
    write_json(directory / "tn3k-trainval-fold1.json", {"val": [1], "train": [0, 2]})
    return [
        *jpeg_cases(directory, "test", 2, "thyroid nodule", "TN3K", {0: "test", 1: "test"}),
        *jpeg_cases(directory, "trainval", 3, "thyroid nodule", "TN3K", {0: "validation", 1: "train", 2: "train"}),
    ]


def write_tg3k(directory: Path) -> list[Truth]:
    """TG3K: one part, named as in US30K."""
    write_json(directory / "tg3k-trainval.json", {"train": [0, 1], "val": [2]})
    splits = {0: "train", 1: "train", 2: "validation"}
    return jpeg_cases(directory, "thyroid", 3, "thyroid gland", "TG3K", splits, prefix="trainval")


def jpeg_cases(
    directory: Path,
    part: str,
    count: int,
    target: str,
    dataset: str,
    splits: dict[int, str],
    prefix: str | None = None,
) -> list[Truth]:
    """`<part>-image/0000.jpg` and `<part>-mask/0000.jpg`."""
    truths = []
    for number in range(count):
        case = scene(target, 10 * len(part) + number)
        image = write_image(directory / f"{part}-image" / f"{number:04d}.jpg", case.image)
        write_image(directory / f"{part}-mask" / f"{number:04d}.jpg", case.mask * 255)
        name = f"{part if prefix is None else prefix}{number:04d}"
        truths.append(Truth(name, target, image, case.mask, dataset, split=splits.get(number)))
    return truths


def write_ddti_copy(directory: Path, image_folder: str = "image", mask_folder: str = "mask") -> list[Truth]:
    """DDTI as it is passed on with TN3K: lossless files, numbered without leading zeros."""
    return folder_cases(
        directory / image_folder, directory / mask_folder, ("1.PNG", "10.PNG", "2.PNG"), "thyroid nodule", "DDTI"
    )


def write_udiat(directory: Path) -> list[Truth]:
    """Dataset B of Yap et al."""
    (directory / "DatasetB.xlsx").write_bytes(b"not read")
    return folder_cases(
        directory / "original", directory / "GT", ("000001.png", "000002.png"), "breast lesion", "UDIAT"
    )


def folder_cases(
    image_folder: Path, mask_folder: Path, names: Sequence[str], target: str, dataset: str, **known
) -> list[Truth]:
    """Images and masks (0 and 255) of the same names in two folders."""
    truths = []
    for seed, name in enumerate(names):
        case = scene(target, seed)
        image = write_image(image_folder / name, case.image)
        write_image(mask_folder / name, case.mask * 255)
        truths.append(Truth(Path(name).stem, target, image, case.mask, dataset, **known))
    return truths


def write_ddti_published(directory: Path) -> list[Truth]:
    """DDTI as published: one nodule, two nodules and none, in the images of two patients."""
    one, first, second, none = (scene("thyroid nodule", seed) for seed in (1, 2, 3, 4))
    images = {
        "12_1": write_image(directory / "12_1.jpg", first.image),
        "12_2": write_image(directory / "12_2.jpg", none.image),
        "1_1": write_image(directory / "1_1.jpg", one.image),
    }
    write_annotations(directory / "1.xml", {1: outlines_text(one.mask)})
    write_annotations(directory / "12.xml", {1: outlines_text(first.mask, second.mask), 2: ""})
    masks = {
        "12_1": filled_rows(first.mask) | filled_rows(second.mask),
        "12_2": np.zeros(SIZE, dtype=bool),
        "1_1": filled_rows(one.mask),
    }
    return [
        Truth(name, "thyroid nodule", images[name], masks[name], "DDTI", patient_id=name.split("_")[0])
        for name in images
    ]


def write_annotations(path: Path, texts: dict[int, str]) -> None:
    """The XML file of a patient: number of the image -> text of its outlines."""
    marks = "".join(f"<mark><image>{number}</image><svg>{escape(text)}</svg></mark>" for number, text in texts.items())
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?><case><number>{path.stem}</number><age>49</age><sex>F</sex>'
        f"<composition>solid</composition><tirads>4a</tirads>{marks}</case>",
        encoding="utf-8",
    )


def outlines_text(*masks: np.ndarray) -> str:
    """The outlines of masks as the release writes them."""
    regions = [
        {
            "points": [{"x": int(x), "y": int(y)} for x, y in outline(mask)],
            "annotation": {},
            "regionType": "freehand",
        }
        for mask in masks
    ]
    return json.dumps(regions)


def outline(mask: np.ndarray) -> list[tuple[int, int]]:
    """(x, y) along pixel centres around `filled_rows(mask)`, in steps along one axis at a time.

    The way from row to row stays in the wider of the two, so that lines do not leave the mask.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    left = [int(np.flatnonzero(mask[row]).min()) for row in rows]
    right = [int(np.flatnonzero(mask[row]).max()) for row in rows]
    down = steps(rows, left, wider=min)
    up = steps(rows, right, wider=max)
    return down + up[::-1]


def steps(rows: np.ndarray, columns: list[int], wider) -> list[tuple[int, int]]:
    """Corners of one side of an outline, from the top down."""
    corners = [(columns[0], rows[0])]
    for (row, column), (next_row, next_column) in pairwise(zip(rows, columns, strict=True)):
        turn = next_row if wider(column, next_column) == next_column else row
        corners += [(column, turn), (next_column, turn), (next_column, next_row)]
    return corners


def filled_rows(mask: np.ndarray) -> np.ndarray:
    """The mask with each row filled from its first to its last pixel."""
    before = np.logical_or.accumulate(mask, axis=1)
    behind = np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    return before & behind


# --- hmc-qu ----------------------------------------------------------------------------------------------------------

LOOP_FRAMES, FIRST_FRAME, CYCLE = 7, 3, 4  # FIRST_FRAME counts from 1, as the table does
MASKS = "LV Ground-truth Segmentation Masks"


def write_hmc_qu(directory: Path, *, frames_last: bool = False) -> list[Truth]:
    """HMC-QU: two loops with masks of half the size, one loop without, and the table of the heart cycles."""
    truths = []
    for loop, name in enumerate(("ES0001 _4CH_1", "ES0002_4CH_1")):
        cases = [scene("myocardium", 20 * loop + frame) for frame in range(LOOP_FRAMES)]
        write_loop(directory / "HMC-QU" / "A4C" / f"{name}.avi", [case.image for case in cases])
        cycle = range(FIRST_FRAME - 1, FIRST_FRAME - 1 + CYCLE)
        small = np.stack([cases[frame].mask[::2, ::2] for frame in cycle]).astype(np.uint8)
        write_masks(directory / MASKS / f"Mask_{name}.mat", np.moveaxis(small, 0, -1) if frames_last else small)
        truths += [
            Truth(
                f"{name}_{frame:03d}",
                "myocardium",
                cases[frame].image,
                small[index].repeat(2, axis=0).repeat(2, axis=1) > 0,
                "HMC-QU",
                patient_id=name[:6],
            )
            for index, frame in enumerate(cycle)
        ]
    write_loop(directory / "HMC-QU" / "A2C" / "ES0001_2CH_1.avi", [scene("myocardium", 50).image])
    write_cycles(
        directory / "A4C.xlsx",
        {
            "ES0001 _4CH_1": (FIRST_FRAME, FIRST_FRAME + CYCLE - 1),
            "ES0002_4CH_1": (FIRST_FRAME, FIRST_FRAME + CYCLE - 1),
        },
    )
    return truths


def write_hmc_qu_unpacked(directory: Path) -> list[Truth]:
    """HMC-QU as frames, the way US30K keeps them."""
    names = ("0001_ch4_000.png", "0001_ch4_001.png")
    return folder_cases(directory / "img", directory / "label", names, "myocardium", "HMC-QU", patient_id="0001")


def write_loop(path: Path, images: Sequence[np.ndarray]) -> None:
    """A lossless cine loop; the test skips where PyAV is not installed."""
    av = pytest.importorskip("av", reason="writes a cine loop: needs the extra 'data'")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as loop:
        stream = loop.add_stream("ffv1", rate=25)
        stream.height, stream.width = images[0].shape
        stream.pix_fmt = "gray"
        for image in images:
            loop.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        loop.mux(stream.encode())


def write_masks(path: Path, masks: np.ndarray) -> None:
    """A MATLAB file of masks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"predicted": masks}, do_compression=True)


def write_cycles(path: Path, cycles: dict[str, tuple[int, int]], head: str = "ECHO") -> None:
    """The table of HMC-QU, in columns A to J."""
    openpyxl = pytest.importorskip("openpyxl", reason="writes a workbook: needs the extra 'data'")
    workbook = openpyxl.Workbook()
    segments = [f"SEG{number}" for number in (1, 2, 3, 5, 6, 7)]
    workbook.active.append([head, *segments, "One cardiac-cycle frames", None, "LV Wall Masks"])
    for name, (first, last) in cycles.items():
        workbook.active.append([name, *[0] * 6, first, last, "ü"])
    workbook.save(path)

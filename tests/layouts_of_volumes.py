"""Simulated data sets as volumes, as COCO json and as DICOM, with what a reader must give back (`Truth`)."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ccsam_hf.data.cases import Case
from ccsam_hf.data.simulator import simulate

SIZE = (64, 88)  # not square: a transposition shows
CLASSES = {1: "left ventricle", 2: "myocardium", 3: "left atrium"}
VIEWS = ("2CH", "4CH")
SPACING = (0.154, 0.308)  # between rows, between columns


@dataclass(frozen=True)
class Truth:
    """A case as it was written."""

    name: str
    target: str
    image: np.ndarray
    mask: np.ndarray
    class_id: int = 1
    split: str | None = None
    patient_id: str | None = None
    spacing_mm: tuple[float, float] | None = None
    category: str | None = None


def assert_read_back(cases: list[Case], truths: list[Truth], dataset: str) -> None:
    """Every case is the truth of its place, sample by sample."""
    assert [(case.name, case.target) for case in cases] == [(truth.name, truth.target) for truth in truths]
    for case, truth in zip(cases, truths, strict=True):
        case.check()
        assert case.image.dtype == np.uint8 and np.array_equal(case.image, truth.image), case.name
        assert case.mask.dtype == bool and np.array_equal(case.mask, truth.mask), (case.name, case.target)
        assert case.size == truth.image.shape
        for field in ("class_id", "split", "patient_id", "spacing_mm", "category"):
            assert getattr(case, field) == getattr(truth, field), (case.name, field)
        assert case.dataset == dataset
        assert all(path.is_file() for path in (*case.image_source.paths, *case.mask_source.paths))


# --- CAMUS -----------------------------------------------------------------------------------------------------------


def heart(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 image and (H, W) uint8 map of `CLASSES`."""
    case = simulate("left ventricle", seed, SIZE)
    labels = np.zeros(SIZE, dtype=np.uint8)
    for value, target in CLASSES.items():
        labels[case.masks[target]] = value
    return case.image, labels


def write_nifti(path: Path, values: np.ndarray, spacing: tuple[float, float] = SPACING, unit: str = "mm") -> None:
    """Write (H, W) or (frames, H, W) as the release has it: columns, rows, frames."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = (spacing[1], spacing[0], 1.0)[: values.ndim]
    image = nibabel.Nifti1Image(values.T, np.diag([-spacing[1], -spacing[0], 1.0, 1.0]))  # as ITK writes its axes
    image.header.set_zooms(lengths)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)


def write_mhd(path: Path, values: np.ndarray, spacing: tuple[float, float] = SPACING) -> None:
    """Write (H, W) or (frames, H, W) as an mhd and a raw file; one frame as the release has it, with a third axis."""
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(values if values.ndim == 3 else values[None])
    image.SetSpacing((spacing[1], spacing[0], 1.54))
    SimpleITK.WriteImage(image, str(path))


def truths_of_heart(name: str, image: np.ndarray, labels: np.ndarray, **fields) -> list[Truth]:
    """The three cases of one image."""
    return [
        Truth(name, target, image, labels == value, value, spacing_mm=SPACING, **fields)
        for value, target in CLASSES.items()
    ]


def write_patient(folder: Path, seed: int, suffix: str, prefix: str = "", split: str | None = None) -> list[Truth]:
    """Four images of a patient with masks, and the file of their acquisition."""
    write = write_mhd if suffix == ".mhd" else write_nifti
    patient, number = folder.name, prefix + folder.name.removeprefix("patient")
    truths = []
    for view in VIEWS:
        for phase in ("ED", "ES"):
            image, labels = heart(seed + len(truths))
            write(folder / f"{patient}_{view}_{phase}{suffix}", image)
            write(folder / f"{patient}_{view}_{phase}_gt{suffix}", labels)
            fields = {"split": split, "patient_id": number, "category": view}
            truths += truths_of_heart(f"{number}_{view}_{phase}", image, labels, **fields)
        (folder / f"Info_{view}.cfg").write_text(
            "ED: 1\nES: 3\nNbFrame: 3\nSex: F\nAge: 56\nImageQuality: Good\nEF: 53.0\nFrameRate: 47.1\n"
        )
    return truths


def write_loops(folder: Path, seed: int, num_frames: int = 3, split: str | None = None) -> list[Truth]:
    """The half sequences of both views of a patient with masks."""
    patient, number = folder.name, folder.name.removeprefix("patient")
    truths = []
    for view in VIEWS:
        frames = [heart(seed + len(truths) + i) for i in range(num_frames)]
        for ending, values in zip(("", "_gt"), zip(*frames, strict=True), strict=True):
            write_nifti(folder / f"{patient}_{view}_half_sequence{ending}.nii.gz", np.stack(values))
        fields = {"split": split, "patient_id": number, "category": view}
        for i, (image, labels) in enumerate(frames):
            truths += truths_of_heart(f"{number}_{view}_f{i:03d}", image, labels, **fields)
    return truths


def write_camus_nifti(directory: Path) -> tuple[list[Truth], list[Truth]]:
    """The release in NIfTI with three patients: truths of "camus" and of "camus-sequence"."""
    parts = {"patient0001": "testing", "patient0002": "training", "patient0450": "validation"}
    splits = {"training": "train", "validation": "validation", "testing": "test"}
    frames, loops = [], []
    for seed, (patient, part) in enumerate(parts.items()):
        folder = directory / "database_nifti" / patient
        frames += write_patient(folder, 10 * seed, ".nii.gz", split=splits[part])
        loops += write_loops(folder, 100 + 10 * seed, split=splits[part])
        (directory / "database_split").mkdir(exist_ok=True)
        (directory / "database_split" / f"subgroup_{part}.txt").write_text(f"{patient}\n")
    return frames, loops


def write_camus_mhd(directory: Path) -> list[Truth]:
    """The older release with two patients to train and one, without masks, to test."""
    truths = write_patient(directory / "training" / "patient0001", 0, ".mhd")
    truths += write_patient(directory / "training" / "patient0002", 10, ".mhd")
    for folder in (directory / "training" / "patient0001", directory / "testing" / "patient0001"):
        for view in VIEWS:
            write_mhd(folder / f"patient0001_{view}_sequence.mhd", np.stack([heart(20)[0], heart(21)[0]]))
    write_patient(directory / "testing" / "patient0001", 20, ".mhd")
    for path in (directory / "testing").rglob("*_gt.*"):
        path.unlink()
    return truths


# --- COCO ------------------------------------------------------------------------------------------------------------


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, background first."""
    values = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(values)) + 1
    runs = np.diff([0, *starts, values.size]).tolist()
    return [0, *runs] if values[0] else runs


def compressed(mask: np.ndarray) -> dict:
    """COCO's compressed run lengths, by pycocotools."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def write_image(path: Path, values: np.ndarray) -> None:
    """Write grey values, the folders above included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_json(path: Path, content) -> Path:
    """Write a json file, the folders above included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_coco(
    directory: Path, images: str = "images", json_name: str = "annotations.json", seed: int = 0
) -> list[Truth]:
    """Two images of the heart: run lengths of every kind, one structure in two parts, one not annotated."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": value, "name": target} for value, target in CLASSES.items()],
    }
    truths = []
    for i, name in enumerate(("a", "b")):
        image, labels = heart(seed + i)
        write_image(directory / images / f"{name}.png", image)
        height, width = image.shape
        content["images"].append({"id": 70 + i, "file_name": f"{name}.png", "height": height, "width": width})
        for value, target in list(CLASSES.items())[: 3 - i]:
            mask = labels == value
            upper = mask & (np.arange(height) < height // 2)[:, None]
            whole = {"size": [height, width], "counts": run_lengths(mask)}
            parts = [compressed(upper), compressed(mask & ~upper)] if value == 2 else [whole]
            for part in parts:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": 70 + i,
                        "category_id": value,
                        "segmentation": part,
                        "area": int(mask.sum()),
                        "bbox": [0, 0, width, height],
                        "iscrowd": 1,
                    }
                )
            truths.append(Truth(name, target, image, mask, value))
    write_json(directory / json_name, content)
    return truths


# --- DICOM -----------------------------------------------------------------------------------------------------------


def write_dicom(path: Path, values: np.ndarray, patient: str = "", spacing=SPACING, **attributes) -> None:
    """Write (H, W) or (frames, H, W) grey values of 8 or 16 bits, or single bits from a bool array as DICOM SEG."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.pixels import pack_bits
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    dataset.PatientID = patient
    dataset.Rows, dataset.Columns = values.shape[-2:]
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    if spacing is not None:
        dataset.PixelSpacing = list(spacing)
    bits = 1 if values.dtype == bool else values.dtype.itemsize * 8
    dataset.SamplesPerPixel, dataset.PixelRepresentation, dataset.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelData = pack_bits(values.ravel().astype(np.uint8)) if bits == 1 else values.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def write_seg(
    path: Path, masks: dict[int, tuple[str, np.ndarray]], order: list[int] | None = None, **attributes
) -> None:
    """Write a DICOM SEG.

    Args:
        path: the file.
        masks: segment number -> label and (H, W) bool.
        order: the segment number of each frame, which the frames then state; None: that of `masks`, unstated.
        attributes: further ones of the file.
    """
    from pydicom.dataset import Dataset
    from pydicom.uid import SegmentationStorage

    segments, groups = [], []
    for number, (label, _) in masks.items():
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, label
        segments.append(segment)
    for number in order or ():
        group, identification = Dataset(), Dataset()
        identification.ReferencedSegmentNumber = number
        group.SegmentIdentificationSequence = [identification]
        groups.append(group)
    fields = {"SOPClassUID": SegmentationStorage, "SegmentationType": "BINARY", "SegmentSequence": segments}
    if groups:
        fields["PerFrameFunctionalGroupsSequence"] = groups
    write_dicom(path, np.stack([masks[number][1] for number in order or masks]), **(fields | attributes))

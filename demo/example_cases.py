"""Simulated cases to try: images in examples/, and a cine loop that is made when the demo starts.

`python demo/example_cases.py` writes the images and their spacings anew from the seeds in examples/cases.json. They
were picked because the bundled model outlines them well; how well it does on the average stands in the README.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from ccsam_hf.data.simulator import SimulatedCase, simulate
from ccsam_hf.image_files import read_image

FOLDER = Path(__file__).parent / "examples"
LIST = FOLDER / "cases.json"
THUMBNAIL_SIDE = 128
LOOP_FRAMES = 16
FRAME_TIME_MS = 50
CONTRACTION = 0.25  # by which the middle of the ventricle shrinks, halfway through the loop


@dataclass(frozen=True)
class ExampleCase:
    """One case to pick.

    Args:
        file: name of the image, in examples/ unless it is the loop.
        title: what is shown for it.
        text: targets to ask for.
        target, seed: of `simulate`; every seed lies outside those of training.
        spacing_mm: (between rows, between columns).
    """

    file: str
    title: str
    text: str
    target: str
    seed: int
    spacing_mm: tuple[float, float]

    @property
    def is_loop(self) -> bool:
        """Whether it is the cine loop."""
        return self.file.endswith(".dcm")


@cache
def example_cases() -> tuple[ExampleCase, ...]:
    """The cases that examples/cases.json lists."""
    listed = json.loads(LIST.read_text())
    return tuple(ExampleCase(**case | {"spacing_mm": tuple(case["spacing_mm"])}) for case in listed)


@cache
def made_folder() -> TemporaryDirectory:
    """A folder for what is made from the cases; it goes when the demo ends."""
    return TemporaryDirectory(prefix="ccsam-examples-")


@cache
def path_of(case: ExampleCase) -> Path:
    """The file of a case; a loop is made where it is asked for first."""
    if not case.is_loop:
        return FOLDER / case.file
    path = Path(made_folder().name) / case.file
    write_loop(simulate(case.target, case.seed), path)
    return path


@cache
def thumbnail(case: ExampleCase) -> Path:
    """The file of a small picture of a case."""
    path = Path(made_folder().name) / f"{Path(case.file).stem}.jpg"
    image, _ = read_image(path_of(case))
    image.resize((THUMBNAIL_SIDE,) * 2).save(path, quality=90)
    return path


def write_loop(case: SimulatedCase, path: Path) -> None:
    """Write a simulated heartbeat as a DICOM ultrasound multi-frame image, with its spacing and without a patient."""
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    frames = heartbeat(case)
    instance, study, series = (generate_uid(entropy_srcs=[case.target, str(case.seed), part]) for part in "isr")
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0  # a two-dimensional tissue image
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = frames.shape[2] - 1, frames.shape[1] - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # centimetres
    region.PhysicalDeltaY, region.PhysicalDeltaX = (value / 10 for value in case.spacing_mm)
    loop = Dataset()
    loop.file_meta = FileMetaDataset()
    loop.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    loop.file_meta.MediaStorageSOPClassUID = loop.SOPClassUID = UltrasoundMultiFrameImageStorage
    loop.file_meta.MediaStorageSOPInstanceUID = loop.SOPInstanceUID = instance
    loop.StudyInstanceUID, loop.SeriesInstanceUID = study, series
    loop.PatientName, loop.PatientID = "", "simulated"
    loop.PatientBirthDate = loop.PatientSex = loop.StudyDate = loop.StudyTime = loop.StudyID = ""
    loop.AccessionNumber = loop.ReferringPhysicianName = loop.Manufacturer = ""
    loop.SeriesNumber = loop.InstanceNumber = 1
    loop.Modality, loop.ImageType = "US", ["DERIVED", "SECONDARY"]
    loop.NumberOfFrames, loop.Rows, loop.Columns = frames.shape
    loop.FrameTime = FRAME_TIME_MS
    loop.FrameIncrementPointer = 0x00181063  # Frame Time
    loop.SamplesPerPixel, loop.PhotometricInterpretation, loop.PixelRepresentation = 1, "MONOCHROME2", 0
    loop.BitsAllocated = loop.BitsStored = 8
    loop.HighBit = 7
    loop.SequenceOfUltrasoundRegions = [region]
    loop.PixelData = frames.tobytes()
    unfinished = path.with_name(f".{path.name}")
    loop.save_as(unfinished, enforce_file_format=True)
    unfinished.rename(path)


def heartbeat(case: SimulatedCase) -> np.ndarray:
    """(frames, H, W) uint8: a case whose target contracts and widens again, first and last frame near the case itself.

    Every frame samples the image further out from the target's middle, most there and less with distance.
    """
    middle = np.argwhere(case.mask).mean(0)
    radius = np.sqrt(case.mask.sum())
    rows, columns = np.indices(case.image.shape, dtype=float)
    offsets = np.stack([rows - middle[0], columns - middle[1]])
    near = np.exp(-(offsets**2).sum(0) / (2 * radius**2))
    frames = []
    for index in range(LOOP_FRAMES):
        strength = CONTRACTION * np.sin(np.pi * index / LOOP_FRAMES) ** 2
        places = offsets * (1 + strength * near) + middle[:, None, None]
        frames.append(map_coordinates(case.image, places, order=1, mode="nearest"))
    return np.stack(frames).astype(np.uint8)


def main() -> None:
    """Write the images and the list anew."""
    cases = []
    for case in example_cases():
        simulated = simulate(case.target, case.seed)
        cases.append(replace(case, spacing_mm=tuple(round(value, 4) for value in simulated.spacing_mm)))
        if not case.is_loop:
            Image.fromarray(simulated.image).save(FOLDER / case.file, optimize=True)
    LIST.write_text(json.dumps([asdict(case) for case in cases], indent=2) + "\n")


if __name__ == "__main__":
    main()

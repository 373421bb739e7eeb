"""Layout "udiat": breast lesions, Dataset B of Yap et al., IEEE J. Biomed. Health Inform. 22(4), 2018.

    original/000001.png
    GT/000001.png

The directory is the one with these folders, or the one with the folder BUS/ that the archive unpacks to. The table
DatasetB.xlsx, which tells benign from malignant, is not read; the release knows no patients and no splits.
"""

from pathlib import Path

from ..cases import Case, ImageFile
from .pairs import binary_mask, list_pairs


def read(directory: Path, notes: list[str]) -> list[Case]:
    """The cases of the layout: see `ccsam_hf.data.readers`."""
    root = directory / "BUS" if (directory / "BUS" / "original").is_dir() else directory
    return [
        Case(
            name=name,
            target="breast lesion",
            image_source=ImageFile(image),
            mask_source=binary_mask(mask),
            dataset="UDIAT",
            release="UDIAT",
        )
        for name, (image, mask) in list_pairs(root / "original", root / "GT").items()
    ]

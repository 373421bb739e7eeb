"""What every DICOM object of ours has: whose it is, that it is for research, and its bytes."""

import io
from typing import Any

RESEARCH_USE = "Research use only, not a medical device"  # DICOM allows 64 characters
ALGORITHM = "CC-SAM"


UTF_8 = "ISO_IR 192"  # DICOM's name for it


LONG_STRING = 64  # characters of a DICOM long string (LO)
SERIES_NUMBER = 100  # high enough to stand behind the series of a scanner
PATIENT_AND_STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


def dicom_bytes(dataset: Any) -> bytes:
    """A pydicom Dataset as the content of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


__all__ = ["dicom_bytes"]

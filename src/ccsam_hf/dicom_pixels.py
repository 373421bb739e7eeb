"""A frame of a DICOM file -> grey or colour values as a viewer shows them, bright where the file means bright.

Source: DICOM PS3.3 C.7.6.3 (Image Pixel, palettes), C.11.1 and C.11.2 (Modality and VOI LUT), and for colours in JPEG
streams the rule of libjpeg. pydicom decodes; tables, windows and bits are applied here, because pydicom 3.0 reads
tables in the byte order of the machine, counts their entries in their own type, drops the high bits of values that are
justified to the left, and turns a window round where the slope is negative.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom and its decoders give these as RGB
PALETTE = "PALETTE COLOR"
JPEG_IN_DICOM = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # JPEG Baseline and Extended
RUN_LENGTHS = "1.2.840.10008.1.2.5"
NEAR = 12  # grey values: how far the channels of a grey pixel lie from each other, or its chroma from 128


@dataclass(frozen=True)
class LookupTable:
    """A table of a DICOM file.

    Attributes:
        first: the value that the first entry belongs to; lower ones have it too, higher ones the last.
        entries: (n,) int.
        bits: of an entry.
    """

    first: int
    entries: np.ndarray
    bits: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """The entries of values of any shape."""
        places = np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]


def render_frame(dataset: Any, frame: int, warn: Callable[[str], None]) -> Image.Image:
    """One frame as 8-bit grey ("L"), 16-bit grey ("I;16") or colour ("RGB").

    Args:
        dataset: of pydicom, with its pixels.
        frame: from 0.
        warn: is told what had to be guessed or left out.

    Raises:
        ValueError: values or a colour model that are not accepted.
        Exception: of many kinds, where pydicom and its decoders give up on the file.
    """
    photometric = str(dataset.PhotometricInterpretation)
    if photometric not in (*GREY, *COLOUR, PALETTE):
        raise ValueError(
            f"its photometric interpretation is {photometric}; expected {', '.join(GREY)}, {', '.join(COLOUR)} or "
            f"{PALETTE}: convert it to PNG"
        )
    if photometric in COLOUR:
        return Image.fromarray(colour_values(dataset, frame, warn))
    values = stored_values(dataset, frame)
    if photometric == PALETTE:
        return Image.fromarray(palette_colours(dataset, values))
    unit = grey_unit(dataset, values, warn)
    if photometric == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        unit = 1 - unit
    if int(dataset.BitsStored) <= 8:
        return Image.fromarray(np.rint(unit * 255).astype(np.uint8))
    return Image.fromarray(np.rint(unit * 65535).astype(np.uint16))


def pydicom_for(file: object = "this") -> ModuleType:
    """pydicom, which a file needs; ImportError where it is not installed."""
    try:
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
    except ImportError as error:
        raise ImportError(f"{file} is a DICOM file, which needs pydicom: pip install ccsam-hf[data]") from error
    return pydicom


def stored_values(dataset: Any, frame: int) -> np.ndarray:
    """Values as they are stored, without the bits beside them: (H, W) or (H, W, 3)."""
    pydicom = pydicom_for()
    syntax = dataset.file_meta.TransferSyntaxUID
    shift = int(dataset.HighBit) + 1 - int(dataset.BitsStored)
    if shift <= 0 or (syntax.is_encapsulated and syntax != RUN_LENGTHS):  # a stream holds the stored bits alone
        return pydicom.pixels.pixel_array(dataset, index=frame)
    values = pydicom.pixels.pixel_array(dataset, index=frame, correct_unused_bits=False)
    above = int(dataset.BitsAllocated) - int(dataset.HighBit) - 1
    return np.right_shift(np.left_shift(values, above), above + shift)  # keeps the sign


def colour_values(dataset: Any, frame: int, warn: Callable[[str], None]) -> np.ndarray:
    """(H, W, 3) uint8 in RGB."""
    bits, is_signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    if is_signed:
        raise ValueError("it holds signed colours; expected unsigned ones: convert it to PNG")
    if dataset.file_meta.TransferSyntaxUID in JPEG_IN_DICOM and bits == 8:
        return colours_of_jpeg(dataset, frame, warn)
    if bits > 8 and dataset.PhotometricInterpretation in ("YBR_FULL", "YBR_FULL_422"):
        raise ValueError(f"it holds {dataset.PhotometricInterpretation} of {bits} bits; expected 8: convert it to PNG")
    values = stored_values(dataset, frame)
    if bits == 8:
        return values.astype(np.uint8)
    return np.rint(np.clip(values / (2**bits - 1), 0, 1) * 255).astype(np.uint8)


def colours_of_jpeg(dataset: Any, frame: int, warn: Callable[[str], None]) -> np.ndarray:
    """(H, W, 3) uint8 in RGB of a frame in a JPEG stream, which itself says whether it holds RGB or YCbCr.

    Markers (JFIF, Adobe) and names of the channels decide, as in libjpeg, and whether chroma is coarser. A stream
    without any of them is what the header says, unless its values say otherwise.
    """
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    stream = pydicom_for().encaps.get_frame(dataset.PixelData, frame, number_of_frames=num_frames)
    with Image.open(io.BytesIO(stream), formats=("JPEG",)) as image:
        tells = {"jfif", "adobe_transform"} & set(image.info)
        names = bytes(layer[0] for layer in image.layer)
        coarse = len({layer[1:3] for layer in image.layer}) > 1
        if tells or names.upper() == b"RGB" or coarse or dataset.PhotometricInterpretation != "RGB":
            return np.array(image.convert("RGB"))
        image.draft("YCbCr", image.size)  # the channels as they are
        channels = np.array(image)
    if not looks_like_ycbcr(channels):
        return channels
    warn("its header says RGB and its JPEG stream holds YCbCr by its values: it is read as YCbCr")
    return np.array(Image.fromarray(channels, mode="YCbCr").convert("RGB"))


def looks_like_ycbcr(channels: np.ndarray) -> bool:
    """Whether (H, W, 3) uint8 holds YCbCr and not RGB, by the grey pixels of which an ultrasound image is full."""
    values = channels.astype(np.int16)
    neutral = (np.abs(values[..., 1:] - 128) <= NEAR).all(axis=2).mean()
    equal = (np.ptp(values, axis=2) <= NEAR).mean()
    return bool(neutral > 0.5 and neutral > equal)


def palette_colours(dataset: Any, values: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of the indices (H, W) of a palette."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        return segmented_colours(dataset, values)
    channels = []
    for name in ("Red", "Green", "Blue"):
        descriptor = dataset[f"{name}PaletteColorLookupTableDescriptor"].value
        table = table_of(descriptor, dataset[f"{name}PaletteColorLookupTableData"].value, is_little_endian(dataset))
        entries = table.look_up(values)
        # Some files fill words with entries of 8 bits, and say 16.
        channels.append(entries >> 8 if table.bits == 16 and table.entries.max() > 255 else entries)
    return np.stack(channels, axis=2).astype(np.uint8)


def segmented_colours(dataset: Any, values: np.ndarray) -> np.ndarray:
    """`palette_colours` where the tables are run lengths and slopes, which pydicom expands."""
    if not is_little_endian(dataset):
        for name in ("Red", "Green", "Blue"):
            element = dataset[f"Segmented{name}PaletteColorLookupTableData"]
            element.value = np.frombuffer(element.value, dtype=">u2").astype("<u2").tobytes()
    colours = pydicom_for().pixels.apply_color_lut(values, dataset)
    return (colours >> 8 if colours.itemsize > 1 else colours).astype(np.uint8)


def table_of(descriptor: Any, data: Any, little_endian: bool) -> LookupTable:
    """A table from its descriptor (number, first value, bits) and data, in bytes or words of the file's byte order."""
    number, first, bits = int(descriptor[0]) or 65536, int(descriptor[1]), int(descriptor[2])
    if not isinstance(data, bytes):
        entries = np.atleast_1d(np.asarray(data)).astype(np.int64)
    else:
        words = data if little_endian else np.frombuffer(data, dtype=">u2").astype("<u2").tobytes()
        entries = np.frombuffer(words, dtype="<u2" if len(words) >= 2 * number else "u1").astype(np.int64)
    if len(entries) < number:
        raise ValueError(f"a table of {number} entries holds {len(entries)}: convert it to PNG")
    entries = entries[:number]
    if bits == 8 and entries.max() > 255:  # in the high byte of its word
        entries = entries >> 8
    return LookupTable(first, entries, bits)


def is_little_endian(dataset: Any) -> bool:
    """Byte order of the words in a file."""
    return bool(dataset.file_meta.TransferSyntaxUID.is_little_endian)


def grey_unit(dataset: Any, values: np.ndarray, warn: Callable[[str], None]) -> np.ndarray:
    """(H, W) float in [0, 1] of stored values: the file's Modality LUT and its first VOI LUT or window, if any.

    Raises:
        ValueError: signed values without a window, as in computed tomography, or several values a pixel.
    """
    if values.ndim != 2:
        raise ValueError(f"its values have the shape {values.shape}; expected (rows, columns): convert it to PNG")
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if values.dtype.kind == "i" else (0, 2**bits - 1)
    values = values.astype(np.float64)
    if dataset.get("ModalityLUTSequence"):
        table = table_of_item(dataset.ModalityLUTSequence[0], dataset)
        values, low, high = table.look_up(values).astype(np.float64), 0, 2**table.bits - 1
    elif dataset.get("RescaleSlope") is not None:
        slope, intercept = float(dataset.RescaleSlope), float(dataset.get("RescaleIntercept") or 0)
        ends = low * slope + intercept, high * slope + intercept
        values, low, high = values * slope + intercept, min(ends), max(ends)
    if dataset.get("VOILUTSequence"):
        table = table_of_item(dataset.VOILUTSequence[0], dataset)
        return np.clip(table.look_up(values) / (2**table.bits - 1), 0, 1)
    window = window_of(dataset, warn)
    if window is not None:
        return windowed(values, *window, str(dataset.get("VOILUTFunction") or "LINEAR"))
    if int(dataset.PixelRepresentation):
        raise ValueError(
            "it holds signed pixel values and no window, as in computed tomography; expected unsigned values, or a "
            "window that says what is bright: convert it to PNG"
        )
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)


def table_of_item(item: Any, dataset: Any) -> LookupTable:
    """The table in an item of a Modality or VOI LUT Sequence."""
    return table_of(item.LUTDescriptor, item["LUTData"].value, is_little_endian(dataset))


def window_of(dataset: Any, warn: Callable[[str], None]) -> tuple[float, float] | None:
    """Center and width of the first window; None where there is none, or none that can be used."""
    given = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if None in given or "" in given:
        return None
    try:
        center, width = (float(value[0] if hasattr(value, "__len__") else value) for value in given)
    except (TypeError, ValueError, IndexError):
        center, width = math.nan, math.nan
    if not math.isfinite(center) or not math.isfinite(width) or width <= 0:
        warn(f"its window has the center {given[0]} and the width {given[1]}: it is left out")
        return None
    return center, width


def windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values as brightness in [0, 1]; DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function.upper() == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
    if function.upper() == "LINEAR":
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


__all__ = ["render_frame"]

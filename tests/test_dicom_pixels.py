"""DICOM values become the picture that a viewer shows, for all ways in which files store bits and colours."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs the extra `data`")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit  # noqa: E402

from ccsam_hf.image_files import is_dicom_without_image, read_image, to_grey  # noqa: E402

SIZE = (40, 60)
COLLECTION = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def grey(rng) -> np.ndarray:
    """Every value of 8 bits, in an image with structure that JPEG keeps."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    smooth = (rows * 3 + columns * 2) % 256
    return smooth.astype(np.uint8)


def write(path: Path, values: np.ndarray, big_endian: bool = False, **attributes) -> Path:
    """An uncompressed ultrasound file of (H, W) or (H, W, 3) values; attributes replace what follows from them."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.UltrasoundImageStorage, "1.2.3.4"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = values.dtype.itemsize * 8
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    bits = attributes.pop("BitsStored", dataset.BitsAllocated)
    dataset.BitsStored, dataset.HighBit = bits, attributes.pop("HighBit", bits - 1)
    dataset.PixelData = values.astype(values.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def shown(path: Path) -> np.ndarray:
    return to_grey(read_image(path)[0])


# --- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("big_endian", [False, True])
def test_values_justified_to_the_left_keep_their_low_bits(tmp_path, grey, big_endian):
    left = write(tmp_path / "a.dcm", grey.astype(np.uint16) << 8, big_endian, BitsStored=12, HighBit=15)
    assert np.abs(shown(left).astype(int) - grey).max() <= 1
    middle = write(tmp_path / "b.dcm", grey.astype(np.uint16) << 6, big_endian, BitsStored=12, HighBit=13)
    assert np.abs(shown(middle).astype(int) - grey).max() <= 1


def test_bits_beside_the_stored_ones_are_no_part_of_the_value(tmp_path, grey):
    overlay_above = grey.astype(np.uint16) | 0xF000
    assert np.array_equal(shown(write(tmp_path / "a.dcm", overlay_above, BitsStored=8)), grey)
    noise_below = (grey.astype(np.uint16) << 8) | 0x000F
    assert np.array_equal(shown(write(tmp_path / "b.dcm", noise_below, BitsStored=8, HighBit=15)), grey)


def test_seven_stored_bits_fill_the_scale(tmp_path, grey):
    read = shown(write(tmp_path / "a.dcm", grey // 2, BitsStored=7))
    assert np.array_equal(read, np.rint((grey // 2) / 127 * 255))


@pytest.mark.parametrize("bits, factor", [(8, 1), (12, 16), (16, 257)])
@pytest.mark.parametrize("big_endian", [False, True])
def test_colours_in_words_of_sixteen_bits_are_scaled_by_the_stored_bits(tmp_path, grey, bits, factor, big_endian):
    colour = np.stack([grey, 255 - grey, grey // 2], axis=2).astype(np.uint16)
    image, _ = read_image(write(tmp_path / "a.dcm", colour * factor, big_endian, BitsStored=bits))
    assert image.mode == "RGB" and np.abs(np.asarray(image).astype(int) - colour).max() <= 1


# --- grey: slopes, windows, inversion --------------------------------------------------------------------------------


def test_a_window_says_which_values_are_black_and_white(tmp_path, grey):
    values = grey.astype(np.uint16) * 16
    path = write(tmp_path / "a.dcm", values, WindowCenter="2048", WindowWidth="4096")
    assert np.abs(shown(path).astype(int) - grey).max() <= 1
    narrow = write(tmp_path / "b.dcm", values, WindowCenter=["1000", "9"], WindowWidth=["1001", "9"])
    expected = np.clip((values - 999.5) / 1000 + 0.5, 0, 1) * 255  # DICOM PS3.3 C.11.2.1.2.1
    assert np.abs(shown(narrow) - expected).max() <= 1


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_windows_of_other_functions(tmp_path, grey, function):
    values = grey.astype(np.float64) * 16
    stored = values.astype(np.uint16)
    path = write(tmp_path / "a.dcm", stored, WindowCenter="2000", WindowWidth="1000", VOILUTFunction=function)
    unit = (
        (values - 2000) / 1000 + 0.5 if function == "LINEAR_EXACT" else 1 / (1 + np.exp(-4 * (values - 2000) / 1000))
    )
    assert np.abs(shown(path) - np.clip(unit, 0, 1) * 255).max() <= 1


@pytest.mark.parametrize("width", ["0", "-5", "nan"])
def test_a_window_that_is_none_is_left_out_and_told(tmp_path, grey, width, caplog):
    path = write(tmp_path / "a.dcm", grey, WindowCenter="100", WindowWidth=width)
    assert np.array_equal(shown(path), grey)
    assert "a.dcm: its window has the center" in caplog.text


def test_a_negative_slope_inverts_with_and_without_a_window(tmp_path, grey):
    slope = {"RescaleSlope": "-1", "RescaleIntercept": "255"}
    assert np.array_equal(shown(write(tmp_path / "a.dcm", grey, **slope)), 255 - grey)
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    assert np.array_equal(shown(write(tmp_path / "b.dcm", grey, **slope, **window)), 255 - grey)


def test_inverse_presentation_and_white_zero_invert_once(tmp_path, grey):
    inverse = {"PresentationLUTShape": "INVERSE"}
    assert np.array_equal(shown(write(tmp_path / "a.dcm", grey, **inverse)), 255 - grey)
    white = {"PhotometricInterpretation": "MONOCHROME1"}
    assert np.array_equal(shown(write(tmp_path / "b.dcm", grey, **white)), 255 - grey)
    assert np.array_equal(shown(write(tmp_path / "c.dcm", grey, **white, **inverse)), 255 - grey)
    assert np.array_equal(shown(write(tmp_path / "d.dcm", grey, PresentationLUTShape="IDENTITY")), grey)


def test_signed_values_need_a_window(tmp_path, grey):
    values = grey.astype(np.int16) - 100
    path = write(tmp_path / "a.dcm", values, WindowCenter="28", WindowWidth="256")
    assert np.abs(shown(path).astype(int) - grey).max() <= 1
    with pytest.raises(ValueError, match="b.dcm .*signed pixel values and no window"):
        read_image(write(tmp_path / "b.dcm", values))


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_table_of_grey_values_is_applied(tmp_path, grey, sequence):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.add_new("LUTData", "OW", bytes(range(255, -1, -1)))
    item.ModalityLUTType = "US"
    assert np.array_equal(shown(write(tmp_path / "a.dcm", grey, **{sequence: [item]})), 255 - grey)


# --- palettes --------------------------------------------------------------------------------------------------------


def palette(red: np.ndarray, bits: int, stored_bits: int, big_endian: bool, first: int = 0) -> dict:
    """Attributes of a palette: entries as they are, doubled inwards and turned, in words of the file's order."""
    attributes = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entries in (("Red", red), ("Green", red[::-1]), ("Blue", red // 2)):
        content = entries.astype("u1" if stored_bits == 8 else "<u2").tobytes()
        content += bytes(len(content) % 2)
        words = np.frombuffer(content, "<u2").astype(">u2" if big_endian else "<u2").tobytes()
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [len(red) % 65536, first, bits]
        attributes[f"{name}PaletteColorLookupTableData"] = words
    return attributes


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("bits, stored_bits", [(16, 16), (8, 8), (8, 16), (16, 8)])
@pytest.mark.parametrize("number", [256, 255, 300, 1000])
def test_palettes_of_all_kinds(tmp_path, rng, big_endian, bits, stored_bits, number):
    red = rng.integers(0, 256, number)
    indices = rng.integers(0, number, SIZE).astype(np.uint16)
    factor = 257 if (bits, stored_bits) == (16, 16) else 1
    attributes = palette(red * factor, bits, stored_bits, big_endian, first=5)
    image, _ = read_image(write(tmp_path / "a.dcm", indices + 5, big_endian, **attributes))
    expected = np.stack([red[indices], red[::-1][indices], (red * factor // 2 // factor)[indices]], axis=2)
    assert image.mode == "RGB" and np.abs(np.asarray(image).astype(int) - expected).max() <= (factor > 1)


def test_entries_of_eight_bits_in_a_table_said_to_have_sixteen(tmp_path, rng):
    red, indices = np.arange(256), rng.integers(0, 256, SIZE).astype(np.uint8)
    image, _ = read_image(write(tmp_path / "a.dcm", indices, **palette(red, 16, 16, big_endian=False)))
    assert np.array_equal(np.asarray(image)[..., 0], indices)


def test_a_short_palette_is_refused(tmp_path, rng):
    attributes = palette(np.arange(256), 16, 16, big_endian=False)
    attributes["RedPaletteColorLookupTableData"] = bytes(100)
    with pytest.raises(ValueError, match="a table of 256 entries holds 100"):
        read_image(write(tmp_path / "a.dcm", rng.integers(0, 256, SIZE).astype(np.uint8), **attributes))


# --- JPEG ------------------------------------------------------------------------------------------------------------


def without_markers(stream: bytes) -> bytes:
    """A JPEG stream without JFIF and Adobe segments."""
    kept, place = stream[:2], 2
    while stream[place + 1] != 0xDA:
        length = 2 + int.from_bytes(stream[place + 2 : place + 4])
        if stream[place + 1] not in (0xE0, 0xEE):
            kept += stream[place : place + length]
        place += length
    return kept + stream[place:]


def write_jpeg(path: Path, image: Image.Image, photometric: str, bare: bool, **options) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=98, **options)
    stream = without_markers(buffer.getvalue()) if bare else buffer.getvalue()
    write(path, np.asarray(image))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_ycbcr_in_a_jpeg_is_known_whatever_the_header_says(tmp_path, grey, photometric, bare, subsampling, caplog):
    image = Image.fromarray(grey).convert("RGB")
    path = write_jpeg(tmp_path / "a.dcm", image, photometric, bare, subsampling=subsampling)
    assert np.abs(shown(path).astype(int) - grey).mean() < 3
    guessed = photometric == "RGB" and bare and subsampling == 0
    assert ("a.dcm: its header says RGB and its JPEG stream holds YCbCr" in caplog.text) == guessed


@pytest.mark.parametrize("bare", [False, True])
def test_rgb_in_a_jpeg_stays_rgb(tmp_path, grey, bare, caplog):
    image = Image.fromarray(grey).convert("RGB")
    path = write_jpeg(tmp_path / "a.dcm", image, "RGB", bare, keep_rgb=True, subsampling=0)
    assert np.abs(shown(path).astype(int) - grey).mean() < 3
    assert "YCbCr" not in caplog.text


# --- what is no image ------------------------------------------------------------------------------------------------


def test_a_report_is_refused_by_what_it_is(tmp_path, grey):
    path = write(tmp_path / "a.dcm", grey)
    dataset = pydicom.dcmread(path)
    assert not is_dicom_without_image(path)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(dataset, name)
    dataset.SOPClassUID, dataset.Modality = pydicom.uid.BasicTextSRStorage, "SR"
    dataset.save_as(path, enforce_file_format=True)
    assert is_dicom_without_image(path)
    with pytest.raises(ValueError, match="a.dcm is a DICOM file without an image .Basic Text SR Storage, modality SR"):
        read_image(path)


def test_colour_models_that_nothing_here_converts_are_refused(tmp_path, grey):
    colour = np.stack([grey] * 3, axis=2)
    with pytest.raises(ValueError, match="photometric interpretation is HSV; expected MONOCHROME1"):
        read_image(write(tmp_path / "a.dcm", colour, PhotometricInterpretation="HSV"))


# --- pydicom's own files ---------------------------------------------------------------------------------------------


def by_pydicom(dataset: Dataset) -> np.ndarray:
    """The first frame as pydicom's functions render it, in [0, 1]."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    values = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(values, dataset) / 65535
    high = 2.0**dataset.BitsStored - 1
    if dataset.SamplesPerPixel == 3:
        return values / high
    low = 0.0
    if dataset.PixelRepresentation:
        low, high = -(high + 1) / 2, (high - 1) / 2
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    rendered = apply_voi_lut(apply_modality_lut(values, dataset), dataset)
    unit = (rendered - (low * slope + intercept)) / ((high - low) * slope)
    return 1 - unit if dataset.PhotometricInterpretation == "MONOCHROME1" else unit


def by_simpleitk(path: Path, dataset: Dataset) -> np.ndarray:
    """The first frame as GDCM reads it within SimpleITK, with the file's window, in [0, 1]."""
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    values = SimpleITK.GetArrayFromImage(image).astype(np.float64)
    values = values[0] if values.ndim - (image.GetNumberOfComponentsPerPixel() > 1) == 3 else values
    if values.ndim == 3:
        return values / (255 if dataset.PhotometricInterpretation == "PALETTE COLOR" else 2**dataset.BitsStored - 1)
    if "WindowWidth" not in dataset:
        return values / values.max() if dataset.BitsStored == 1 else values / (2**dataset.BitsStored - 1)
    center, width = (np.atleast_1d(dataset[name].value)[0] for name in ("WindowCenter", "WindowWidth"))
    return np.clip((values - float(center) + 0.5) / (float(width) - 1) + 0.5, 0, 1)


def agrees(ours: np.ndarray, render, *arguments) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = render(*arguments)
    except Exception:  # a file that the reference does not read
        return False
    return theirs.shape == ours.shape and np.abs(theirs - ours).max() < 1.5 / 255


@pytest.mark.slow
def test_pydicoms_own_files_are_read_as_the_references_render_them_or_refused_by_name():
    read, refused, equal, strange = 0, 0, {"pydicom": 0, "SimpleITK": 0}, []
    for path in sorted(COLLECTION.glob("*.dcm")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image, _ = read_image(path, 0)
        except ValueError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error)
            continue
        read += 1
        ours = np.asarray(image) / (65535 if image.mode == "I;16" else 255)
        dataset = pydicom.dcmread(path)
        same = {"pydicom": agrees(ours, by_pydicom, dataset), "SimpleITK": agrees(ours, by_simpleitk, path, dataset)}
        equal = {name: count + same[name] for name, count in equal.items()}
        strange += [] if any(same.values()) else [path.name]
    print(
        f"{read} read, {refused} refused with a reason; equal to pydicom {equal['pydicom']}, to SimpleITK "
        f"{equal['SimpleITK']}"
    )
    assert not strange
    assert read >= 40 and equal["pydicom"] >= 40

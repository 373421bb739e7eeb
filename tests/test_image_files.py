"""Files of the accepted kinds give their pixels and spacing; damaged and foreign ones are refused."""

import builtins
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccsam_hf import image_files
from ccsam_hf.image_files import count_frames, read_image, to_grey
from ccsam_hf.pixel_spacing import plain_spacing


@pytest.fixture
def grey(rng) -> np.ndarray:
    return rng.integers(0, 256, (40, 60), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_files_give_their_pixels(tmp_path, grey, suffix, mode):
    image = Image.fromarray(grey).convert(mode)
    image.save(tmp_path / f"case.{suffix}", dpi=(96, 96))
    read, spacing = read_image(tmp_path / f"case.{suffix}")
    assert read.mode == mode and np.array_equal(read, image)
    assert spacing is None  # dots per inch are no pixel spacing


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, grey, suffix):
    values = grey.astype(np.uint16) * 257
    Image.fromarray(values).save(tmp_path / f"case.{suffix}")
    read, _ = read_image(str(tmp_path / f"case.{suffix}"))
    assert read.mode == "I;16" and np.array_equal(read, values)


def test_jpeg_is_read_as_a_viewer_shows_it(tmp_path):
    image = Image.new("L", (60, 40))
    image.paste(255, (0, 0, 60, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: top becomes right
    image.save(tmp_path / "case.jpg", exif=exif, quality=95)
    read, _ = read_image(tmp_path / "case.jpg")
    assert read.size == (40, 60)
    assert np.asarray(read)[30, 38] > 200 and np.asarray(read)[30, 2] < 50


def test_the_content_decides_and_not_the_name(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "case.png")
    (tmp_path / "case.png").rename(tmp_path / "case.jpg")
    assert np.array_equal(read_image(tmp_path / "case.jpg")[0], grey)


def test_a_page_is_chosen_by_number(tmp_path, grey):
    pages = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    pages[0].save(tmp_path / "case.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_image(tmp_path / "case.tif")[0], grey)
    assert np.array_equal(read_image(tmp_path / "case.tif", frame=1)[0], 255 - grey)
    with pytest.raises(ValueError, match="frame=2 was asked.*expected 0 to 1"):
        read_image(tmp_path / "case.tif", frame=2)
    assert count_frames(tmp_path / "case.tif") == 2


def test_pages_of_which_none_was_chosen_are_told(tmp_path, grey, caplog):
    pages = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    pages[0].save(tmp_path / "case.tif", save_all=True, append_images=pages[1:])
    read_image(tmp_path / "case.tif", frame=0)
    assert not caplog.text
    read_image(tmp_path / "case.tif")
    assert "case.tif holds 2 frames or pages and the first is read" in caplog.text and "--frame" in caplog.text


def write_tiff(path: Path, values: np.ndarray, photometric: int, bits: int | None = None, order: str = "<") -> Path:
    """An uncompressed TIFF file of one strip, as PIL does not write it."""
    height, width, *channels = values.shape
    count = channels[0] if channels else 1
    depth = bits or values.dtype.itemsize * 8
    pixels = pack_twelve(values) if bits == 12 else values.astype(values.dtype.newbyteorder(order)).tobytes()
    entries = [(256, 4, width), (257, 4, height), (258, 3, depth), (259, 3, 1), (262, 3, photometric)]
    entries += [(273, 4, 0), (277, 3, count), (278, 4, height), (279, 4, len(pixels))]
    behind = 8 + 2 + 12 * len(entries) + 4
    extra = struct.pack(f"{order}{count}H", *[depth] * count) if count > 2 else b""
    body = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        number = count if tag == 258 else 1
        value = behind if tag == 258 and extra else behind + len(extra) if tag == 273 else value
        packed = struct.pack(f"{order}H2x", value) if kind == 3 and not (tag == 258 and extra) else None
        body += struct.pack(f"{order}HHI", tag, kind, number) + (packed or struct.pack(f"{order}I", value))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    path.write_bytes(start + body + bytes(4) + extra + pixels)
    return path


def pack_twelve(values: np.ndarray) -> bytes:
    first, second = values.reshape(-1, 2).T.astype(np.uint32)
    word = (first << 12) | second
    return np.stack([word >> 16, (word >> 8) & 255, word & 255], axis=1).astype(np.uint8).tobytes()


def test_white_is_zero_is_inverted_in_8_and_16_bits(tmp_path, grey):
    deep = grey.astype(np.uint16) * 257
    eight, _ = read_image(write_tiff(tmp_path / "a.tif", grey, photometric=0))
    assert np.array_equal(eight, 255 - grey)
    assert np.array_equal(read_image(write_tiff(tmp_path / "b.tif", deep, photometric=0))[0], 65535 - deep)
    assert np.array_equal(read_image(write_tiff(tmp_path / "c.tif", deep, photometric=1))[0], deep)
    assert np.array_equal(read_image(write_tiff(tmp_path / "d.tif", deep, photometric=1, order=">"))[0], deep)
    with pytest.raises(ValueError, match="e.tif is not an image that can be read"):  # PIL knows no such file
        read_image(write_tiff(tmp_path / "e.tif", deep, photometric=0, order=">"))


def test_twelve_bits_of_a_tiff_are_stretched(tmp_path, grey, caplog):
    twelve = np.rint(grey / 255 * 4095).astype(np.uint16)
    packed, _ = read_image(write_tiff(tmp_path / "a.tif", twelve, photometric=1, bits=12))
    assert np.array_equal(to_grey(packed), grey) and not caplog.text
    in_sixteen, _ = read_image(write_tiff(tmp_path / "b.tif", twelve, photometric=1))
    assert np.array_equal(to_grey(in_sixteen), grey)
    assert "b.tif holds 16-bit values of at most" in caplog.text and "12 bits" in caplog.text


@pytest.mark.parametrize("order", ["<", ">"])
def test_colour_of_twelve_in_sixteen_bits_is_stretched(tmp_path, grey, order, caplog):
    colour = np.stack([grey, 255 - grey, grey // 2], axis=2).astype(np.uint16)
    image, _ = read_image(write_tiff(tmp_path / "a.tif", colour * 16, photometric=2, order=order))
    assert np.abs(np.asarray(image).astype(int) - colour).max() <= 1
    assert "a.tif holds 16-bit values" in caplog.text
    whole, _ = read_image(write_tiff(tmp_path / "b.tif", colour * 257, photometric=2, order=order))
    assert np.array_equal(whole, colour)


@pytest.mark.parametrize("bits", [8, 12])
def test_grey_values_of_few_bits_in_a_png_of_sixteen_are_stretched(tmp_path, grey, bits):
    values = grey.astype(np.uint16) * (1 if bits == 8 else 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    read, _ = read_image(tmp_path / "a.png")
    assert np.abs(to_grey(read).astype(int) - grey).max() <= 1


@pytest.mark.parametrize("values, what", [((0,), "black"), ((3, 4, 9), "only 3 grey level"), ((255,), "only 1")])
def test_an_image_with_nearly_no_grey_levels_is_told_by_name(tmp_path, rng, values, what, caplog):
    Image.fromarray(rng.choice(np.array(values, np.uint8), (40, 60))).save(tmp_path / "dark.png")
    read_image(tmp_path / "dark.png")
    assert "dark.png is nearly empty" in caplog.text and what in caplog.text


def test_files_that_are_no_image_are_refused(tmp_path, grey):
    with pytest.raises(FileNotFoundError, match="does not exist; expected a PNG, JPEG, TIFF, BMP or DICOM"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="is not a file"):
        read_image(tmp_path)
    contents = {"empty.png": b"", "text.png": b"not an image", "case.gif": b"GIF89a" + bytes(40)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not an image that can be read.*expected a PNG"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_a_cut_file_is_refused(tmp_path, rng, suffix):
    path = tmp_path / f"case.{suffix}"
    Image.fromarray(rng.integers(0, 256, (200, 200), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged|cannot be read|not an image that can be read"):
        read_image(path)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, grey, monkeypatch):
    Image.fromarray(grey).save(tmp_path / "case.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="60 x 40 pixels; expected .* at most 100"):
        read_image(tmp_path / "case.png")


def write_dicom(path: Path, values: np.ndarray, photometric: str = "MONOCHROME2", bits: int = 8, **attributes) -> Path:
    """A small uncompressed ultrasound file; (frames, H, W), (H, W) or (H, W, 3)."""
    pydicom = pytest.importorskip("pydicom", reason="reading DICOM needs the extra `data`")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    color = values.ndim == 3 and values.shape[-1] == 3
    frames = 1 if color or values.ndim == 2 else len(values)
    dataset.Rows, dataset.Columns = values.shape[:2] if frames == 1 else values.shape[1:]
    dataset.SamplesPerPixel = 3 if color else 1
    if color:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = values.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def region(delta_y: float, delta_x: float, units: int = 3, spatial_format: int = 1):
    """One ultrasound region of the whole of `grey`; deltas in centimetres where units is 3."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = 0, 0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = 59, 39
    item.RegionSpatialFormat, item.PhysicalUnitsXDirection, item.PhysicalUnitsYDirection = spatial_format, units, units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta_x, delta_y
    return item


def test_dicom_grey_and_inverted_grey(tmp_path, grey):
    assert np.array_equal(read_image(write_dicom(tmp_path / "a.dcm", grey))[0], grey)
    inverted = write_dicom(tmp_path / "b", grey, "MONOCHROME1")  # known by its content
    assert np.array_equal(read_image(inverted)[0], 255 - grey)


def test_dicom_of_twelve_bits_is_stretched_to_sixteen(tmp_path):
    values = np.array([[0, 4095], [2048, 1]], np.uint16)
    read, _ = read_image(write_dicom(tmp_path / "a.dcm", values, bits=12))
    assert read.mode == "I;16"
    assert np.array_equal(read, np.rint(values / 4095 * 65535))


def test_dicom_colour(tmp_path, rng):
    values = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    assert np.array_equal(read_image(write_dicom(tmp_path / "a.dcm", values, "RGB"))[0], values)
    ybr = np.asarray(Image.fromarray(values).convert("YCbCr"))
    read, _ = read_image(write_dicom(tmp_path / "b.dcm", ybr, "YBR_FULL"))
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read).astype(int) - values).max() <= 3  # two roundings


def test_dicom_loop_gives_its_first_frame_unless_asked(tmp_path, rng):
    frames = rng.integers(0, 256, (3, 8, 10), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", frames)
    assert np.array_equal(read_image(path)[0], frames[0])
    assert np.array_equal(read_image(path, frame=2)[0], frames[2])
    assert count_frames(path) == 3
    with pytest.raises(ValueError, match="frame=3 was asked"):
        read_image(path, frame=3)


def test_dicom_spacing_is_rows_then_columns_in_millimetres(tmp_path, grey):
    path = tmp_path / "a.dcm"
    write_dicom(path, grey, SequenceOfUltrasoundRegions=[region(0.02, -0.01)])
    assert read_image(path)[1] == (0.2, 0.1)
    write_dicom(path, grey, PixelSpacing=[0.3, 0.15])
    assert read_image(path)[1] == (0.3, 0.15)


def test_dicom_without_one_clear_spacing_has_none(tmp_path, grey):
    path = tmp_path / "a.dcm"
    write_dicom(path, grey)
    assert read_image(path)[1] is None
    write_dicom(path, grey, SequenceOfUltrasoundRegions=[region(0.02, 0.01), region(0.04, 0.01)])
    assert plain_spacing(read_image(path)[1]) is None
    write_dicom(path, grey, PixelSpacing=[0, 0])
    assert plain_spacing(read_image(path)[1]) is None


def test_dicom_that_cannot_be_used_is_refused(tmp_path, grey):
    whole = write_dicom(tmp_path / "a.dcm", grey).read_bytes()
    for name, content in {"cut.dcm": whole[:-500], "short.dcm": whole[:200], "text.dcm": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a DICOM image that can be read.*convert it to PNG"):
            read_image(tmp_path / name)
    signed = write_dicom(tmp_path / "ct.dcm", grey.astype(np.int16), bits=16)
    with pytest.raises(ValueError, match="signed pixel values"):
        read_image(signed)


def test_dicom_without_pydicom_names_the_extra(tmp_path, grey, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", grey)
    real_import = builtins.__import__

    def without_pydicom(name, *args, **kwargs):
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pydicom)
    with pytest.raises(ImportError, match=r"pip install ccsam-hf\[data\]"):
        read_image(path)

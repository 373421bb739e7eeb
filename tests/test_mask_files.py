"""Files of results hold the masks pixel for pixel, and lie on the image for the programs that read them."""

import gzip
import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ccsam_hf import __version__
from ccsam_hf.data.readers import read_cases
from ccsam_hf.descriptions import TARGETS
from ccsam_hf.formats.dicom_headers import dicom_bytes
from ccsam_hf.formats.dicom_seg import ANY_AREA, CODES, masks_dicom_seg
from ccsam_hf.formats.mask_files import check_formats, mask_png, results_json
from ccsam_hf.formats.nifti import masks_nifti
from ccsam_hf.formats.secondary_capture import secondary_capture
from ccsam_hf.image_files import read_image
from ccsam_hf.measurements import measure_mask
from ccsam_hf.results import SegmentationResult
from test_image_files import region, write_dicom

NEEDS_DATA = "writing medical files needs the extra `data`"
nibabel = pytest.importorskip("nibabel", reason=NEEDS_DATA)
SimpleITK = pytest.importorskip("SimpleITK", reason=NEEDS_DATA)
pydicom = pytest.importorskip("pydicom", reason=NEEDS_DATA)
highdicom = pytest.importorskip("highdicom", reason=NEEDS_DATA)
codes = pytest.importorskip("pydicom.sr.codedict", reason=NEEDS_DATA).codes

SIZE = (37, 53)  # not a multiple of 8 bits
IDENTITY = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
MULTI_FRAME = pydicom.uid.UltrasoundMultiFrameImageStorage


@pytest.fixture
def masks() -> np.ndarray:
    """A gland, a nodule in it that overlaps its edge, and nothing; no two rows or columns of the picture are alike."""
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, 5:20, 7:40] = True
    masks[0, 9, 7:9] = False
    masks[1, 12:24, 30:45] = True
    masks[1, 23, 44] = False
    return masks


LABELS = ["thyroid gland", "thyroid nodule", None]


# --- PNG and JSON ----------------------------------------------------------------------------------------------------


def test_a_png_holds_0_and_255(masks):
    image = Image.open(io.BytesIO(mask_png(masks[0])))
    assert image.mode == "L" and np.array_equal(image, masks[0] * np.uint8(255))


def result(mask: np.ndarray, **fields) -> SegmentationResult:
    known = {"probability": mask.astype(np.float32), "score": 0.75, "box": (1.0, 2.0, 3.0, 4.0), "label": None}
    return SegmentationResult(
        **(known | {"mask": mask, "uncertainty": None} | fields), measurements=measure_mask(mask)
    )


def test_json_says_what_a_text_brought_along_where_one_prompted(masks):
    named = result(
        masks[1], label="thyroid nodule", text="nodule", description="d", box_score=0.5, text_encoder="bert"
    )
    content = results_json([result(masks[0]), named], ["a.png", "b.png"])
    plain, text = content["objects"]
    assert list(content) == ["objects"] and list(plain)[:4] == ["label", "box", "score", "mask"]
    assert (plain["mask"], plain["score"], plain["area_px"]) == ("a.png", 0.75, 15 * 33 - 2) and "text" not in plain
    assert (text["text"], text["reason"], text["box_score"], text["text_encoder"]) == ("nodule", None, 0.5, "bert")
    with pytest.raises(ValueError, match="shorter"):
        results_json([named], [])


# --- NIfTI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [None, (0.25, 0.125)])
def test_nifti_lies_on_the_png_for_itk(masks, tmp_path, spacing):
    (tmp_path / "labels.nii.gz").write_bytes(masks_nifti(masks[:1], spacing))
    (tmp_path / "mask.png").write_bytes(mask_png(masks[0]))
    labels, png = (SimpleITK.ReadImage(str(tmp_path / name)) for name in ("labels.nii.gz", "mask.png"))
    assert labels.GetPixelID() == SimpleITK.sitkUInt8
    assert labels.GetSize() == png.GetSize() == SIZE[::-1]
    assert labels.GetOrigin() == png.GetOrigin() == (0, 0)
    assert labels.GetDirection() == png.GetDirection() == (1, 0, 0, 1)
    assert labels.GetSpacing() == ((1, 1) if spacing is None else spacing[::-1])  # x before y
    assert np.array_equal(SimpleITK.GetArrayFromImage(labels) * 255, SimpleITK.GetArrayFromImage(png))


def test_nifti_has_the_affine_that_itk_writes(masks, tmp_path):
    (tmp_path / "ours.nii.gz").write_bytes(masks_nifti(masks, (0.25, 0.125)))
    picture = SimpleITK.GetImageFromArray(masks[0].astype(np.uint8))
    picture.SetSpacing((0.125, 0.25))
    SimpleITK.WriteImage(picture, str(tmp_path / "theirs.nii.gz"))
    ours, theirs = (nibabel.load(tmp_path / name) for name in ("ours.nii.gz", "theirs.nii.gz"))
    assert np.array_equal(ours.affine, np.diag([-0.125, -0.25, 1, 1])) and np.array_equal(ours.affine, theirs.affine)
    assert np.array_equal(ours.get_qform(), ours.get_sform()) and nibabel.aff2axcodes(ours.affine) == ("L", "P", "S")
    assert ours.header.get_xyzt_units()[0] == "mm" and b"research use" in ours.header["descrip"].tobytes()
    assert b"no spacing" not in ours.header["descrip"].tobytes()


def test_nifti_without_spacing_says_so(masks):
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(masks_nifti(masks)))
    assert np.array_equal(image.affine, np.diag([-1, -1, 1, 1]))
    assert image.header["descrip"].tobytes().rstrip(b"\0").endswith(b"no spacing")
    assert image.header.get_xyzt_units()[0] == "unknown"


def labels_of(content: bytes) -> np.ndarray:
    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_where_masks_overlap_the_smallest_is_seen(masks, order):
    labels = labels_of(masks_nifti(masks[list(order)])).T
    gland, nodule = order.index(0) + 1, order.index(1) + 1
    assert (masks[0] & masks[1]).any() and labels.dtype == np.uint8
    assert np.array_equal(labels, np.where(masks[1], nodule, np.where(masks[0], gland, 0)))


def test_of_equal_masks_the_first_is_seen(masks):
    assert set(np.unique(labels_of(masks_nifti([masks[0], masks[0]])))) == {0, 1}


def test_a_loop_is_a_volume_of_frames(masks, tmp_path):
    loop = np.stack([np.zeros_like(masks[0]), masks[0], masks[1]])
    (tmp_path / "loop.nii.gz").write_bytes(masks_nifti([loop], (0.25, 0.125)))
    read = SimpleITK.ReadImage(str(tmp_path / "loop.nii.gz"))
    assert read.GetSpacing() == (0.125, 0.25, 1) and read.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert np.array_equal(SimpleITK.GetArrayFromImage(read), loop)


def test_nifti_is_the_same_file_each_time(masks):
    assert masks_nifti(masks, (0.2, 0.1)) == masks_nifti(masks, (0.2, 0.1))


def test_what_no_label_map_can_hold_is_refused(masks):
    with pytest.raises(ValueError, match="no mask came"):
        masks_nifti([])
    with pytest.raises(TypeError, match="type uint8; expected bool"):
        masks_nifti(masks.astype(np.uint8))
    with pytest.raises(ValueError, match="expected one shape"):
        masks_nifti([masks[0], masks[0].T])
    with pytest.raises(ValueError, match="at most 255"):
        masks_nifti(np.zeros((256, 2, 2), dtype=bool))
    with pytest.raises(ValueError, match="two numbers above zero"):
        masks_nifti(masks, (0, 1))


# --- DICOM Segmentation ----------------------------------------------------------------------------------------------


def read_seg(content: bytes):
    return highdicom.seg.Segmentation.from_dataset(pydicom.dcmread(io.BytesIO(content)))


def frames_by_hand(content: bytes) -> dict[tuple[int, int | None], np.ndarray]:
    """(segment, referenced frame) -> mask, from the bits of the file alone."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    rows, columns, count = dataset.Rows, dataset.Columns, int(dataset.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[: count * rows * columns]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = {}
    for group, mask in zip(
        dataset.PerFrameFunctionalGroupsSequence, bits.reshape(count, rows, columns) == 1, strict=True
    ):
        segment = (group if "SegmentIdentificationSequence" in group else shared).SegmentIdentificationSequence[0]
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        assert source.SpatialLocationsPreserved == "YES"
        found[segment.ReferencedSegmentNumber, source.get("ReferencedFrameNumber")] = mask
    assert len(found) == count
    return found


@pytest.mark.parametrize(
    ("photometric", "bits", "attributes"),
    [
        ("MONOCHROME2", 8, {}),
        ("MONOCHROME2", 12, {"PixelSpacing": [0.3, 0.15]}),
        ("MONOCHROME1", 8, {"SequenceOfUltrasoundRegions": True, "FrameOfReferenceUID": "1.2.9"}),
        ("RGB", 8, {}),
        ("YBR_FULL", 8, {"SequenceOfUltrasoundRegions": True}),
    ],
)
def test_a_segmentation_lies_on_its_single_frame(masks, tmp_path, rng, photometric, bits, attributes):
    if "SequenceOfUltrasoundRegions" in attributes:
        attributes = attributes | {"SequenceOfUltrasoundRegions": [region(0.02, 0.01)]}
    shape = (*SIZE, 3) if photometric in ("RGB", "YBR_FULL") else SIZE
    values = rng.integers(0, 256, shape, dtype=np.uint8).astype(np.uint8 if bits == 8 else np.uint16)
    source = write_dicom(tmp_path / "source.dcm", values, photometric, bits, **IDENTITY, **attributes)
    content = masks_dicom_seg(masks, LABELS, source)
    segmentation = read_seg(content)
    (pixels,) = segmentation.get_pixels_by_source_instance(["1.2.3.4"])
    assert np.array_equal(np.moveaxis(pixels, 2, 0), masks)
    header = pydicom.dcmread(source)
    assert (segmentation.Rows, segmentation.Columns) == (header.Rows, header.Columns)
    by_hand = frames_by_hand(content)
    assert set(by_hand) == {(1, None), (2, None), (3, None)}  # an empty mask has a frame too
    assert all(np.array_equal(by_hand[i + 1, None], masks[i]) for i in range(3))
    if shutil.which("dciodvfy"):
        assert_valid(tmp_path, content)


def assert_valid(tmp_path, content: bytes):
    """No error of dicom3tools' validator, where that is installed."""
    (tmp_path / "checked.dcm").write_bytes(content)
    told = subprocess.run(["dciodvfy", "-new", tmp_path / "checked.dcm"], capture_output=True, text=True)
    assert "Error" not in told.stdout + told.stderr


def test_what_a_segmentation_says_about_itself(masks, tmp_path, rng):
    values = rng.integers(0, 256, SIZE, dtype=np.uint8)
    about = {"PatientID": "P1", "PatientSex": "F", "StudyDate": "20260102", "AccessionNumber": "A7"}
    source = write_dicom(tmp_path / "source.dcm", values, **IDENTITY, **about)
    first, second = (read_seg(masks_dicom_seg(masks, LABELS, source)) for _ in range(2))
    assert first.SegmentationType == "BINARY" and first.SegmentsOverlap == "YES" and first.Modality == "SEG"
    assert first.StudyInstanceUID == "1.2.3" and first.SeriesInstanceUID not in ("1.2.3.1", second.SeriesInstanceUID)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert all(first[name].value == value for name, value in about.items())
    assert first.ContentLabel == "RESEARCH_USE"
    assert first.ContentDescription == "Research use only, not a medical device" in first.SeriesDescription
    (reference,) = first.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.3.4" and "FrameOfReferenceUID" not in first
    segments = [first.get_segment_description(number) for number in (1, 2, 3)]
    assert [segment.SegmentLabel for segment in segments] == ["thyroid gland", "thyroid nodule", "object"]
    assert {segment.SegmentAlgorithmName for segment in segments} == {f"CC-SAM (ccsam-hf {__version__})"}
    gland, nodule, thing = segments
    assert gland.segmented_property_type == codes.SCT.Thyroid and gland.anatomic_regions == []
    assert nodule.segmented_property_category == codes.SCT.MorphologicallyAbnormalStructure
    assert nodule.segmented_property_type == codes.SCT.Nodule and nodule.anatomic_regions == [codes.SCT.Thyroid]
    assert thing.segmented_property_type == codes.DCM.ImageRegion


def test_labels_of_any_text_arrive(masks, tmp_path, rng):
    values = rng.integers(0, 256, SIZE, dtype=np.uint8)
    attributes = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}
    source = write_dicom(tmp_path / "source.dcm", values, **IDENTITY, **attributes)
    long = "an " + "oddly named " * 10 + "mass"
    read = read_seg(masks_dicom_seg(masks, ["Zyste, 3\\4 µm²", long, "LV"], source))
    first, second, third = (read.get_segment_description(number) for number in (1, 2, 3))
    assert first.SegmentLabel == "Zyste, 3/4 µm²" and str(read.PatientName) == "Müller^Jörg"
    assert second.SegmentLabel == long[:64] and second.SegmentDescription == long
    assert third.SegmentLabel == "LV" and third.segmented_property_type == codes.SCT.LeftVentricle


def test_codes_are_those_of_the_standard():
    assert set(CODES) <= set(TARGETS)
    expected = {  # SNOMED CT codes as DICOM PS3.16 prints them
        "breast lesion": ("49755003", "52988006", "76752008"),
        "thyroid nodule": ("49755003", "27925004", "69748006"),
        "thyroid gland": ("91723000", "69748006", None),
        "left ventricle": ("91723000", "87878005", None),
        "myocardium": ("91723000", "49848007", None),
        "left atrium": ("91723000", "82471001", None),
    }
    for name, entry in CODES.items():
        found = [key and getattr(codes.SCT, key).value for key in (entry.category, entry.type, entry.region)]
        assert name not in expected or tuple(found) == expected[name]
        assert getattr(codes.SCT, entry.category) in codes.CID7150.concepts.values()
    assert getattr(codes.DCM, ANY_AREA.type).value == "111030"


@pytest.mark.parametrize("attributes", [{}, {"SequenceOfUltrasoundRegions": True}])
def test_a_segmentation_lies_on_the_frames_of_a_loop(masks, tmp_path, rng, attributes):
    if attributes:
        attributes = {"SequenceOfUltrasoundRegions": [region(0.02, 0.01)]}
    loop = rng.integers(0, 256, (5, *SIZE), dtype=np.uint8)
    source = write_dicom(tmp_path / "loop.dcm", loop, SOPClassUID=MULTI_FRAME, **IDENTITY, **attributes)
    content = masks_dicom_seg({3: masks, 1: masks[::-1]}, LABELS, source)
    pixels = read_seg(content).get_pixels_by_source_frame("1.2.3.4", [2, 4])
    assert np.array_equal(np.moveaxis(pixels, 3, 1), [masks[::-1], masks])
    by_hand = frames_by_hand(content)
    assert set(by_hand) == {(segment, frame) for segment in (1, 2, 3) for frame in (2, 4)}
    assert all(np.array_equal(by_hand[i + 1, 4], masks[i]) for i in range(3))
    assert all(np.array_equal(by_hand[i + 1, 2], masks[2 - i]) for i in range(3))
    one = masks_dicom_seg(masks[1:2], ["left ventricle"], source, 4)
    assert np.array_equal(read_seg(one).get_pixels_by_source_frame("1.2.3.4", [5])[0, ..., 0], masks[1])
    assert read_seg(one).SegmentsOverlap == "NO"
    if shutil.which("dciodvfy"):
        assert_valid(tmp_path, content)
        assert_valid(tmp_path, one)


def test_a_loop_of_one_frame_needs_no_number(masks, tmp_path, rng):
    loop = rng.integers(0, 256, (1, *SIZE), dtype=np.uint8)
    attributes = {"SOPClassUID": MULTI_FRAME, "NumberOfFrames": 1, "Rows": SIZE[0], "Columns": SIZE[1]}
    source = write_dicom(tmp_path / "loop.dcm", loop[0], **IDENTITY, **attributes)
    (pixels,) = read_seg(masks_dicom_seg(masks, LABELS, source)).get_pixels_by_source_instance(["1.2.3.4"])
    assert np.array_equal(np.moveaxis(pixels, 2, 0), masks)


def test_what_no_segmentation_can_refer_to_is_refused(masks, tmp_path, rng):
    values = rng.integers(0, 256, SIZE, dtype=np.uint8)
    source = write_dicom(tmp_path / "source.dcm", values, **IDENTITY)
    loop = write_dicom(tmp_path / "loop.dcm", np.stack([values] * 3), SOPClassUID=MULTI_FRAME, **IDENTITY)
    bare = write_dicom(tmp_path / "bare.dcm", values)
    (tmp_path / "text.dcm").write_text("no DICOM")
    cases = [
        (masks, LABELS, bare, None, "lacks StudyInstanceUID, SeriesInstanceUID; .*save the masks as PNG or NIfTI"),
        (masks, LABELS, tmp_path / "text.dcm", None, "text.dcm is not a DICOM file"),
        (masks, LABELS[:2], source, None, r"shape \(3, 37, 53\) came; expected \(2, 37, 53\)"),
        (masks[:, :-1], LABELS, source, None, r"shape \(3, 36, 53\) came"),
        (masks, LABELS, source, 1, r"frame\(s\) \[1\] came for a source with 1"),
        (masks, LABELS, loop, None, "a loop of 3 frames; expected frame_numbers"),
        (masks, LABELS, loop, 3, "each from 0 to 2"),
        ({}, LABELS, loop, None, "at least one frame"),
        ({0: masks}, LABELS, loop, 0, "leave it out"),
        ({0: masks, 1: masks[:2]}, LABELS, loop, None, r"shape \(2, 37, 53\) came"),
        ([], LABELS, source, None, "no mask came"),
    ]
    for given, labels, where, frame, message in cases:
        with pytest.raises(ValueError, match=message):
            masks_dicom_seg(given, labels, where, frame)
    with pytest.raises(TypeError, match="expected bool"):
        masks_dicom_seg(masks.astype(np.uint8), LABELS, source)
    with pytest.raises(FileNotFoundError):
        masks_dicom_seg(masks, LABELS, tmp_path / "absent.dcm")
    with pytest.raises(ValueError, match="no DICOM-SEG can be made for the source"):
        masks_dicom_seg(masks, LABELS, write_dicom(tmp_path / "odd.dcm", values, **IDENTITY, PatientSex="UNKNOWN"))


def test_a_source_stays_as_it_is(masks, tmp_path, rng):
    dataset = pydicom.dcmread(
        write_dicom(tmp_path / "source.dcm", rng.integers(0, 256, SIZE, dtype=np.uint8), **IDENTITY)
    )
    before = dataset.to_json()
    masks_dicom_seg(masks, LABELS, dataset)
    assert dataset.to_json() == before


# --- Secondary Capture -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grey", "grey of 16 bits", "colour", "palette"])
def test_a_picture_becomes_a_dicom_image_of_the_same_pixels(tmp_path, rng, kind):
    values = rng.integers(0, 256, (*SIZE, 3) if kind == "colour" else SIZE, dtype=np.uint8)
    values = values.astype(np.uint16) * 257 if kind == "grey of 16 bits" else values
    image = Image.fromarray(values)
    image = image.convert("P") if kind == "palette" else image
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(secondary_capture(image, (0.2, 0.1), name="Mädchen 7")))
    read, spacing = read_image(tmp_path / "a.dcm")
    assert np.array_equal(read, image.convert("RGB") if kind == "palette" else image) and spacing == (0.2, 0.1)
    header = pydicom.dcmread(tmp_path / "a.dcm")
    assert header.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage and header.SeriesDescription == "Mädchen 7"
    assert not header.PatientID and not header.PatientOrientation
    if shutil.which("dciodvfy"):
        assert_valid(tmp_path, (tmp_path / "a.dcm").read_bytes())


def test_a_picture_without_spacing_states_none(rng):
    assert "PixelSpacing" not in secondary_capture(rng.integers(0, 256, SIZE, dtype=np.uint8))
    with pytest.raises(ValueError, match="two numbers above zero"):
        secondary_capture(np.zeros(SIZE, dtype=np.uint8), (1, 0))
    with pytest.raises(ValueError, match="expected .height, width. or"):
        secondary_capture(np.zeros((2, 2, 2, 2)))


def test_this_package_reads_its_own_segmentation_back(masks, tmp_path, rng):
    """Layout "dicom": the Secondary Capture as image, the segmentation as masks."""
    capture = secondary_capture(Image.fromarray(rng.integers(0, 256, SIZE, dtype=np.uint8)), (0.2, 0.1))
    for folder, content in {
        "images": dicom_bytes(capture),
        "masks": masks_dicom_seg(masks, LABELS, capture),
    }.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.dcm").write_bytes(content)
    cases = read_cases(tmp_path, "dicom")
    assert [(case.target, case.class_id) for case in cases] == [(LABELS[0], 1), (LABELS[1], 2), ("object", 3)]
    assert all(np.array_equal(case.mask, mask) for case, mask in zip(cases, masks, strict=True))
    assert {case.spacing_mm for case in cases} == {(0.2, 0.1)}


# --- absent libraries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("library", "name"), [("nibabel", "nifti"), ("highdicom", "dicom-seg")])
def test_an_absent_library_names_the_extra(masks, monkeypatch, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    expected = rf'needs {library}: pip install "ccsam-hf\[data\]"'
    with pytest.raises(ImportError, match=expected):
        masks_nifti(masks) if name == "nifti" else masks_dicom_seg(masks, LABELS, "case.dcm")
    with pytest.raises(ImportError, match=expected):
        check_formats(["png", name])
    check_formats(["png"])

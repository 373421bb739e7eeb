"""CAMUS, COCO and DICOM: simulated data in their layouts come back sample by sample; what does not fit is refused."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from ccsam_hf.data.readers import camus, coco, dicom
from ccsam_hf.data.readers.camus import VolumeFrame
from layouts_of_volumes import (
    CLASSES,
    SIZE,
    SPACING,
    Truth,
    assert_read_back,
    compressed,
    heart,
    run_lengths,
    write_camus_mhd,
    write_camus_nifti,
    write_coco,
    write_dicom,
    write_image,
    write_json,
    write_mhd,
    write_nifti,
    write_patient,
    write_seg,
)

for library in ("nibabel", "SimpleITK", "pycocotools", "pydicom"):
    pytest.importorskip(library, reason="reading volumes needs the extra `data`")


def refuse(reader, directory: Path, message: str, error: type[Exception] = ValueError) -> None:
    """Listing or looking at the headers says why it stops."""
    with pytest.raises(error, match=message):
        for case in reader(directory, []):
            case.check()


def without(monkeypatch, name: str) -> None:
    """Make a library as good as absent."""
    monkeypatch.setitem(sys.modules, name, None)


# --- CAMUS -----------------------------------------------------------------------------------------------------------


def test_camus_in_nifti(tmp_path):
    frames, loops = write_camus_nifti(tmp_path)
    notes: list[str] = []
    assert_read_back(camus.read(tmp_path, notes), frames, "CAMUS")
    assert_read_back(camus.read_sequences(tmp_path, notes), loops, "CAMUS")
    assert_read_back(camus.read(tmp_path / "database_nifti", notes), frames, "CAMUS")  # finds the lists beside it
    assert notes == []
    first = camus.read(tmp_path, notes)[0]
    assert (first.name, first.split, first.patient_id, first.category) == ("0001_2CH_ED", "test", "0001", "2CH")
    assert camus.read_sequences(tmp_path, notes)[3].name == "0001_2CH_f001"


def test_camus_in_mhd_leaves_out_test_patients_without_masks(tmp_path):
    truths = write_camus_mhd(tmp_path)
    notes: list[str] = []
    assert_read_back(camus.read(tmp_path, notes), truths, "CAMUS")
    assert notes == [f"{tmp_path}: 1 patient(s) have no masks, for instance patient0001 of testing: they are left out"]
    assert_read_back(camus.read(tmp_path / "training", notes := []), truths, "CAMUS")
    assert notes == []
    refuse(camus.read, tmp_path / "testing", "holds no case: no patient has masks")
    refuse(camus.read_sequences, tmp_path, "in mhd has no masks of sequences; the one in NIfTI has")


def test_test_patients_of_the_older_form_do_not_share_names_with_those_to_train(tmp_path):
    truths = write_patient(tmp_path / "training" / "patient0001", 0, ".mhd")
    truths += write_patient(tmp_path / "testing" / "patient0001", 10, ".mhd", prefix="test", split="test")
    assert_read_back(camus.read(tmp_path, []), truths, "CAMUS")


def test_both_forms_of_an_image_are_equal_and_upright_as_simpleitk_shows_them(tmp_path):
    import SimpleITK

    image, labels = heart(0)
    for name, values in (("a", image), ("a_gt", labels)):
        write_nifti(tmp_path / f"{name}.nii.gz", values)
        write_nifti(tmp_path / f"{name}.nii", values)
        write_mhd(tmp_path / f"{name}.mhd", values)
    shown = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")))
    assert shown.shape == SIZE and np.array_equal(shown, image)
    for suffix in (".nii.gz", ".nii", ".mhd"):
        assert np.array_equal(VolumeFrame(tmp_path / f"a{suffix}", 0).read(), shown)
        assert np.array_equal(VolumeFrame(tmp_path / f"a_gt{suffix}", 0, value=2).read(), labels == 2)


def test_frames_of_a_loop_are_chosen_by_number_and_read_anew_when_the_file_changes(tmp_path):
    loop = np.stack([heart(i)[0] for i in range(3)])
    for suffix, write in ((".nii.gz", write_nifti), (".mhd", write_mhd)):
        path = tmp_path / f"loop{suffix}"
        write(path, loop)
        assert all(np.array_equal(VolumeFrame(path, i).read(), loop[i]) for i in (2, 0, 1))
        for frame in (3, -1):
            with pytest.raises(ValueError, match=f"frame {frame} was asked of .*; expected 0 to 2"):
                VolumeFrame(path, frame).read()
        VolumeFrame(path, 0).read()[:] = 0  # of the caller alone
        assert np.array_equal(VolumeFrame(path, 0).read(), loop[0])
        write(path, loop[::-1].copy())
        assert np.array_equal(VolumeFrame(path, 0).read(), loop[2])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_other_types_with_values_up_to_255_are_read(tmp_path, dtype):
    image, labels = heart(0)
    write_nifti(tmp_path / "a.nii.gz", image.astype(dtype))
    write_nifti(tmp_path / "a_gt.nii.gz", labels.astype(dtype))
    write_mhd(tmp_path / "a.mhd", image.astype(dtype))
    read = VolumeFrame(tmp_path / "a.nii.gz", 0).read()
    assert read.dtype == np.uint8 and np.array_equal(read, image)
    assert np.array_equal(VolumeFrame(tmp_path / "a.mhd", 0).read(), image)
    assert np.array_equal(VolumeFrame(tmp_path / "a_gt.nii.gz", 0, value=3).read(), labels == 3)


@pytest.mark.parametrize("value", [-1, 256, 4095.0, np.nan])
def test_other_values_are_refused(tmp_path, value):
    image = heart(0)[0].astype(np.float32)
    image[3, 4] = value
    write_nifti(tmp_path / "a.nii.gz", image)
    with pytest.raises(ValueError, match="holds values from .*; expected 0 to 255: scale it first"):
        VolumeFrame(tmp_path / "a.nii.gz", 0).read()


@pytest.mark.parametrize("value", [4, 255, 1.5, np.nan])
def test_other_classes_are_refused(tmp_path, value):
    labels = heart(0)[1].astype(np.float32)
    labels[3, 4] = value
    write_nifti(tmp_path / "a_gt.nii.gz", labels)
    with pytest.raises(ValueError, match=f"holds the class {value}.*; expected 0 to 3"):
        VolumeFrame(tmp_path / "a_gt.nii.gz", 0, value=1).read()


@pytest.mark.parametrize(
    "spacing, unit",
    [
        ((0.154, 0.308), "mm"),
        ((0.000154, 0.000308), "meter"),
        ((154.0, 308.0), "micron"),
        ((0.154, 0.308), "unknown"),
    ],
)
def test_spacing_is_in_millimetres_between_rows_then_columns(tmp_path, spacing, unit):
    write_nifti(tmp_path / "a.nii.gz", heart(0)[0], spacing, unit)
    assert camus.read_header(tmp_path / "a.nii.gz").spacing_mm == (0.154, 0.308)


@pytest.mark.parametrize("length", [np.nan, np.inf])
def test_a_spacing_that_is_no_length_is_unknown(tmp_path, length):
    path = tmp_path / "a.nii"
    write_nifti(path, heart(0)[0])
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 76 + 2 * 4, length)  # pixdim[2]
    path.write_bytes(content)
    assert camus.read_header(path).spacing_mm is None


@pytest.fixture
def patient(tmp_path) -> Path:
    """One patient of the NIfTI form; the folder above is the directory to read."""
    write_patient(tmp_path / "patient0001", 0, ".nii.gz")
    return tmp_path / "patient0001"


def test_patients_that_no_list_names_have_no_split(patient):
    cases = camus.read(patient.parent, notes := [])
    assert {case.split for case in cases} == {None}
    assert len(notes) == 1 and "names 1 patient(s), for instance patient0001: they have no split" in notes[0]


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"training": "patient0001\npatient0007\n"}, "names 1 patient.s. without a folder in .*patient0007"),
        (
            {"training": "patient0001", "testing": "patient0001"},
            "names patient0001, which is in test too|in train too",
        ),
    ],
)
def test_wrong_lists_of_patients_are_refused(tmp_path, lists, message):
    write_patient(tmp_path / "database_nifti" / "patient0001", 0, ".nii.gz")
    (tmp_path / "database_split").mkdir()
    for part, content in lists.items():
        (tmp_path / "database_split" / f"subgroup_{part}.txt").write_text(content)
    refuse(camus.read, tmp_path, message)


def test_camus_without_an_image_or_a_mask_is_refused(patient):
    mask = patient / "patient0001_2CH_ED_gt.nii.gz"
    mask.rename(patient / "kept")
    refuse(
        camus.read, patient.parent, "1 case.s. have no mask, for instance 'patient0001_2CH_ED'; expected .*<name>_gt"
    )
    (patient / "kept").rename(mask)
    (patient / "patient0001_2CH_ED.nii.gz").unlink()
    refuse(camus.read, patient.parent, "1 case.s. have no image, for instance 'patient0001_2CH_ED'")
    mask.unlink()
    cases = camus.read(patient.parent, notes := [])
    assert len(cases) == 9
    assert "1 patient(s) have fewer than 4 images of ED, ES, for instance patient0001" in notes[-1]


def test_a_patient_outside_the_test_part_needs_masks(patient):
    for path in patient.glob("*_gt.nii.gz"):
        path.unlink()
    refuse(camus.read, patient.parent, "4 case.s. have no mask")


def test_a_directory_that_is_not_camus_is_refused(tmp_path):
    refuse(camus.read, tmp_path, "has no folder patient<n>; layout 'camus' needs it here or in", FileNotFoundError)
    (tmp_path / "patient0001").mkdir()
    refuse(camus.read, tmp_path, "holds no patient0001_<2CH|4CH>_<ED|ES> as .nii.gz, .nii or .mhd")


def test_files_that_contradict_each_other_are_refused(patient):
    write_mhd(patient / "patient0001_2CH_ED.mhd", heart(0)[0])
    refuse(camus.read, patient.parent, "hold the same: remove one of them")
    (patient / "patient0001_2CH_ED.mhd").rename(patient / "patient0002_2CH_ED.mhd")
    refuse(camus.read, patient.parent, "lies with patient0001; expected files of this patient alone")


def test_a_mask_of_another_size_or_length_is_refused(patient):
    image, labels = heart(0)
    path = patient / "patient0001_2CH_ED_gt.nii.gz"
    write_nifti(path, labels.T)
    refuse(camus.read, patient.parent, r"ED_gt.nii.gz has size \(88, 64\) and its image .* \(64, 88\)")
    write_nifti(path, np.stack([labels, labels]))
    refuse(camus.read, patient.parent, "has 1 frame.s. and .*ED_gt.nii.gz 2; expected as many")
    write_nifti(patient / "patient0001_2CH_ED.nii.gz", np.stack([image, image]))
    refuse(camus.read, patient.parent, "has 2 frames; expected the one of ED")


def test_volumes_of_another_kind_are_refused(patient):
    import nibabel

    path = patient / "patient0001_2CH_ED.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 2, 2), dtype=np.uint8), np.eye(4)), path)
    refuse(
        camus.read, patient.parent, r"has the shape \(4, 4, 2, 2\) with 1 value.s. a pixel; expected one grey image"
    )
    colour = np.zeros((4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), path)
    refuse(camus.read, patient.parent, "with 3 value.s. a pixel")


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    write_mhd(tmp_path / "a.mhd", heart(0)[0])
    text = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(text.replace("DimSize = 88 64 1", "DimSize = 90000 90000 1"))
    with pytest.raises(ValueError, match="expected at most 500,000,000 values"):
        VolumeFrame(tmp_path / "a.mhd", 0).read()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mhd"])
def test_damaged_volumes_are_refused(tmp_path, suffix, capfd):
    noise = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    (write_mhd if suffix == ".mhd" else write_nifti)(path, noise)
    pixels = path.with_suffix(".raw") if suffix == ".mhd" else path
    pixels.write_bytes(pixels.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=rf"a{suffix} cannot be read .*expected a complete NIfTI or mhd file"):
        VolumeFrame(path, 0).read()
    path.write_bytes(b"no volume")
    for look in (lambda: VolumeFrame(path, 0).size, VolumeFrame(path, 0).read):
        with pytest.raises(ValueError, match="cannot be read|names no data file"):
            look()
    pixels.unlink()
    with pytest.raises(ValueError, match="cannot be read|names no data file"):
        VolumeFrame(path, 0).read()


@pytest.mark.parametrize("name", ["../a.raw", "/etc/hostname", "LIST", "other/a.raw", "a.mhd", ""])
def test_an_mhd_file_reads_no_pixels_from_elsewhere(tmp_path, name):
    write_mhd(tmp_path / "in" / "a.mhd", heart(0)[0])
    (tmp_path / "in" / "a.raw").rename(tmp_path / "a.raw")
    text = (tmp_path / "in" / "a.mhd").read_text().replace("= a.raw", f"= {name}")
    (tmp_path / "in" / "a.mhd").write_text(text)
    source = VolumeFrame(tmp_path / "in" / "a.mhd", 0)
    for look in (lambda: source.size, lambda: source.paths, source.read):
        with pytest.raises(ValueError, match="names no data file beside it; expected a line ElementDataFile"):
            look()


@pytest.mark.parametrize("suffix, name", [(".nii.gz", "nibabel"), (".mhd", "SimpleITK")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, suffix, name):
    write_patient(tmp_path / "patient0001", 0, suffix)
    without(monkeypatch, name)
    refuse(camus.read, tmp_path, rf"needs {name}: pip install ccsam-hf\[data\]", ImportError)


# --- COCO ------------------------------------------------------------------------------------------------------------


def test_coco_run_lengths(tmp_path):
    truths = write_coco(tmp_path)
    assert_read_back(coco.read(tmp_path, notes := []), truths, tmp_path.name)
    assert notes == []


@pytest.mark.parametrize(
    "images, json_name", [(".", "labels.json"), ("images", "labels.json"), (".", "annotations.json")]
)
def test_coco_places_of_one_file(tmp_path, images, json_name):
    truths = write_coco(tmp_path, images, json_name)
    write_json(tmp_path / "other.json", {"images": []})
    (tmp_path / "text.json").write_text("no json")
    assert_read_back(coco.read(tmp_path, notes := []), truths, tmp_path.name)
    assert notes == []


@pytest.mark.parametrize("images, year", [("{}2017", "2017"), ("{}2017", ""), ("{}", ""), ("images/{}", "")])
def test_coco_with_a_file_a_split(tmp_path, images, year):
    splits = {"train": "train", "val": "validation", "test": "test"}
    truths = []
    for seed, (word, split) in enumerate(splits.items()):
        part = write_coco(tmp_path, images.format(word), f"annotations/instances_{word}{year}.json", seed=10 * seed)
        fields = [(f"{split}/{truth.name}", truth) for truth in part]
        truths += [Truth(name, truth.target, truth.image, truth.mask, truth.class_id, split) for name, truth in fields]
    truths.sort(key=lambda truth: (truth.name, truth.class_id))
    assert_read_back(coco.read(tmp_path, notes := []), truths, tmp_path.name)
    assert notes == [
        f"{tmp_path}: 2 name(s) stand in several splits, for instance 'a': the split is put in front of all names"
    ]


@pytest.fixture
def square(tmp_path) -> tuple[Path, dict]:
    """One image of 6 x 9 pixels with a polygon, and the content of its json file."""
    write_image(tmp_path / "images" / "sub" / "a.b.png", np.arange(54, dtype=np.uint8).reshape(6, 9))
    content = {
        "images": [{"id": 1, "file_name": "sub/a.b.png", "height": 6, "width": 9}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 4, 1, 4, 5, 1, 5]]}],
        "categories": [{"id": 3, "name": "breast lesion"}],
    }
    write_json(tmp_path / "annotations.json", content)
    return tmp_path, content


def change(square, segmentation=None, **fields) -> Path:
    """Write the json file anew with another segmentation or other lists."""
    directory, content = square
    if segmentation is not None:
        content["annotations"][0]["segmentation"] = segmentation
    write_json(directory / "annotations.json", content | fields)
    return directory


def test_coco_polygons(square):
    (case,) = coco.read(square[0], [])
    expected = np.zeros((6, 9), dtype=bool)
    expected[1:5, 1:4] = True
    case.check()
    assert (case.name, case.target, case.class_id) == ("sub/a.b", "breast lesion", 3)
    assert np.array_equal(case.mask, expected)
    (case,) = coco.read(change(square, [[1, 1, 4, 1, 4, 5, 1, 5], [6, 2, 8, 2, 8, 3, 6, 3]]), [])
    expected[2, 6:8] = True
    assert np.array_equal(case.mask, expected)
    assert case == coco.read(square[0], [])[0] and hash(case.mask_source)


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((37, 53)) < rng.choice([0.02, 0.5, 0.98])
    mask[0, 0] = seed % 2
    mask[:, 20:40] = seed > 2  # long runs
    encoded = compressed(mask)
    assert coco.run_lengths(encoded["counts"]) == run_lengths(mask)
    coco.check_segmentation(encoded, mask.shape)
    assert np.array_equal(coco.fill(encoded, mask.shape), mask)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([], "its segmentation is empty; expected an outline, a box alone is no mask"),
        ([[1, 1, 4, 4]], "a polygon is .*; expected x and y of at least 3 points"),
        ([[1, 1, 4, 1, 4, 5, 1]], "expected x and y of at least 3 points"),
        ([1, 1, 4, 1, 4, 5], "a polygon is 1; expected"),
        ([[1, 1, 4, 1, 1e9, 5]], "a polygon has x outside the image of width 9"),
        ([[1, float("nan"), 4, 1, 4, 5]], "a polygon has y outside the image of height 6"),
        ([[1, "1", 4, 1, 4, 5]], "annotation 5 cannot be used"),
        ("polygon", "annotation 5 cannot be used"),
        ({"counts": [54]}, "annotation 5 cannot be used: 'size'"),
        ({"size": [9, 6], "counts": [54]}, r"of size \[9, 6\] and its image of \[6, 9\]"),
        ({"size": [6, 9], "counts": [20, 5]}, "add up to 25 pixels; expected 54, none below 0"),
        ({"size": [6, 9], "counts": [60, -6]}, "add up to 54 pixels; expected 54, none below 0"),
        ({"size": [6, 9], "counts": []}, "add up to 0 pixels; expected 54"),
        ({"size": [6, 9], "counts": ""}, "add up to 0 pixels; expected 54"),
        ({"size": [6, 9], "counts": "d024000"}, "pixels; expected 54"),
        ({"size": [6, 9], "counts": "d02400000:Z"}, "its compressed run lengths break off"),
        ({"size": [6, 9], "counts": "d0~2400000:"}, "a character that COCO does not use"),
    ],
)
def test_segmentations_that_pycocotools_would_misread_are_refused(square, segmentation, message):
    refuse(coco.read, change(square, segmentation), message)


def test_an_image_without_annotation_is_empty_where_one_category_is_known(square):
    directory, content = square
    write_image(directory / "images" / "b.png", np.zeros((6, 9), dtype=np.uint8))
    change(square, images=[*content["images"], {"id": 2, "file_name": "b.png", "height": 6, "width": 9}])
    first, second = coco.read(directory, notes := [])
    assert (first.name, first.target, first.class_id) == ("b", "breast lesion", 3) and not first.mask.any()
    assert first.mask.shape == (6, 9) and second.mask.any() and notes == []
    two = [{"id": 3, "name": "breast lesion"}, {"id": 4, "name": "cyst"}]
    (case,) = coco.read(
        change(
            square,
            images=[*content["images"], {"id": 2, "file_name": "b.png", "height": 6, "width": 9}],
            categories=two,
        ),
        notes,
    )
    assert case.name == "sub/a.b"
    assert "1 image(s) have no annotation, for instance 'b': they are left out" in notes[0]
    assert "1 image(s) give no case, for instance" in notes[1] and "b.png" in notes[1]


@pytest.mark.parametrize(
    "name", ["/etc/a.png", "../a.png", "sub/../../a.png", "..\\a.png", "C:\\a.png", "\\\\x\\a.png"]
)
def test_a_file_name_that_leads_elsewhere_is_refused(square, name):
    directory, content = square
    refuse(coco.read, change(square, images=[content["images"][0] | {"file_name": name}]), "expected a path within")


def test_coco_files_that_contradict_themselves_are_refused(square):
    directory, content = square
    image, annotation, category = content["images"][0], content["annotations"][0], content["categories"][0]
    other = image | {"id": 2, "file_name": "b.png"}
    for fields, message in (
        (
            {"images": [image, other], "annotations": [annotation | {"image_id": 2}]},
            "1 image.s. without a file.*b.png",
        ),
        ({"annotations": [annotation | {"image_id": 9}]}, "does not list, for instance image 9 with category 3"),
        ({"annotations": [annotation | {"category_id": 9}]}, "does not list, for instance image 1 with category 9"),
        ({"images": [image, image]}, "has 1 image id.s. twice, for instance 1"),
        ({"images": [image, image | {"id": 2}]}, "has 1 image.s. twice, for instance 'sub/a.b'"),
        ({"categories": [category, category]}, "has 1 category id.s. twice"),
        ({"categories": [category, category | {"id": 4}]}, "has 1 category.s. twice, for instance 'breast lesion'"),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 3}]}, "an entry that cannot be used .*segmentation"),
        ({"images": [{"id": 1, "file_name": "sub/a.b.png"}]}, "an entry that cannot be used .*height"),
        ({"categories": [{"id": "x", "name": "y"}]}, "an entry that cannot be used"),
        ({"images": [image | {"height": 9, "width": 6}]}, r"has size \(9, 6\) and its image .* \(6, 9\)"),
        ({"annotations": [], "images": []}, "holds no case: no image with an annotation"),
        ({"annotations": None}, "is no file of COCO instances; expected an object with the lists images, annotations"),
    ):
        refuse(coco.read, change(square, **fields), message)


def test_coco_without_one_clear_file_is_refused(square):
    directory, content = square
    write_json(directory / "annotations" / "instances_train.json", content)
    refuse(coco.read, directory, "are both there; expected one file, or one a split: remove one")
    (directory / "annotations.json").unlink()
    write_json(directory / "annotations" / "instances_train2017.json", content)
    refuse(coco.read, directory, "is the second file of its split or names none; expected at most one")
    (directory / "annotations" / "instances_train2017.json").rename(directory / "annotations" / "instances_fold1.json")
    refuse(coco.read, directory, "instances_fold1.json is the second file of its split or names none")
    for path in (directory / "annotations").iterdir():
        path.unlink()
    refuse(coco.read, directory, "layout 'coco' needs one", FileNotFoundError)
    for name in ("x.json", "y.json"):
        (directory / name).write_text(json.dumps(content))
    refuse(coco.read, directory, "has 2 json files of COCO; expected one: call it annotations.json")
    (directory / "annotations.json").write_text("[" * 10)
    refuse(coco.read, directory, "annotations.json cannot be read as json")


def test_polygons_without_pycocotools_name_the_extra(square, monkeypatch):
    (case,) = coco.read(square[0], [])
    without(monkeypatch, "pycocotools")
    with pytest.raises(ImportError, match=r"need pycocotools: pip install ccsam-hf\[data\]"):
        _ = case.mask


# --- DICOM -----------------------------------------------------------------------------------------------------------


def test_dicom_images_loops_and_segments(tmp_path):
    truths = []
    for name, spacing in (("a", SPACING), ("b", None)):
        image, labels = heart(len(truths))
        write_dicom(tmp_path / "images" / f"{name}.dcm", image, patient="P7" if name == "a" else "", spacing=spacing)
        write_image(tmp_path / "masks" / f"{name}.png", (labels == 2).astype(np.uint8))
        truths.append(
            Truth(name, "object", image, labels == 2, patient_id="P7" if name == "a" else None, spacing_mm=spacing)
        )
    frames = [heart(10 + i) for i in range(4)]
    write_dicom(tmp_path / "images" / "loop.dcm", np.stack([image for image, _ in frames]), spacing=None)
    for i in (0, 2):
        write_image(tmp_path / "masks" / f"loop_{i:03d}.png", (frames[i][1] == 1).astype(np.uint8) * 255)
        truths.append(Truth(f"loop_{i:03d}", "object", frames[i][0], frames[i][1] == 1, patient_id="loop"))
    image, labels = (values[:61, :83] for values in heart(20))  # an odd number of pixels
    write_dicom(tmp_path / "images" / "seg.DCM", image, patient=" P8 ")
    masks = {value: (target, labels == value) for value, target in CLASSES.items()}
    write_seg(tmp_path / "masks" / "seg.dcm", masks)
    truths += [
        Truth("seg", target, image, mask, value, None, "P8", SPACING) for value, (target, mask) in masks.items()
    ]
    assert_read_back(dicom.read(tmp_path, notes := []), truths, tmp_path.name)
    assert notes == [f"{tmp_path}: 2 frame(s) of loops have no mask: they are left out"]


@pytest.fixture
def dicoms(tmp_path) -> Path:
    """An image of one frame with a mask."""
    image, labels = heart(0)
    write_dicom(tmp_path / "images" / "a.dcm", image, patient="P1")
    write_image(tmp_path / "masks" / "a.png", (labels == 1).astype(np.uint8))
    return tmp_path


def test_sixteen_bits_become_eight(dicoms):
    values = np.arange(64 * 88, dtype=np.uint16).reshape(SIZE) * 11
    write_dicom(dicoms / "images" / "a.dcm", values)
    (case,) = dicom.read(dicoms, [])
    assert np.array_equal(case.image, np.rint(values / 65535 * 255))


def test_colour_becomes_grey(dicoms, rng):
    values = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    colour = {"Rows": SIZE[0], "Columns": SIZE[1], "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    write_dicom(dicoms / "images" / "a.dcm", values.reshape(SIZE[0], -1), **colour, PlanarConfiguration=0)
    (case,) = dicom.read(dicoms, [])
    assert np.abs(case.image - values @ [0.299, 0.587, 0.114]).max() <= 1


def test_a_table_says_more_than_the_header(dicoms):
    (dicoms / "cases.csv").write_text(
        "name,target,split,patient_id,mm_per_row,mm_per_column\na,cyst,test,P9,0.1,0.2\n"
    )
    (case,) = dicom.read(dicoms, [])
    assert (case.target, case.split, case.patient_id, case.spacing_mm) == ("cyst", "test", "P9", (0.1, 0.2))
    (dicoms / "cases.csv").write_text("name,target\na,cyst\n")
    (case,) = dicom.read(dicoms, [])
    assert (case.target, case.split, case.patient_id, case.spacing_mm) == ("cyst", None, "P1", SPACING)
    (dicoms / "cases.csv").write_text("name,target\nz,cyst\n")
    refuse(dicom.read, dicoms, "names 1 case.s. without an image, for instance 'z'")


def test_segments_are_found_by_the_number_of_their_frame(dicoms):
    _, labels = heart(0)
    (dicoms / "masks" / "a.png").unlink()
    masks = {1: ("cyst", labels == 1), 4: ("", labels == 2)}
    write_seg(dicoms / "masks" / "a.dcm", masks, order=[4, 1])
    (dicoms / "cases.csv").write_text("name,target,split\na,nodule,train\n")
    first, second = dicom.read(dicoms, notes := [])
    assert [(case.target, case.class_id, case.split) for case in (first, second)] == [
        ("cyst", 1, "train"),
        ("object", 4, "train"),
    ]
    assert np.array_equal(first.mask, labels == 1) and np.array_equal(second.mask, labels == 2)
    assert first.image_source == second.image_source
    assert "calls 1 image(s) other than their SEG files do, for instance 'a'" in notes[0]


def test_segmentations_of_another_kind_are_refused(dicoms):
    _, labels = heart(0)
    masks = {1: ("cyst", labels == 1), 2: ("rim", labels == 2)}
    path = dicoms / "masks" / "a.dcm"
    write_seg(path, masks)
    refuse(dicom.read, dicoms, "has a.png and a.dcm; expected one of them")
    (dicoms / "masks" / "a.png").unlink()
    write_seg(path, masks, SegmentationType="FRACTIONAL")
    refuse(dicom.read, dicoms, "type FRACTIONAL; expected a DICOM SEG of type BINARY: export the mask as PNG")
    write_dicom(path, labels)
    refuse(dicom.read, dicoms, "and type None; expected a DICOM SEG of type BINARY")
    write_seg(path, masks, order=[1, 1])
    refuse(dicom.read, dicoms, r"of the segments \[1, 1\] and describes \[1, 2\]; expected one frame for each")
    write_seg(path, masks | {3: ("more", labels == 3)}, NumberOfFrames=2)
    refuse(dicom.read, dicoms, "has 2 frame.s. of the segments .*; expected one frame for each")
    write_seg(path, {1: ("cyst", (labels == 1).T)})
    refuse(dicom.read, dicoms, r"a.dcm has size \(88, 64\) and its image .* \(64, 88\)")
    write_dicom(dicoms / "images" / "a.dcm", np.stack([labels, labels]))
    refuse(dicom.read, dicoms, "is a mask of a loop; expected masks/a_<frame>.png: export its frames")


@pytest.mark.parametrize("name", ["b.png", "a_000.png", "b.dcm", "a.bmp"])
def test_a_mask_without_its_image_is_refused(dicoms, name):
    (dicoms / "masks" / name).write_bytes((dicoms / "masks" / "a.png").read_bytes())
    refuse(
        dicom.read, dicoms, f"1 case.s. have no image, for instance '{name}'; expected an image and masks/<name>.png"
    )


@pytest.mark.parametrize("name", ["loop.png", "loop_1.png", "loop_0001.png", "loop_002.png"])
def test_a_mask_of_no_frame_of_its_loop_is_refused(dicoms, name):
    write_dicom(dicoms / "images" / "loop.dcm", np.stack([heart(1)[0], heart(2)[0]]))
    write_image(dicoms / "masks" / "loop_001.png", heart(2)[1])
    assert [case.name for case in dicom.read(dicoms, [])] == ["a", "loop_001"]
    write_image(dicoms / "masks" / name, heart(2)[1])
    refuse(dicom.read, dicoms, f"have no image, for instance '{name}'")


@pytest.mark.parametrize("change", ["mirrored", "spacing"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd"])
def test_a_mask_volume_on_another_grid_than_its_image_is_refused(tmp_path, change, suffix):
    sitk = pytest.importorskip("SimpleITK")
    pytest.importorskip("nibabel")
    folder = tmp_path / "patient0001"
    folder.mkdir()
    for view in ("2CH", "4CH"):
        for phase in ("ED", "ES"):
            for end in ("", "_gt"):
                volume = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(1, 3, 4) % 4)
                volume.SetSpacing((0.3, 0.15, 1))
                if end and change == "mirrored":
                    volume.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
                if end and change == "spacing":
                    volume.SetSpacing((0.3, 0.3, 1))
                sitk.WriteImage(volume, str(folder / f"patient0001_{view}_{phase}{end}{suffix}"))
    what = "direction of rows" if change == "mirrored" else "pixel spacing"
    refuse(camus.read, tmp_path, f"_gt{suffix} has the {what}.*resample the mask onto its image")


def test_dicom_files_are_known_by_content_and_reports_among_them_are_named(dicoms):
    (dicoms / "images" / "a.dcm").rename(dicoms / "images" / "1.2.840.7")
    (dicoms / "masks" / "a.png").rename(dicoms / "masks" / "1.2.840.7.png")
    write_dicom(dicoms / "images" / "1.2.840.8", heart(1)[0])
    write_image(dicoms / "masks" / "1.2.840.8.png", heart(1)[1])
    report = pytest.importorskip("pydicom").dcmread(dicoms / "images" / "1.2.840.8")
    del report.PixelData, report.Rows, report.Columns
    report.save_as(dicoms / "images" / "1.2.840.9")
    cases = dicom.read(dicoms, notes := [])
    assert [case.name for case in cases] == ["1.2.840.7", "1.2.840.8"]
    assert "1 file(s) in images/ are no DICOM images" in notes[0] and "1.2.840.9" in notes[0]


def test_a_seg_file_that_refers_to_another_image_is_refused(dicoms):
    dataset = pytest.importorskip("pydicom").dataset.Dataset
    uid = pytest.importorskip("pydicom").dcmread(dicoms / "images" / "a.dcm").SOPInstanceUID
    (dicoms / "masks" / "a.png").unlink()
    for referred in (uid, "1.2.3.999"):
        instance, series = dataset(), dataset()
        instance.ReferencedSOPInstanceUID = referred
        series.ReferencedInstanceSequence = [instance]
        segments = {1: ("cyst", heart(0)[1] == 1)}
        write_seg(dicoms / "masks" / "a.dcm", segments, ReferencedSeriesSequence=[series])
        if referred == uid:
            assert [case.target for case in dicom.read(dicoms, [])] == ["cyst"]
    refuse(dicom.read, dicoms, "a.dcm refers to the image 1.2.3.999 and the image of its name is")


def test_a_dicom_directory_that_lacks_something_is_refused(dicoms):
    (dicoms / "images" / "notes.txt").touch()
    assert len(dicom.read(dicoms, notes := [])) == 1
    assert notes == [
        f"{dicoms}: 1 file(s) in images/ are no DICOM images, such as reports, and not read, for instance notes.txt"
    ]
    write_dicom(dicoms / "images" / "c.dicom", heart(1)[0])
    refuse(dicom.read, dicoms, "1 case.s. have no mask, for instance 'c'")
    (dicoms / "images" / "c.dicom").rename(dicoms / "images" / "a.dicom")
    refuse(dicom.read, dicoms, "share the name 'a': rename one of them")
    for path in (dicoms / "images").iterdir():
        path.unlink()
    refuse(dicom.read, dicoms, "holds no DICOM file; expected <name>.dcm or <name>.dicom")
    (dicoms / "masks").rename(dicoms / "labels")
    refuse(dicom.read, dicoms, "has no folder 'masks'; layout 'dicom' needs images/ and masks/", FileNotFoundError)


def test_damaged_dicom_files_are_refused(dicoms):
    path = dicoms / "images" / "a.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])  # the header is whole
    (case,) = dicom.read(dicoms, [])
    with pytest.raises(ValueError, match=r"a\.dcm is not a DICOM image that can be read"):
        _ = case.image
    for content in (whole[:200], b"no DICOM"):
        path.write_bytes(content)
        refuse(dicom.read, dicoms, r"a\.dcm is not a DICOM file that can be read .*; expected a complete one")
    path.write_bytes(whole)
    (dicoms / "masks" / "a.png").unlink()
    write_seg(dicoms / "masks" / "a.dcm", {1: ("cyst", heart(0)[1] == 1)})
    seg = dicoms / "masks" / "a.dcm"
    seg.write_bytes(seg.read_bytes()[:-100])
    (case,) = dicom.read(dicoms, [])
    with pytest.raises(ValueError, match=r"a\.dcm is not a DICOM file that can be read"):
        _ = case.mask


def test_dicom_without_pydicom_names_the_extra(dicoms, monkeypatch):
    without(monkeypatch, "pydicom")
    refuse(dicom.read, dicoms, r"needs pydicom: pip install ccsam-hf\[data\]", ImportError)

"""Published data sets of images and cine loops: every sample is read back, and what does not fit is said.

The data sets are simulated in the layouts of the releases (`layouts_of_images`).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ccsam_hf.data.cases import Case
from ccsam_hf.data.readers import ddti, hmc_qu, tg3k, tn3k, udiat, us30k
from ccsam_hf.data.readers.pairs import JpegMask, parse_xml, patient_of
from layouts_of_images import (
    MASKS,
    SIZE,
    archived,
    archived_camus,
    outlines_text,
    scene,
    write_annotations,
    write_cycles,
    write_ddti_copy,
    write_ddti_published,
    write_hmc_qu,
    write_hmc_qu_unpacked,
    write_image,
    write_json,
    write_list,
    write_loop,
    write_masks,
    write_tg3k,
    write_tn3k,
    write_udiat,
    write_us30k,
)


def read(reader, directory: Path) -> tuple[list[Case], list[str]]:
    notes: list[str] = []
    return reader.read(directory, notes), notes


def assert_read_back(cases: list[Case], truths) -> None:
    """Every sample, in order, with all that is known of it."""

    def known(item):
        return item.name, item.target, item.dataset, item.class_id, item.split, item.patient_id

    assert [known(case) for case in cases] == [known(truth) for truth in truths]
    for case, truth in zip(cases, truths, strict=True):
        case.check()
        assert case.size == truth.image.shape
        assert case.image.dtype == np.uint8 and np.array_equal(case.image, truth.image), case.name
        assert case.mask.dtype == bool and np.array_equal(case.mask, truth.mask), case.name
        assert case.category is None and case.spacing_mm is None


@pytest.mark.parametrize(
    "write, reader",
    [
        (write_us30k, us30k),
        (write_tn3k, tn3k),
        (write_tg3k, tg3k),
        (write_ddti_copy, ddti),
        (write_ddti_published, ddti),
        (write_udiat, udiat),
        (write_hmc_qu, hmc_qu),
        (write_hmc_qu_unpacked, hmc_qu),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_release_is_read_back_sample_by_sample(write, reader, tmp_path):
    truths = write(tmp_path)
    cases, _ = read(reader, tmp_path)
    assert_read_back(cases, truths)
    again, _ = read(reader, tmp_path)
    assert cases == again  # sources compare by what they read


@pytest.mark.parametrize("reader", [us30k, tn3k, tg3k, ddti, udiat, hmc_qu])
def test_a_directory_of_another_kind_is_refused(reader, tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read(reader, tmp_path)


# --- us30k -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def us30k_directory(tmp_path) -> Path:
    """One image of BUSI in train and one of CAMUS in test."""
    archived(tmp_path, "Breast-BUSI", "benign0001", "breast lesion", 1, "BUSI", "train")
    archived_camus(tmp_path, "0001_2CH_000", 1, "test")
    write_list(tmp_path / "MainPatient" / "train.txt", "1/Breast-BUSI/benign0001")
    write_list(tmp_path / "MainPatient" / "test.txt", "Echocardiography-CAMUS/0001_2CH_000")
    return tmp_path


def splits(cases: list[Case]) -> dict[str, str | None]:
    assert len({(case.name, case.split) for case in cases}) == len({case.name for case in cases})
    return {case.name: case.split for case in cases}


def test_us30k_is_found_in_the_folder_above(tmp_path):
    truths = write_us30k(tmp_path / "US30K")
    cases, _ = read(us30k, tmp_path)
    assert_read_back(cases, truths)


def test_the_classes_of_an_image_share_its_image_source(us30k_directory):
    _, *camus = read(us30k, us30k_directory)[0]
    assert [case.class_id for case in camus] == [1, 2, 3]
    assert len({case.image_source for case in camus}) == 1
    assert len({case.mask_source for case in camus}) == 3


def test_us30k_accepts_class_ids_in_test_lists_blank_lines_windows_line_ends_and_endings(us30k_directory):
    test_list = us30k_directory / "MainPatient" / "test.txt"
    lines = [f"{class_id}/Echocardiography-CAMUS/0001_2CH_000.png" for class_id in (1, 2, 3)]
    test_list.write_bytes("\r\n".join(["\ufeff" + lines[0], "", *lines[1:], " ", ""]).encode("utf-8"))
    cases, notes = read(us30k, us30k_directory)
    assert splits(cases) == {"0001_2CH_000": "test", "benign0001": "train"} and notes == []


def test_us30k_reads_jpeg_images_and_labels(us30k_directory):
    case = scene("breast lesion", 9)
    folder = us30k_directory / "Breast-BUSI"
    image = write_image(folder / "img" / "benign0009.jpg", case.image)
    write_image(folder / "label" / "benign0009.jpg", case.mask * 255)
    found = read(us30k, us30k_directory)[0][1]
    assert np.array_equal(found.image, image) and np.array_equal(found.mask, case.mask)


def test_either_folder_name_of_tg3k_is_followed_to_the_other(tmp_path):
    truth = archived(tmp_path, "ThyroidGland-TG3K", "trainval0000", "thyroid gland", 1, "TG3K", "train")
    write_list(tmp_path / "MainPatient" / "train.txt", "1/ThyroidNodule-TG3K/trainval0000")
    cases, notes = read(us30k, tmp_path)
    assert_read_back(cases, truth)
    assert len(notes) == 1 and "ThyroidNodule-TG3K/trainval0000 in ThyroidGland-TG3K: they are read there" in notes[0]

    archived(tmp_path, "ThyroidNodule-TG3K", "trainval0000", "thyroid gland", 2, "TG3K", "train")
    with pytest.raises(ValueError, match="1 image.s. of TG3K lie in ThyroidGland-TG3K and in ThyroidNodule-TG3K"):
        read(us30k, tmp_path)


def test_data_sets_that_are_not_part_of_us30k_are_left_out_and_counted(us30k_directory):
    for name in ("a", "b"):
        archived(us30k_directory, "Breast-STU", name, "breast lesion", 1, "", None)
    write_list(us30k_directory / "MainPatient" / "val.txt", "1/Breast-STU/a", "2/Breast-XYZ/b")
    cases, notes = read(us30k, us30k_directory)
    assert {case.dataset for case in cases} == {"BUSI", "CAMUS"}
    assert len(notes) == 2
    assert "folders that are not part of US30K are left out: Breast-STU (2 images)" in notes[0]
    assert (
        "lists name data sets that are not part of US30K: Breast-STU (1 entries), Breast-XYZ (1 entries)" in notes[1]
    )


def test_listed_data_sets_that_are_not_here_are_noted_and_listed_images_that_are_missing_refused(us30k_directory):
    train_list = us30k_directory / "MainPatient" / "train.txt"
    write_list(train_list, "1/Breast-BUSI/benign0001", "1/ThyroidNodule-TN3K/trainval0001")
    _, notes = read(us30k, us30k_directory)
    assert len(notes) == 1 and "lists name data sets that are not here: TN3K (1 images)" in notes[0]
    write_list(train_list, "1/Breast-BUSI/benign0001", "1/Breast-BUSI/benign0003", "1/Breast-BUSI/benign0002")
    with pytest.raises(ValueError, match="2 listed image.s. have no file, for instance BUSI/benign0002"):
        read(us30k, us30k_directory)


def test_images_in_no_list_are_kept_without_a_split_and_noted(us30k_directory):
    archived(us30k_directory, "Breast-BUSI", "benign0002", "breast lesion", 2, "BUSI", None)
    cases, notes = read(us30k, us30k_directory)
    assert splits(cases) == {"0001_2CH_000": "test", "benign0001": "train", "benign0002": None}
    assert len(notes) == 1 and "1 image(s) stand in no list, for instance BUSI/benign0002" in notes[0]


def test_classes_that_the_lists_leave_out_share_the_split_of_the_others_and_are_noted(us30k_directory):
    write_list(us30k_directory / "MainPatient" / "test.txt", "3/Echocardiography-CAMUS/0001_2CH_000")
    cases, notes = read(us30k, us30k_directory)
    assert [case.split for case in cases if case.dataset == "CAMUS"] == ["test"] * 3
    assert len(notes) == 1 and "of 1 image(s) the lists name some classes only" in notes[0]


def test_the_three_main_lists_decide_over_the_others(us30k_directory):
    lists = us30k_directory / "MainPatient"
    archived(us30k_directory, "Breast-BUSI", "benign0002", "breast lesion", 2, "BUSI", "validation")
    write_list(lists / "val-Breast-BUSI.txt", "1/Breast-BUSI/benign0001", "1/Breast-BUSI/benign0002")
    cases, notes = read(us30k, us30k_directory)
    assert splits(cases) == {"0001_2CH_000": "test", "benign0001": "train", "benign0002": "validation"}
    assert len(notes) == 1 and "1 image(s) stand in another split in a list of a longer name" in notes[0]

    write_list(lists / "train-Breast-BUSI.txt", "1/Breast-BUSI/benign0002")
    with pytest.raises(ValueError, match="BUSI/benign0002 in train-Breast-BUSI.txt and val-Breast-BUSI.txt"):
        read(us30k, us30k_directory)


def test_main_lists_that_contradict_each_other_are_refused(us30k_directory):
    write_list(us30k_directory / "MainPatient" / "val.txt", "1/Breast-BUSI/benign0001")
    with pytest.raises(
        ValueError, match=r"1 image.s. stand in two splits, for instance BUSI/benign0001 in train\.txt"
    ):
        read(us30k, us30k_directory)


def test_lists_in_the_folder_of_a_data_set_are_read_only_where_the_main_folder_has_none(us30k_directory):
    own = us30k_directory / "Breast-BUSI" / "MainPatient"
    write_list(own / "val.txt", "benign0001")
    assert splits(read(us30k, us30k_directory)[0])["benign0001"] == "train"
    for path in (us30k_directory / "MainPatient").iterdir():
        path.unlink()
    cases, notes = read(us30k, us30k_directory)
    assert splits(cases) == {"0001_2CH_000": None, "benign0001": "validation"}
    assert "the lists in the data sets' own folders are read" in notes[0] and "stand in no list" in notes[1]
    (own / "val.txt").unlink()
    cases, notes = read(us30k, us30k_directory)
    assert splits(cases) == {"0001_2CH_000": None, "benign0001": None}
    assert len(notes) == 1 and "no image has a split" in notes[0]


@pytest.mark.parametrize(
    "line, message",
    [
        ("1/Breast-BUSI", r"train\.txt, line 2: '1/Breast-BUSI'; expected <class id>/<Dataset>/<name>"),
        ("1/Breast-BUSI/img/benign0001", "line 2: .*; expected <class id>/<Dataset>/<name>"),
        ("2/Breast-BUSI/benign0001", "names class 2; labels of Breast-BUSI have 1"),
        ("0/Echocardiography-CAMUS/0001_2CH_000", "names class 0; labels of Echocardiography-CAMUS have 1, 2, 3"),
    ],
)
def test_a_line_of_another_form_or_class_is_refused(us30k_directory, line, message):
    write_list(us30k_directory / "MainPatient" / "train.txt", "1/Breast-BUSI/benign0001", line)
    with pytest.raises(ValueError, match=message):
        read(us30k, us30k_directory)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"Breast-BUSI": 3}', "counts 3 classes in Breast-BUSI; expected 2, the background included"),
        ('{"Echocardiography-CAMUS": 2}', "counts 2 classes in Echocardiography-CAMUS; expected 4"),
        ("[2, 4]", "cannot be read"),
        ('{"Breast-BUSI": ', "cannot be read"),
    ],
)
def test_class_counts_that_do_not_fit_are_refused(us30k_directory, text, message):
    (us30k_directory / "MainPatient" / "class.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(us30k, us30k_directory)


def test_an_image_of_us30k_without_label_and_a_class_label_in_jpeg_are_refused(us30k_directory):
    label = us30k_directory / "Echocardiography-CAMUS" / "label" / "0001_2CH_000.png"
    label.rename(label.with_suffix(".jpg"))
    with pytest.raises(ValueError, match="blurs class ids into each other"):
        read(us30k, us30k_directory)
    label.with_suffix(".jpg").unlink()
    with pytest.raises(ValueError, match="1 case.s. have no mask, for instance '0001_2CH_000'"):
        read(us30k, us30k_directory)


# --- tn3k, tg3k, udiat -----------------------------------------------------------------------------------------------


def test_masks_in_jpeg_files_are_cut_at_half_brightness(tmp_path):
    (*_, truth) = write_tn3k(tmp_path)
    (*_, case) = read(tn3k, tmp_path)[0]
    stored = np.asarray(Image.open(case.mask_source.paths[0]))
    assert isinstance(case.mask_source, JpegMask)
    assert (stored > 0).sum() > truth.mask.sum()  # what a lossless reading would take
    assert np.array_equal(case.mask, truth.mask)


def test_without_the_split_file_the_images_have_no_split(tmp_path):
    write_tn3k(tmp_path / "tn3k")
    (tmp_path / "tn3k" / "tn3k-trainval-fold0.json").unlink()
    cases, notes = read(tn3k, tmp_path / "tn3k")
    assert [case.split for case in cases] == ["test"] * 2 + [None] * 3
    assert len(notes) == 1 and "the 3 images of trainval-image have no split" in notes[0]
    write_tg3k(tmp_path / "tg3k")
    (tmp_path / "tg3k" / "tg3k-trainval.json").unlink()
    cases, notes = read(tg3k, tmp_path / "tg3k")
    assert [case.split for case in cases] == [None] * 3
    assert len(notes) == 1 and "the 3 images have no split" in notes[0]


def test_positions_count_the_images_in_the_order_of_their_numbers(tmp_path):
    write_tg3k(tmp_path)
    for folder in ("thyroid-image", "thyroid-mask"):  # by name "10" comes before "2"
        for old, new in (("0000", "2"), ("0001", "10"), ("0002", "9")):
            (tmp_path / folder / f"{old}.jpg").rename(tmp_path / folder / f"{new}.jpg")
    write_json(tmp_path / "tg3k-trainval.json", {"train": [0], "val": [2]})
    cases, notes = read(tg3k, tmp_path)
    assert {case.name: case.split for case in cases} == {
        "trainval10": "validation",
        "trainval2": "train",
        "trainval9": None,
    }
    assert len(notes) == 1 and "leaves 1 image(s) out, for instance '9'" in notes[0]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"train": [0, 1], "val": [1, 2]}, "puts 1 image.s. into both train and val, for instance '0001'"),
        (
            {"train": [0, 1], "val": [2, 3, -1]},
            "names 2 position.s. without an image, for instance 3, and there are 3",
        ),
        ({"train": ["0000"], "val": []}, "names 1 position.s. without an image, for instance '0000'"),
        ({"train": [0]}, "cannot be read as a split"),
        ([0, 1], "cannot be read as a split"),
    ],
)
def test_split_files_that_do_not_fit_are_refused(tmp_path, content, message):
    write_tg3k(tmp_path)
    write_json(tmp_path / "tg3k-trainval.json", content)
    with pytest.raises(ValueError, match=message):
        read(tg3k, tmp_path)


def test_positions_of_images_that_are_not_numbered_are_refused(tmp_path):
    write_tg3k(tmp_path)
    for folder in ("thyroid-image", "thyroid-mask"):
        (tmp_path / folder / "0001.jpg").rename(tmp_path / folder / "one.jpg")
    with pytest.raises(ValueError, match="1 image.s. are not named by one, for instance 'one'"):
        read(tg3k, tmp_path)


def test_tn3k_needs_both_parts_and_a_mask_for_every_image(tmp_path):
    write_tn3k(tmp_path)
    (tmp_path / "test-mask" / "0001.jpg").unlink()
    with pytest.raises(ValueError, match="1 case.s. have no mask, for instance '0001'.*test-mask/<name>"):
        read(tn3k, tmp_path)
    (tmp_path / "test-image").rename(tmp_path / "test")
    with pytest.raises(FileNotFoundError, match="has no folder 'test-image'"):
        read(tn3k, tmp_path)


def test_udiat_is_found_in_the_folder_of_the_archive_and_names_are_unique(tmp_path):
    (tmp_path / "BUS").mkdir()
    truths = write_udiat(tmp_path / "BUS")
    cases, notes = read(udiat, tmp_path)
    assert_read_back(cases, truths)
    assert notes == []
    write_image(tmp_path / "BUS" / "original" / "000001.bmp", scene("breast lesion", 1).image)
    with pytest.raises(ValueError, match="share the name '000001'"):
        read(udiat, tmp_path)


# --- ddti ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_folder, mask_folder", ddti.PLACES)
def test_the_copy_of_ddti_is_found_in_each_of_its_places(tmp_path, image_folder, mask_folder):
    truths = write_ddti_copy(tmp_path, image_folder, mask_folder)
    cases, notes = read(ddti, tmp_path)
    assert_read_back(cases, truths)
    assert notes == []


def test_the_images_of_original_size_are_preferred_and_the_others_noted(tmp_path):
    truths = write_ddti_copy(tmp_path, *ddti.PLACES[1])
    write_ddti_copy(tmp_path, *ddti.PLACES[3])
    cases, notes = read(ddti, tmp_path)
    assert_read_back(cases, truths)
    assert len(notes) == 1 and "1_or_data/image is read, 2_preprocessed_data/stage1/p_image is not" in notes[0]


def test_images_without_outline_are_kept_with_an_empty_mask_and_noted(tmp_path):
    write_ddti_published(tmp_path)
    cases, notes = read(ddti, tmp_path)
    assert len(notes) == 1 and "1 image(s) have no outline, for instance 12_2.jpg: their masks are empty" in notes[0]
    assert [case.name for case in cases if not case.mask.any()] == ["12_2"]


def test_an_outline_includes_the_pixels_under_its_line(tmp_path):
    write_image(tmp_path / "1_1.jpg", np.zeros(SIZE))
    square = [{"x": x, "y": y} for x, y in ((10, 20), (14, 20), (14, 22), (10, 22))]
    write_annotations(tmp_path / "1.xml", {1: json.dumps([{"points": square}])})
    (case,) = read(ddti, tmp_path)[0]
    expected = np.zeros(SIZE, dtype=bool)
    expected[20:23, 10:15] = True
    assert np.array_equal(case.mask, expected)


def test_an_annotation_that_breaks_off_keeps_its_whole_outlines(tmp_path):
    truths = write_ddti_published(tmp_path)
    text = outlines_text(scene("thyroid nodule", 1).mask)
    assert text.endswith('"regionType": "freehand"}]')
    write_annotations(tmp_path / "1.xml", {1: text[:-15]})
    cases, notes = read(ddti, tmp_path)
    assert_read_back(cases, truths)
    assert (
        "annotations of 1 file(s) break off (1.xml): what is whole" in notes[0] and "0 outline(s) are lost" in notes[0]
    )


def test_all_annotations_that_break_off_are_named_in_one_note(tmp_path):
    truths = write_ddti_published(tmp_path)
    one = outlines_text(scene("thyroid nodule", 1).mask)
    write_annotations(tmp_path / "1.xml", {1: one[:-1] + "," + one[1 : len(one) // 2]})  # in the second outline
    for patient in ("2", "3"):  # in the only outline
        write_image(tmp_path / f"{patient}_1.jpg", scene("thyroid nodule", 1).image)
        write_annotations(tmp_path / f"{patient}.xml", {1: one[:40]})
    cases, notes = read(ddti, tmp_path)
    assert_read_back(cases, truths)
    assert "annotations of 1 file(s) break off (1.xml)" in notes[0] and "1 outline(s) are lost" in notes[0]
    assert "outlines of 2 patient(s) or image(s) cannot be read, they are left out (2_1: " in notes[1]
    assert "; 3_1: " in notes[1] and not any("2_1" in note for note in notes[2:])


def test_another_mark_of_an_image_whose_outlines_can_be_read_is_used(tmp_path):
    write_ddti_published(tmp_path)
    path = tmp_path / "1.xml"
    path.write_text(path.read_text().replace("<mark>", "<mark><image>1</image><svg>[5]</svg></mark><mark>", 1))
    cases, notes = read(ddti, tmp_path)
    assert "1_1" in {case.name for case in cases} and not any("left out" in note for note in notes)


def test_outlines_that_enclose_nothing_are_noted(tmp_path):
    write_ddti_published(tmp_path)
    dot = {"points": [{"x": 1, "y": 1}, {"x": 2, "y": 2}]}
    whole = json.loads(outlines_text(scene("thyroid nodule", 1).mask))
    write_annotations(tmp_path / "1.xml", {1: json.dumps([dot, *whole])})
    cases, notes = read(ddti, tmp_path)
    assert "1 outline(s) of fewer than 3 points are left out (1.xml)" in notes[0]
    assert cases[-1].mask.any() and not cases[-1].mask[1, 1]


def test_annotations_and_images_that_do_not_meet_are_refused(tmp_path):
    write_ddti_published(tmp_path)
    write_annotations(tmp_path / "12.xml", {3: outlines_text(scene("thyroid nodule", 1).mask)})
    with pytest.raises(ValueError, match=r"1 outlined image.s. are missing, for instance 12_3\.jpg"):
        read(ddti, tmp_path)
    write_image(tmp_path / "7_1.jpg", scene("thyroid nodule", 1).image)
    with pytest.raises(ValueError, match=r"7_1\.jpg belongs to no <n>\.xml"):
        read(ddti, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '[{"points": [{"x": 1}, {"x": 2}, {"x": 3}]}]',
        '[{"points": 5}]',
        "[5]",
        "5",
        "no outline",
    ],
)
def test_an_image_with_outlines_of_another_form_is_left_out_and_named(tmp_path, text):
    write_ddti_published(tmp_path)
    write_annotations(tmp_path / "1.xml", {1: text})
    cases, notes = read(ddti, tmp_path)
    assert {case.name for case in cases} == {"12_1", "12_2"}
    assert "outlines of 1 patient(s) or image(s) cannot be read, they are left out (1_1: outlines" in notes[0]


def test_a_file_that_is_no_xml_is_named_and_an_error_where_nothing_else_is_left(tmp_path):
    write_ddti_published(tmp_path)
    (tmp_path / "1.xml").write_text("<case><mark>")
    cases, notes = read(ddti, tmp_path)
    assert {case.name for case in cases} == {"12_1", "12_2"} and "left out (1: cannot be read as XML" in notes[0]
    (tmp_path / "12.xml").write_text("<case><mark>")
    with pytest.raises(ValueError, match="holds no case: no outline can be read, for instance of 1: cannot be read"):
        read(ddti, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_declares_entities_is_refused(tmp_path, encoding):
    bomb = '<!DOCTYPE case [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><case><mark><image>&b;</image></mark></case>'
    write_ddti_published(tmp_path)
    (tmp_path / "1.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'.encode(encoding))
    with pytest.raises(ValueError, match=r"1\.xml declares a document type"):
        parse_xml((tmp_path / "1.xml").read_bytes(), tmp_path / "1.xml")
    assert "left out (1: declares a document type" in read(ddti, tmp_path)[1][0]
    assert parse_xml(b"<case>&amp;</case>", tmp_path).text == "&"  # the five of XML itself need no declaration


# --- hmc-qu ----------------------------------------------------------------------------------------------------------


def test_masks_belong_to_the_frames_of_the_heart_cycle_in_the_table(tmp_path):
    write_hmc_qu(tmp_path)
    cases, notes = read(hmc_qu, tmp_path)
    assert [case.name for case in cases[:4]] == [f"ES0001 _4CH_1_{frame:03d}" for frame in (2, 3, 4, 5)]
    assert cases[0].image_source != cases[1].image_source
    assert len(notes) == 2
    assert "1 of 3 cine loops have no masks, for instance ES0001_2CH_1.avi: they are left out" in notes[0]
    assert "the masks of 2 loop(s) are resized to the frames" in notes[1] and "from (32, 40) to (64, 80)" in notes[1]


def test_masks_whose_last_axis_counts_the_frames_are_read_as_well(tmp_path):
    truths = write_hmc_qu(tmp_path, frames_last=True)
    assert_read_back(read(hmc_qu, tmp_path)[0], truths)


def test_masks_of_another_number_than_the_cycle_count_from_its_first_frame(tmp_path):
    truths = write_hmc_qu(tmp_path)
    write_cycles(tmp_path / "A4C.xlsx", {"ES0001 _4CH_1": (3, 7), "ES0002_4CH_1": (3, 6)})
    cases, notes = read(hmc_qu, tmp_path)
    assert_read_back(cases, truths)
    assert "1 file(s) hold another number of masks than their cycle" in notes[2]
    assert "Mask_ES0001 _4CH_1.mat (4 masks, cycle of 5 frames)" in notes[2]


def test_masks_of_frames_that_a_loop_does_not_have_are_refused(tmp_path):
    write_hmc_qu(tmp_path)
    for first in (0, 5):
        write_cycles(tmp_path / "A4C.xlsx", {"ES0001 _4CH_1": (first, first + 3), "ES0002_4CH_1": (3, 6)})
        with pytest.raises(ValueError, match=f"first mask belongs to frame {first} of ES0001 _4CH_1.avi, which has 7"):
            read(hmc_qu, tmp_path)


def test_without_a_table_masks_must_be_as_many_as_frames(tmp_path):
    write_hmc_qu(tmp_path / "release")
    (tmp_path / "release" / "A4C.xlsx").unlink()
    with pytest.raises(ValueError, match="holds 4 masks and ES0001 _4CH_1.avi 7 frames.*add A4C.xlsx"):
        read(hmc_qu, tmp_path / "release")
    frames = [scene("myocardium", seed) for seed in range(3)]
    write_loop(tmp_path / "own" / "loop.avi", [case.image for case in frames])
    write_masks(tmp_path / "own" / "Mask_loop.mat", np.stack([case.mask for case in frames]))
    cases, notes = read(hmc_qu, tmp_path / "own")
    assert notes == []
    for case, truth in zip(cases, frames, strict=True):
        assert np.array_equal(case.image, truth.image) and np.array_equal(case.mask, truth.mask)


def test_tables_that_do_not_fit_are_refused(tmp_path):
    write_hmc_qu(tmp_path)
    write_cycles(tmp_path / "A4C.xlsx", {"ES0001 _4CH_1": (3, 6)})
    with pytest.raises(ValueError, match="the table has no heart cycle of 'ES0002_4CH_1'"):
        read(hmc_qu, tmp_path)
    (tmp_path / "A4C.xlsx").write_bytes(b"no workbook")
    with pytest.raises(ValueError, match=r"A4C\.xlsx cannot be read as an Excel workbook"):
        read(hmc_qu, tmp_path)
    write_cycles(tmp_path / "A4C.xlsx", {}, head="LOOP")
    with pytest.raises(ValueError, match="has no head 'ECHO' in column A"):
        read(hmc_qu, tmp_path)


def test_masks_without_a_loop_and_loops_of_one_name_are_refused(tmp_path):
    write_hmc_qu(tmp_path)
    loop = tmp_path / "HMC-QU" / "A4C" / "ES0002_4CH_1.avi"
    write_loop(tmp_path / "copy" / loop.name, [scene("myocardium", 1).image])
    with pytest.raises(ValueError, match="share the name 'ES0002_4CH_1'"):
        read(hmc_qu, tmp_path)
    (tmp_path / "copy" / loop.name).unlink()
    loop.unlink()
    with pytest.raises(ValueError, match=r"1 file.s. of masks have no cine loop, for instance Mask_ES0002_4CH_1\.mat"):
        read(hmc_qu, tmp_path)


def test_damaged_loops_and_masks_are_refused(tmp_path):
    write_hmc_qu(tmp_path)
    masks = tmp_path / MASKS / "Mask_ES0001 _4CH_1.mat"
    cases, _ = read(hmc_qu, tmp_path)
    whole = masks.read_bytes()
    for damaged in (whole[:-20], whole[:50], b"no matrix"):
        masks.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"Mask_ES0001 _4CH_1\.mat cannot be read"):
            _ = cases[0].mask
    savemat(masks, {"one": np.zeros((2, 3, 4)), "two": np.zeros((2, 3, 4))})
    with pytest.raises(ValueError, match="holds the variables .*; expected one array"):
        read(hmc_qu, tmp_path)
    loop = tmp_path / "HMC-QU" / "A4C" / "ES0001 _4CH_1.avi"
    write_loop(loop, [scene("myocardium", 1).image] * 2)
    with pytest.raises(ValueError, match="ends before frame 2"):
        _ = cases[0].image
    loop.write_bytes(b"no loop")
    with pytest.raises(ValueError, match=r"ES0001 _4CH_1\.avi cannot be read"):
        _ = cases[0].image
    with pytest.raises(ValueError, match=r"ES0001 _4CH_1\.avi cannot be read"):
        read(hmc_qu, tmp_path)


def test_without_pyav_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    write_hmc_qu(tmp_path)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"needs PyAV: pip install ccsam-hf\[data\]"):
        read(hmc_qu, tmp_path)


@pytest.mark.parametrize(
    "name, patient",
    [("0055_2CH_000", "0055"), ("ES0001 _4CH_1", "ES0001"), ("ES0001_4CH_1", "ES0001"), ("loop", None)],
)
def test_a_patient_is_the_part_of_a_name_before_the_first_mark(name, patient):
    assert patient_of(name) == patient


def test_hmc_qu_reads_a_loop_and_its_masks_once(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    truths = write_hmc_qu(tmp_path)
    cases, _ = read(hmc_qu, tmp_path)
    opened, loaded = [], []
    open_loop, loadmat = av.open, hmc_qu.loadmat
    monkeypatch.setattr(av, "open", lambda path: opened.append(path) or open_loop(path))
    monkeypatch.setattr(hmc_qu, "loadmat", lambda path, **given: loaded.append(path) or loadmat(path, **given))
    assert_read_back(cases, truths)
    loops = {case.image_source.path for case in cases}
    assert len(loaded) == len(loops) < len(cases)
    assert len(opened) == 2 * len(loops)  # for its times, and for its frames

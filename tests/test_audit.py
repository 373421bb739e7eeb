"""The audit: every kind of finding on planted defects, nothing on sound data, and the real cases."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ccsam_hf import image_files
from ccsam_hf.data import cases as cases_module
from ccsam_hf.data.audit import AuditReport, audit_cases, auditing, images_to_remove, looks
from ccsam_hf.data.audit.fingerprints import Match
from ccsam_hf.data.cases import Case, ImageFile, MaskFiles
from ccsam_hf.data.readers import list_cases
from ccsam_hf.data.simulator import TARGETS, simulate

BUSI = Path(__file__).resolve().parents[2] / "shared" / "breast-ultrasound" / "BUSI"
SIZE = (128, 144)
MARKS = ("marks at the object", "burnt-in marks")  # the simulator draws some of its own


@pytest.fixture(scope="session")
def scenes() -> list:
    return [simulate(TARGETS[i % 6], 7000 + i, SIZE) for i in range(12)]


@pytest.fixture
def cases(tmp_path, scenes) -> list[Case]:
    """Twelve sound cases of one data set: 0 to 5 train, 6 to 8 validate, 9 to 11 test."""
    splits = ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    return [
        case_of(tmp_path, f"{i:02d}", scene.image, scene.mask, split=split)
        for i, (scene, split) in enumerate(zip(scenes, splits, strict=True))
    ]


def case_of(directory: Path, name: str, image: np.ndarray, mask: np.ndarray, **fields) -> Case:
    """Write an image and its mask, bool or of grey values."""
    image_path, mask_path = directory / f"{name}.png", directory / f"{name}_mask.png"
    Image.fromarray(image).save(image_path)
    Image.fromarray(mask).save(mask_path)
    defaults = {"target": "lesion", "dataset": "D", "mask_source": MaskFiles((mask_path,))}
    return Case(name, image_source=ImageFile(image_path), **(defaults | fields))


def kinds(report: AuditReport) -> list[tuple[str, str, str]]:
    """(severity, kind, names of the images) of each finding but marks."""
    return [
        (finding.severity, finding.kind, " ".join(name for _, name in finding.images))
        for finding in report.findings
        if finding.kind not in MARKS
    ]


def removed(report: AuditReport) -> list[str]:
    return sorted(images_to_remove(report).get("D", {}))


def test_sound_cases_have_no_finding_and_are_counted(cases):
    report = audit_cases(cases)
    assert kinds(report) == [] and images_to_remove(report) == {}
    assert (report.counts["images"], report.counts["cases"]) == (12, 12)
    assert report.counts["datasets"]["D"]["validation"] == {"images": 3, "cases": 3}
    assert any("12 images the patient is unknown" in limit for limit in report.limits)


def test_equal_pixels_in_other_files_are_duplicates_within_a_split_and_leak_between_splits(cases, scenes, tmp_path):
    Image.fromarray(scenes[0].image).convert("RGB").save(tmp_path / "again.bmp")
    again = replace(cases[0], name="again", image_source=ImageFile(tmp_path / "again.bmp"))
    report = audit_cases([*cases, again])
    assert kinds(report) == [("warning", "duplicate", "00 again")] and removed(report) == ["again"]
    report = audit_cases([*cases, replace(again, split="test"), replace(again, name="third")])
    assert kinds(report) == [
        ("error", "leaking duplicate", "again 00 third"),
        ("warning", "duplicate", "00 third"),
    ]
    assert removed(report) == ["00", "third"]  # the test image stays


def test_a_mirrored_copy_leaks_from_the_split_that_counts_more(cases, scenes, tmp_path):
    copies = [
        case_of(tmp_path, f"copy {i}", np.ascontiguousarray(scenes[i].image[4:, ::-1]), scenes[i].mask[4:, ::-1])
        for i in (0, 7, 10)
    ]
    copies = [replace(copy, split=split) for copy, split in zip(copies, ("train", "train", "validation"), strict=True)]
    report = audit_cases([*cases, *copies])
    assert kinds(report) == [
        ("error", "leaking near duplicate", "07 copy 7"),
        ("error", "leaking near duplicate", "10 copy 10"),
        ("warning", "near duplicate", "00 copy 0"),
    ]
    assert removed(report) == ["copy 10", "copy 7"]  # alike images in one split stay
    first = report.findings[0]
    assert first.splits == ("validation", "train") and first.score > 0.8
    assert "mirrored left-right" in first.detail and "cropped or moved" in first.detail
    assert report.findings == audit_cases([*copies, *cases][::-1]).findings


def test_images_that_look_alike_are_noted_and_kept(cases, monkeypatch):
    weak = [Match(0, 1, 0.7, "", (1.04, 0.97), (0.02, 0.01)), Match(1, 9, 0.71, "", (1.04, 0.97), (0.02, 0.01))]
    monkeypatch.setattr(auditing, "find_matches", lambda *_: weak)
    filed = [replace(case, category=str(i)) for i, case in enumerate(cases)]
    report = audit_cases(filed)
    assert kinds(report) == [("note", "alike", "00 01 09")] and removed(report) == []
    (finding,) = (each for each in report.findings if each.kind == "alike")
    assert finding.detail == "correlation 0.70 to 0.71, cropped or moved; look whether they show one patient"


def test_copies_in_another_data_set_are_found(cases):
    other = replace(cases[0], dataset="E", name="x")
    (finding,) = [finding for finding in audit_cases([*cases, other]).findings if finding.kind not in MARKS]
    assert finding.images == (("D", "00"), ("E", "x")) and finding.detail == "equal pixels, in several data sets"


def test_images_of_one_patient_are_alike_in_one_split_and_leak_in_two(cases, scenes, tmp_path):
    frame = case_of(tmp_path, "frame", scenes[0].image[2:], scenes[0].mask[2:], split="train", patient_id="7")
    first = replace(cases[0], patient_id="7")
    assert kinds(audit_cases([first, *cases[1:], frame])) == []
    assert kinds(audit_cases([first, *cases[1:], replace(frame, patient_id="8")])) == [
        ("warning", "near duplicate", "00 frame")
    ]
    leaking = [replace(cases[0], patient_id="7"), replace(cases[9], patient_id="7"), *cases[1:9]]
    report = audit_cases(leaking)
    assert kinds(report) == [("error", "leaking patient", "09 00")] and removed(report) == ["00"]
    assert "1 in train, 0 in validation, 1 in test" in report.findings[0].detail
    same_pixels = replace(first, name="again")
    assert kinds(audit_cases([first, same_pixels])) == [("warning", "duplicate", "00 again")]


def test_one_picture_with_two_categories_or_two_masks_is_a_contradiction(cases, tmp_path, scenes):
    filed = [replace(cases[0], category="benign"), replace(cases[0], name="again", category="malignant")]
    report = audit_cases(filed)
    assert kinds(report) == [("error", "two categories", "00 again"), ("warning", "duplicate", "00 again")]
    assert report.findings[0].detail == "filed as benign and as malignant" and removed(report) == ["00", "again"]
    shifted = case_of(tmp_path, "shifted", scenes[0].image, np.roll(scenes[0].mask, 60, axis=1), split="train")
    report = audit_cases([cases[0], shifted])
    assert kinds(report) == [("warning", "contradicting masks", "00 shifted"), ("warning", "duplicate", "00 shifted")]
    assert removed(report) == ["00", "shifted"]


@pytest.mark.parametrize(
    "change, expected, goes",
    [
        (lambda mask: mask & False, ("warning", "empty mask"), False),
        (lambda mask: mask | True, ("error", "full mask"), True),
        (lambda mask: np.arange(mask.size).reshape(mask.shape) < 4, ("warning", "tiny mask"), False),
        (lambda mask: mask[:-3], ("error", "mask of another size"), True),
        (lambda mask: mask * np.uint8(200) + np.eye(*mask.shape, dtype=np.uint8), ("warning", "smeared mask"), False),
    ],
    ids=("empty", "full", "tiny", "size", "smeared"),
)
def test_masks_that_cannot_be_right(scenes, tmp_path, change, expected, goes):
    case = case_of(tmp_path, "a", scenes[0].image, change(scenes[0].mask))
    report = audit_cases([case])
    assert kinds(report) == [(*expected, "a")] and removed(report) == ["a"] * goes


def test_an_empty_mask_is_expected_where_the_category_is_normal(scenes, tmp_path):
    case = case_of(tmp_path, "a", scenes[0].image, scenes[0].mask & False, category="normal")
    assert kinds(audit_cases([case])) == [("note", "empty mask", "a")]


def test_label_maps_hold_the_classes_of_their_data_set_alone(scenes, tmp_path):
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[20:60, 20:60], labels[70:90, 20:60] = 1, 2
    path = tmp_path / "labels.png"

    def objects() -> list[Case]:
        first = case_of(tmp_path, "a", scenes[0].image, labels, mask_source=MaskFiles((path,), 1), target="ventricle")
        return [first, replace(first, mask_source=MaskFiles((path,), 2), target="atrium", class_id=2)]

    Image.fromarray(labels).save(path)
    report = audit_cases(objects())
    assert kinds(report) == [] and (report.counts["images"], report.counts["cases"]) == (1, 2)
    labels[100:110, 100:110] = 7
    Image.fromarray(labels).save(path)
    report = audit_cases(objects())
    assert kinds(report) == [("warning", "unknown label value", "a")]  # once for both objects
    assert report.findings[-1].detail == "labels.png holds 7; known are [0, 1, 2]"
    damaged = objects()
    path.write_text("no image")
    assert kinds(audit_cases(damaged)) == [("error", "unreadable mask", "a")]


def test_files_that_cannot_be_read_are_found_and_the_others_audited(cases):
    content = cases[0].image_source.path.read_bytes()
    cases[0].image_source.path.write_bytes(content[: len(content) // 2])
    cases[1].image_source.path.write_text("no image")
    cases[2].mask_source.paths[0].unlink()
    Image.fromarray(np.full(SIZE, 0.5, dtype=np.float32)).save(cases[3].image_source.path, format="TIFF")
    report = audit_cases(cases)
    assert kinds(report) == [
        ("error", "unreadable image", "00"),
        ("error", "unreadable image", "01"),
        ("error", "unreadable image", "03"),
        ("error", "unreadable mask", "02"),
    ]
    assert removed(report) == ["00", "01", "02", "03"]
    assert any("3 could not be read" in limit for limit in report.limits)


def test_marks_are_told_apart_by_where_they_are(scenes, tmp_path):
    grey = np.full((200, 220), 80, dtype=np.uint8)
    mask = np.zeros(grey.shape, dtype=bool)
    mask[60:100, 60:100] = True
    found = {}
    for name, x in (("far", 160), ("near", 95)):
        picture = Image.fromarray(grey)
        ImageDraw.Draw(picture).line((x, 70, x, 95), fill=255)
        found[name] = audit_cases([case_of(tmp_path, name, np.asarray(picture), mask)]).findings
    assert [finding.kind for finding in found["far"]] == ["burnt-in marks"]
    assert [finding.kind for finding in found["near"]] == ["marks at the object"]
    colored = np.stack([grey] * 3, axis=2)
    colored[70:80, 70:80] = (200, 80, 0)
    (finding,) = audit_cases([case_of(tmp_path, "colour", colored, mask)]).findings
    assert finding.detail == "100 pixels of thin bright strokes or colour, 100 of them at the object"


def test_each_file_is_decoded_once(cases, monkeypatch):
    decoded = []

    def decode(path):
        decoded.append(path)
        return cases_module.decode(path)

    def read_image(path):
        decoded.append(path)
        return image_files.read_image(path)

    monkeypatch.setattr(looks, "decode", decode)
    monkeypatch.setattr(looks, "read_image_file", read_image)
    twice = [*cases, replace(cases[0], target="another", class_id=2)]
    audit_cases(twice)
    assert sorted(decoded) == sorted(
        path for case in cases for path in (*case.image_source.paths, *case.mask_source.paths)
    )


@pytest.mark.skipif(not BUSI.is_dir(), reason=f"the real cases are not at {BUSI}")
def test_the_real_cases_hold_one_lesion_four_times_and_marks_in_thirteen_images():
    cases, _ = list_cases(BUSI, "busi")
    place = {
        "malignant (4)": "test",
        "malignant (6)": "validation",
        "malignant (7)": "train",
        "malignant (8)": "train",
    }
    report = audit_cases([replace(case, split=place.get(case.name, "train")) for case in cases])
    alike = [kind for kind in kinds(report) if kind[1] != "empty mask"]
    assert alike == [
        ("error", "leaking near duplicate", "malignant (4) malignant (7) malignant (8)"),
        ("error", "leaking near duplicate", "malignant (6) malignant (7) malignant (8)"),
        ("warning", "near duplicate", "malignant (7) malignant (8)"),
        ("note", "alike", "malignant (4) malignant (6)"),  # moved, and less alike than its copies
    ]
    benign, malignant = (1, 2, 3, 4, 6, 9, 19, 22, 46), (10, 11, 14, 26)  # as seen by eye
    marked = {finding.images[0][1] for finding in report.findings if finding.kind in MARKS}
    assert marked == {f"benign ({i})" for i in benign} | {f"malignant ({i})" for i in malignant}
    rest = images_to_remove(report)["BUSI"]
    assert sorted(rest) == ["malignant (7)", "malignant (8)"]
    left = [replace(case, split=place.get(case.name, "train")) for case in cases if case.name not in rest]
    assert not [finding for finding in audit_cases(left).findings if finding.severity == "error"]


def test_heads_of_one_standard_plane_are_no_copies_and_their_bone_no_mark(real_ultrasound):
    heads = "195 362 464 516 479_2 390 359 530 255 342 663 749 690 690_2 440 440_2".split()
    cases, _ = list_cases(real_ultrasound / "HC18", "folder")
    report = audit_cases(
        [
            replace(case, patient_id=None)
            for case in cases
            if case.name.removesuffix("HC") in {head if "_" in head else f"{head}_" for head in heads}
        ]
    )
    found = [kind for kind in kinds(report) if kind[1] != "alike"]
    assert found == [("warning", "near duplicate", "690_2HC 690_HC")]
    marked = {finding.images[0][1] for finding in report.findings if finding.kind in MARKS}
    assert marked == {"440_HC", "440_2HC"}  # a body mark was burnt in
    assert images_to_remove(report) == {}

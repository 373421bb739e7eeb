"""Reports of audits: their table, their files, and which images have to go."""

import json

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.audit import findings
from ccsam_hf.data.audit.findings import AuditReport, Finding, images_to_remove, write_report
from ccsam_hf.data.cases import Case, ImageFile, MaskFiles


@pytest.fixture
def cases(tmp_path) -> list[Case]:
    rng = np.random.default_rng(0)
    cases = []
    for name in "abcdefgh":
        image, mask = tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png"
        Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)).save(image)
        Image.fromarray(np.eye(40, 50, dtype=bool)).save(mask)
        cases.append(Case(name, "object", ImageFile(image), MaskFiles((mask,)), "D", split="train"))
    return cases


def keys(names: str) -> tuple:
    return tuple(("D", name) for name in names)


@pytest.fixture
def report() -> AuditReport:
    return AuditReport(
        findings=(
            Finding("leaking near duplicate", "error", keys("ab"), ("test", "train"), "0.9", 0.9, keys("b")),
            Finding("near duplicate", "warning", keys("abcdefgh"), ("test", *["train"] * 7), "0.7 to 0.8", 0.7),
            Finding("duplicate", "warning", keys("bc"), ("train", None), "equal pixels", remove=keys("c")),
            Finding("burnt-in marks", "note", keys("d"), (None,), "20 pixels"),
        ),
        counts={"images": 8, "cases": 8, "datasets": {"D": {"train": {"images": 8, "cases": 8}}}},
        limits=("Nothing is known of planes.",),
    )


def test_the_table_has_a_summary_and_one_line_a_finding(report):
    lines = report.to_table().splitlines()
    assert lines[:2] == ["8 images, 8 cases", "  D: train 8 images"]
    assert "  error        1  leaking near duplicate" in lines
    assert "error     leaking near duplicate  D/a [test], D/b [train]: 0.9" in lines
    assert any(line.startswith("warning   near duplicate") and "and 2 more: 0.7 to 0.8" in line for line in lines)
    assert lines[-1] == "- Nothing is known of planes."


def test_removal_names_each_image_once_with_its_first_reason(report):
    removed = images_to_remove(report)
    assert removed == {
        "D": {
            "b": "leaking near duplicate: D/a [test], D/b [train]: 0.9",
            "c": "duplicate: D/b [train], D/c: equal pixels",
        }
    }


def test_files_hold_the_report_and_nothing_else_is_left(report, cases, tmp_path):
    output = tmp_path / "new" / "output"
    write_report(report, cases, output)
    assert sorted(path.name for path in output.iterdir()) == ["contact_sheet.png", "findings.json", "findings.txt"]
    content = json.loads((output / "findings.json").read_text())
    assert content["counts"] == report.counts and content["limits"] == list(report.limits)
    assert content["summary"][0] == {"severity": "error", "kind": "leaking near duplicate", "findings": 1}
    assert content["findings"][0]["images"] == [["D", "a"], ["D", "b"]] and content["findings"][0]["score"] == 0.9
    assert (output / "findings.txt").read_text() == report.to_table() + "\n"


def test_the_sheet_shows_each_finding_with_the_outlines_of_its_masks(report, cases, tmp_path, monkeypatch):
    write_report(report, cases, tmp_path / "whole")
    sheet = Image.open(tmp_path / "whole" / "contact_sheet.png").convert("RGB")
    assert sheet.width == 6 * 226 + 6
    outline = np.all(np.asarray(sheet, dtype=int) - (230, 159, 0) == 0, axis=2)
    assert outline.any()
    more = AuditReport(report.findings[:1] * 5, report.counts, report.limits)
    heights = {}
    for rows in (5, 2):
        monkeypatch.setattr(findings, "ROWS_OF_KIND", rows)
        write_report(more, cases, tmp_path / "rows")
        heights[rows] = Image.open(tmp_path / "rows" / "contact_sheet.png").height
    assert heights[5] - heights[2] == 3 * (heights[2] - 20) / 2  # one line says that three are not shown


def test_a_sheet_without_findings_and_with_unreadable_files(report, cases, tmp_path):
    write_report(AuditReport((), report.counts, ()), cases, tmp_path / "none")
    assert Image.open(tmp_path / "none" / "contact_sheet.png").height == 20
    cases[0].image_source.path.write_text("no image")
    cases[1].mask_source.paths[0].unlink()
    write_report(report, cases, tmp_path / "some")


def test_an_interrupted_write_leaves_the_old_file(report, cases, tmp_path, monkeypatch):
    write_report(report, cases, tmp_path / "output")
    before = (tmp_path / "output" / "contact_sheet.png").read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(AuditReport((), report.counts, ()), cases, tmp_path / "output")
    assert (tmp_path / "output" / "contact_sheet.png").read_bytes() == before
    assert len(list((tmp_path / "output").iterdir())) == 3

"""The report holds what the study holds: its numbers, its failures, its names as text, and nothing from outside."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas
import pytest

from ccsam_hf.evaluation.figures import Example
from ccsam_hf.evaluation.metrics import SCORES, miss_scores
from ccsam_hf.evaluation.report import Study, paper_entries, write_report
from ccsam_hf.evaluation.statistics import comparisons, summaries

HOSTILE = 'U-Net "<script>alert(1)</script>" & $x'
MODELS = {"CC-SAM": 90.0, HOSTILE: 40.0}  # mean Dice on data that were seen; 10 less on others
DATA = {"sim, seen": ("folder", "sim", "cyst", True), "archive": ("us30k", "BUSI", "breast lesion", False)}
FAILED = "RuntimeError: out of <i>memory</i>"


def row(model: str, data: str, number: int, status: str = "ok") -> dict:
    """Case `number` of 6; a tenth more or less Dice, uncertainty and IoU estimate in step with it."""
    layout, dataset, target, is_seen = DATA[data]
    dice = MODELS[model] - (0 if is_seen else 10) + (number - 2.5)
    scores = dict.fromkeys(SCORES, 20.0) | {"dice": dice, "hd_rows": 30.0 + number}
    if status != "ok":
        scores = miss_scores((256, 256))
    bins = {"calibration_count": [900] + [0] * 13 + [100], "calibration_confidence": [0.0] * 14 + [100.0]}
    bins |= {"calibration_positive": [0] * 14 + [80], "uncertainty_count": [900, 100] + [0] * 8}
    bins |= {"uncertainty_wrong": [9, 30] + [0] * 8}
    known = status == "ok"
    case = {"model": model, "data": data, "dataset": dataset, "name": f"case {number}", "target": target}
    case |= {"release": dataset if layout == "us30k" else None}
    case |= {"split": "test", "patient_id": None, "prompt": "box", "draw": 0, "status": status}
    case |= {"reason": None if known else FAILED, **scores} | {f"baseline_{score}": 60.0 for score in SCORES}
    case |= {"iou_score": dice / 100 if known else None, "uncertainty": 0.2 - dice / 1000 if known else None}
    if model == HOSTILE:
        case["uncertainty"] = None
        bins = {name: bins[name] if name.startswith("calibration") else None for name in bins}
    return case | {"mask": b"png" if known else None} | {name: bins[name] if known else None for name in bins}


def write_study(folder) -> list[dict]:
    """A study as `evaluate_study` leaves it."""
    rows = [row(model, data, number) for model in MODELS for data in DATA for number in range(6)]
    rows[0] = row("CC-SAM", "sim, seen", 0, "failed")
    rows[-1] = row(HOSTILE, "archive", 5, "missed")
    about = {
        "models": [{"name": name, "checkpoint": f"runs/{i}", "sha256": f"{i}beef" * 13, "parameters": 1_530_000 + i}
                   for i, name in enumerate(MODELS)],
        "data": [{"name": name, "layout": layout, "cases": 6, "seen": is_seen, "sha256": "cafe" * 16}
                 for name, (layout, _, _, is_seen) in DATA.items()],
        "prompts": ["box"], "draws": 1, "grounder": None, "protocol": "samus", "versions": {"torch": "2.9.1"},
        "command": "training/evaluate.py --model 'U-Net=<unet>'",
    }  # fmt: skip
    pandas.DataFrame(rows).to_parquet(folder / "cases.parquet", index=False)
    for name, content in {"study": about, "summary": summaries(rows), "comparisons": comparisons(rows)}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return rows


class Page(HTMLParser):
    """Elements and texts of a page, and the texts of each row of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.texts, self.cells, self.is_in_row = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
            self.is_in_row = True

    def handle_endtag(self, tag):
        self.is_in_row &= tag != "tr"

    def handle_data(self, data):
        self.texts.append(data)
        if data.strip() and self.is_in_row:
            self.cells[-1].append(data)

    def of(self, *tags: str) -> list[dict]:
        """The attributes of all elements of some kinds."""
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("study")
    rows = write_study(folder)
    mask = np.zeros((256, 256), dtype=bool)
    mask[50:90, 40:80] = True
    predictions = {"CC-SAM": (mask, 91.25), HOSTILE: (None, 0.0)}
    shown = Example("sim: <cyst>", np.zeros((50, 60), np.uint8), mask, "box", [40, 50, 79, 89], predictions)
    columns = {"parameters": 2e6, "gflops": 1.5, "peak_mib": 400.0, "images_per_second": 30.0}
    costs = {"device": "a CPU", "command": "python benchmark_cost.py", "notes": ["fp32."]}
    costs["models"] = {"CC-SAM": columns, "SAM": {**columns, "gflops": 976.0}}
    scores = {"thyroid nodule": {"dice": 71.5, "hd_samus": 20.0}}
    ablation = {"results": {"samus": [{"point": scores}]}}
    path = write_report(folder, [shown], costs, ablation)
    text = path.read_text(encoding="utf-8")
    return SimpleNamespace(folder=folder, rows=rows, path=path, text=text, page=Page(text))


def test_the_page_is_well_formed_and_every_section_is_in_its_contents(report):
    assert report.path == report.folder / "report.html"
    titles = ["What was evaluated", "Results", "By data set and prompt", "Missed and failed cases"]
    titles += ["Seen and unseen data", "Uncertainty", "Pictures", "Cost", "Beside the paper", "How it was measured"]
    titles += ["Limits"]
    links = [each["href"].removeprefix("#") for each in report.page.of("a")]
    assert links == [each["id"] for each in report.page.of("h2")]
    assert re.findall("<h2 id=.*?>(.*?)</h2>", report.text) == titles


def test_the_numbers_of_the_page_are_those_of_the_summary(report):
    for entry in summaries(report.rows):
        dice, hd = entry["dice"], entry["hd_rows"]
        cells = f"{dice['mean']:.1f} [{dice['ci95'][0]:.1f}, {dice['ci95'][1]:.1f}]"
        distance = f"{hd['mean']:.1f} [{hd['ci95'][0]:.1f}, {hd['ci95'][1]:.1f}]"
        if entry["target"] == "all":
            line = next(line for line in report.page.cells if line[0] == entry["data"] and cells in line)
            assert line[1:3] == ["box", "6"]
        else:
            counts = ["6", str(entry["n_missed"]), str(entry["n_failed"])]
            assert any(
                line[:2] == [entry["target"], entry["model"]] and {cells, distance, *counts} <= set(line)
                for line in report.page.cells
            )


def test_what_was_evaluated_is_said(report):
    assert ["CC-SAM", "runs/0", "1,530,000", "0beef0beef0beef0"] in report.page.cells
    assert ["archive", "us30k", "6", "unseen", "cafecafecafecafe"] in report.page.cells
    assert "training/evaluate.py --model 'U-Net=<unet>'" in report.page.texts
    assert any("torch 2.9.1" in text and text.startswith("Versions") for text in report.page.texts)


def test_failed_and_missed_cases_are_shown_with_their_reason(report):
    assert ["CC-SAM", "sim, seen", "box", "failed", FAILED, "1", "case 0"] in report.page.cells
    assert [HOSTILE, "archive", "box", "missed", FAILED, "1", "case 5"] in report.page.cells
    assert any("1 of 24 rows failed" in text for text in report.page.texts)
    assert any("1 of 24 rows missed" in text for text in report.page.texts)


def test_a_model_that_is_not_better_than_the_blind_baseline_is_named_at_the_top(report):
    text = f"On sim, seen, box, the blind baseline has a mean Dice of 60.0; not better: {HOSTILE} 40.0."
    assert report.page.texts.index(text) < report.page.texts.index("What was evaluated")


def test_names_are_text_and_nothing_else(report):
    assert HOSTILE in report.page.texts
    assert not report.page.of("script", "i", "link", "iframe", "object", "base")
    assert "<script" not in report.text and "<i>memory" not in report.text
    assert not any(name.startswith("on") for _, attributes in report.page.elements for name in attributes)


def test_the_page_loads_nothing_from_outside(report):
    sources = [each[name] for _, each in report.page.elements for name in ("src", "href", "srcset") if name in each]
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "default-src 'none'" in next(each["content"] for each in report.page.of("meta") if "http-equiv" in each)
    styles = re.search(r"<style>(.*?)</style>", report.text, re.DOTALL)[1]
    assert "url(" not in styles and "@import" not in styles
    for text in re.sub(r'src="data:[^"]*"', "", report.text), *(p.read_text() for p in report.folder.rglob("*.md")):
        assert "http://" not in text and "https://" not in text


def test_the_page_is_made_for_dark_print_and_phones(report):
    for rule in ("prefers-color-scheme: dark", "@media print", "overflow-x: auto", "width=device-width"):
        assert rule in report.text


def test_every_picture_has_an_alternative_text_and_lies_beside_the_page(report):
    images = report.page.of("img")
    assert images and all(len(each["alt"]) > 20 for each in images)
    assert any("CC-SAM 91.2" in each["alt"] for each in images)
    pictures = {path.name for path in (report.folder / "figures").iterdir()}
    kinds = ("examples-01", "spider", "seen-unseen-box", "cases-01-sim-seen-box", "calibration-01-sim-seen")
    for name in (*kinds, "error-by-uncertainty-02-archive", "referral-02-archive"):
        assert {f"{name}.png", f"{name}.svg"} <= pictures
    assert len(images) == len(pictures) / 2


def test_tables_lie_beside_the_page_as_markdown_and_csv(report):
    names = {path.name for path in (report.folder / "tables").iterdir()}
    for name in ("headline", "results-01-sim-seen-box", "tests-02-archive-box", "paper-table3", "cost", "reliability"):
        assert {f"{name}.md", f"{name}.csv"} <= names
    headline = pandas.read_csv(report.folder / "tables" / "headline.csv")
    assert headline[HOSTILE][0].startswith("40.0 [")
    assert not list(report.folder.rglob("*unfinished*"))


def test_published_numbers_are_marked_and_measured_ones_stand_beside_those_of_their_data_set(report):
    paper = pandas.read_csv(report.folder / "tables" / "paper-table3.csv", index_col=0)
    assert paper.loc["CC-SAM †", "BUSI: Dice"] == "86.22 †"
    assert paper.loc["CC-SAM, box", "BUSI: Dice"] == "80.00"  # read from an archive that names its data sets
    assert paper.loc["CC-SAM, box", "BUSI: HD"] == "32.50"
    assert paper.loc["CC-SAM, box", "TN3K: Dice"] == "–"
    first = pandas.read_csv(report.folder / "tables" / "paper-table1.csv")
    assert first["simulated: thyroid nodule: Dice, %"][0] == "71.50"
    assert any("measured here" in text for text in report.page.texts)


def test_a_plain_folder_is_no_data_set_of_the_paper_and_an_archive_is_taken_apart(report):
    study = Study.read(report.folder)
    rows = [{**each, "dataset": "BUSI"} for each in study.rows]
    of_folder = [each for each in rows if each["data"] == "sim, seen"]
    assert paper_entries(Study(study.about, of_folder, [], []))[1] == {}
    mixed = [{**each, "release": "DDTI"} if i % 2 else each for i, each in enumerate(rows) if each not in of_folder]
    entries, datasets = paper_entries(Study(study.about, mixed, [], []))
    assert datasets == {"archive, BUSI": "BUSI"}
    assert {entry["data"] for entry in entries} == {"archive", "archive, BUSI"}


def test_costs_of_other_models_are_in_the_table_and_not_on_the_wheel(report):
    cells = ["CC-SAM", "2.0", "1.5", "400", "30.00"]
    assert cells in report.page.cells and ["SAM", "2.0", "976.0", "400", "30.00"] in report.page.cells
    assert any("Without SAM, which the study does not evaluate" in text for text in report.page.texts)


def test_what_is_not_given_is_said(tmp_path):
    write_study(tmp_path)
    about = json.loads((tmp_path / "study.json").read_text())
    for data in about["data"]:
        data["seen"] = None
    (tmp_path / "study.json").write_text(json.dumps(about))
    texts = Page(write_report(tmp_path, []).read_text()).texts
    assert {"No examples were given.", "Costs were not measured with this study."} <= set(texts)
    assert any("does not name both data like those of the training" in text for text in texts)


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    write_study(tmp_path)
    (tmp_path / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no summary.json; expected a finished study"):
        write_report(tmp_path, [])
    assert not (tmp_path / "report.html").exists()

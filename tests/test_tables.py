"""Tables: published numbers are the paper's, measured ones those of the entries, and neither passes for the other."""

import csv
import io

import pytest

from ccsam_hf.evaluation.metrics import SCORES
from ccsam_hf.evaluation.statistics import comparisons, summaries
from ccsam_hf.evaluation.tables import (
    PUBLISHED,
    Table,
    comparisons_table,
    cost_table,
    headline_table,
    misses_table,
    overview_table,
    reliability_table,
    results_table,
    table1,
    table2,
    table3,
)

# As printed in arXiv 2408.00181: Dice and HD of each data set in turn.
PAPER = {
    "1": """
84.45 28.22 85.77 25.49
84.91 27.25 86.22 25.12
85.55 26.84 87.15 24.42
85.95 26.22 87.92 23.92
86.42 25.82 88.45 23.20
86.25 25.92 88.22 23.51
85.72 26.21 87.42 24.61
87.11 25.25 89.51 22.86""",
    "2": """
U-Net 91.00 12.91 79.01 34.12 78.11 33.60 93.56 9.90 86.86 16.87
CPFNet 91.51 12.26 79.43 33.07 80.56 27.98 93.32 9.63 86.68 16.51
CA-Net 91.28 12.32 80.52 33.65 81.88 28.67 93.59 9.77 87.21 16.24
CE-Net 91.14 12.29 80.37 32.79 80.21 30.19 93.36 9.91 86.47 16.66
AAU-Net 91.33 12.12 82.28 30.53 80.81 30.39 93.32 9.97 86.98 16.49
SwinUNet 89.80 14.74 70.08 44.13 67.23 47.02 91.72 12.80 84.46 20.25
SETR 90.52 13.91 67.80 44.11 68.22 40.37 92.82 11.34 86.20 18.27
MISSFormer 91.18 11.82 79.42 32.85 78.43 33.10 93.25 9.94 86.57 16.50
TransUNet 91.37 12.46 81.44 30.98 82.22 27.54 93.60 9.60 87.20 17.25
FAT-Net 91.55 12.05 80.45 32.77 82.16 28.55 93.59 9.20 87.19 15.93
H2Former 90.98 11.92 82.48 30.58 81.48 27.84 93.44 9.60 87.31 16.60
SAMUS 91.58 11.60 84.45 28.22 85.77 25.49 93.73 9.79 87.46 16.74
CC-SAM 92.03 11.11 85.20 27.10 87.01 24.22 93.95 9.11 88.25 16.11""",
    "3": """
SAM 29.59 134.87 54.01 82.39 28.18 196.64 29.42 184.10 17.28 193.70
MedSAM 71.09 42.91 77.75 34.26 87.52 15.28 76.07 25.72 88.06 15.70
SAMed 80.40 31.29 74.82 34.60 87.67 13.24 82.60 19.48 90.92 12.60
MSA 82.67 29.15 81.66 28.87 90.95 11.29 82.47 19.28 91.80 11.59
SAMUS 83.05 28.82 84.54 27.24 91.13 11.76 83.11 18.99 92.00 12.08
CC-SAM 85.59 27.74 86.22 25.85 92.85 10.88 85.61 17.11 93.51 11.06""",
}
COLUMNS = {
    "1": ["TN3K", "BUSI"],
    "2": ["CAMUS-LA", "TN3K", "BUSI", "CAMUS-LV", "CAMUS-MYO"],
    "3": ["TN3K", "BUSI", "CAMUS-LV", "CAMUS-MYO", "CAMUS-LA"],
}


def entry(model, data="sim", prompt="box", target="all", dice=80.0, **changes) -> dict:
    """An entry of `summaries` with an interval of 1 to each side."""
    means = dict.fromkeys(SCORES, 10.0) | {"dice": dice, "hd_rows": 21.5, "hd_samus": 33.5}
    scores = {name: {"mean": mean, "ci95": [mean - 1, mean + 1]} for name, mean in means.items()}
    kinds = {"model": model, "data": data, "prompt": prompt, "target": target}
    return kinds | scores | {"n": 40, "n_missed": 2, "n_failed": 1} | changes


def row(model="A", dice=90.0, name="a", status="ok", **changes) -> dict:
    """A row of the harness."""
    scores = dict.fromkeys(SCORES, 10.0) | {"dice": dice}
    case = {
        "model": model,
        "data": "sim",
        "dataset": "sim",
        "name": name,
        "target": "cyst",
        "prompt": "box",
        "draw": 0,
    }
    case |= {"patient_id": None, "status": status, "reason": None if status == "ok" else "RuntimeError: no <b>"}
    return case | scores | {f"baseline_{each}": 50.0 for each in SCORES} | changes


def cell(table: Table, first: str, heading: str) -> str:
    """The cell of the only row that begins with `first`."""
    (line,) = [line for line in table.rows if line[0] == first]
    return line[table.headings.index(heading)]


@pytest.mark.parametrize("number, build", [("1", table1), ("2", table2), ("3", table3)])
def test_published_numbers_are_the_papers_and_carry_the_mark(number, build):
    printed = [line.split() for line in PAPER[number].strip().splitlines()]
    table = build()
    first = 3 if number == "1" else 1
    assert [[cell.removesuffix(" †") for cell in line[first:]] for line in table.rows] == [
        line if number == "1" else line[1:] for line in printed
    ]
    assert all(cell.endswith(" †") for line in table.rows for cell in line[first:])
    assert table.columns[first:] == [(name, score) for name in COLUMNS[number] for score in ("Dice", "HD")]
    if number != "1":
        assert [line[0] for line in table.rows] == [f"{line[0]} †" for line in printed]
    assert any("not measured here" in note for note in table.notes)


def test_the_switches_of_table_1_are_the_papers():
    switches = ["×××", "✓××", "×✓×", "××✓", "✓×✓", "×✓✓", "✓✓×", "✓✓✓"]
    assert ["".join(line[:3]) for line in table1().rows] == switches


def test_where_the_papers_tables_disagree_a_note_says_so():
    of = {number: {row["method"]: row["scores"] for row in PUBLISHED["tables"][number]["rows"]} for number in "23"}
    assert of["2"]["CC-SAM"]["TN3K"] != of["3"]["CC-SAM"]["TN3K"]
    for number in "23":
        assert any("other numbers there" in note for note in PUBLISHED["tables"][number]["notes"])
    assert any("87.11 here, 85.20 in Table 2, 85.59 in Table 3" in note for note in table1().notes)


def test_a_measured_line_stands_in_the_papers_column_of_its_data_set_with_the_rows_hd():
    entries = [entry("ours", "my TN3K", target="thyroid nodule", dice=81.234)]
    table = table3(entries, {"my TN3K": "TN3K"})
    assert cell(table, "ours, box", "TN3K: Dice") == "81.23"
    assert cell(table, "ours, box", "TN3K: HD") == "21.50"  # hd_rows, not hd_samus
    assert cell(table, "ours, box", "BUSI: Dice") == "–"
    assert "Measured in column TN3K: my TN3K, 40 cases." in table.notes


def test_other_data_never_fill_a_column_of_the_paper_whatever_they_are_called():
    table = table3([entry("ours", "TN3K", target="thyroid nodule", dice=81.0)])
    assert cell(table, "ours, box", "TN3K: Dice") == "–"
    assert cell(table, "ours, box", "TN3K: thyroid nodule: Dice") == "81.00"
    assert cell(table, "CC-SAM †", "TN3K: thyroid nodule: Dice") == "–"
    assert any("published numbers alone" in note for note in table.notes)
    assert len(table3([entry("ours", "x", target="cyst")]).rows) == 6  # a target the paper does not know


def test_two_data_sets_of_one_column_are_two_lines():
    entries = [entry("ours", data, target="breast lesion", dice=dice) for data, dice in (("a", 70.0), ("b", 71.0))]
    table = table2(entries, {"a": "BUSI", "b": "BUSI"})
    place = table.headings.index("BUSI: Dice")
    assert [line[place] for line in table.rows if line[0] == "ours, box"] == ["70.00", "71.00"]


def test_table_1_has_means_over_seeds_in_columns_of_its_own():
    def seed(dice, prompt="point"):
        return {
            prompt: {"thyroid nodule": {"dice": dice, "hd_samus": 20.0, "blind_dice": 40.0, "blind_hd_samus": 60.0}}
        }

    results = {"samus": [seed(70.0), seed(72.0)], "text": [{**seed(75.0, "text"), **seed(99.0, "box")}]}
    table = table1(results)
    place = table.headings.index("simulated: thyroid nodule: Dice, %")
    assert table.headings[place + 1] == "simulated: thyroid nodule: HD, px"
    measured = [line[place] for line in table.rows]
    assert measured == ["71.00 ± 1.41", "–", "–", "75.00", "–", "–", "–", "–", "40.00 ± 0.00", "40.00"]
    assert [line[0] for line in table.rows[8:]] == ["disc (blind), point", "ellipse (blind), text"]
    assert any("another quantity than the published HD" in note for note in table.notes)
    with pytest.raises(ValueError, match="'unet' is no row of Table 1"):
        table1({"unet": []})


def test_a_results_table_holds_the_numbers_of_the_entries():
    entries = [entry("A", target="cyst", dice=89.04), entry("A", target="lump"), entry("A", dice=85.0)]
    table = results_table([*entries, entry("A", data="other", dice=1.0)], "sim", "box")
    assert [line[0] for line in table.rows] == ["cyst", "lump", "all targets"]
    assert cell(table, "cyst", "Dice, % [95 %]") == "89.0 [88.0, 90.0]"
    assert cell(table, "cyst", "HD of rows, px [95 %]") == "21.5 [20.5, 22.5]"
    assert cell(table, "cyst", "HD, px [95 %]") == "33.5 [32.5, 34.5]"
    assert [cell(table, "cyst", name) for name in ("Cases", "Missed", "Failed")] == ["40", "2", "1"]
    assert len(results_table(entries[::2], "sim", "box").rows) == 1  # one target: "all" would repeat it
    with pytest.raises(ValueError, match="no entry is of 'sim' with prompt 'text'"):
        results_table(entries, "sim", "text")


def test_the_headline_has_a_column_for_each_model_and_one_that_is_blind():
    entries = [entry("A"), entry("B", dice=70.0), entry("ellipse (blind)", dice=60.0), entry("A", prompt="none")]
    table = headline_table(entries)
    assert table.headings == ["Data", "Prompt", "Cases", "A", "B", "Blind baseline"]
    assert table.rows == [
        ["sim", "box", "40", "80.0 [79.0, 81.0]", "70.0 [69.0, 71.0]", "60.0 [59.0, 61.0]"],
        ["sim", "no prompt", "40", "80.0 [79.0, 81.0]", "–", "–"],
    ]


def test_the_overview_counts_what_was_missed_and_failed():
    table = overview_table([entry("A"), entry("A", target="cyst", dice=1.0)])
    assert len(table.rows) == 1
    assert [cell(table, "sim", name) for name in ("Missed", "Failed")] == ["2", "1"]
    assert cell(table, "sim", "HD95, px") == "10.0"


def test_paired_tests_are_those_of_the_comparisons():
    rows = [row(model, dice, name) for model, dice in (("A", 80.0), ("B", 90.0)) for name in "abcdef"]
    compared = comparisons(rows)
    table = comparisons_table(compared, "sim", "box")
    (line,) = [line for line in table.rows if line[:2] == ["A", "B"]]
    (test,) = [each for each in compared if (each["model_a"], each["model_b"], each["score"]) == ("A", "B", "dice")]
    assert line[2:6] == ["+10.0 [+10.0, +10.0]", "100 %", "+1.00", f"{test['p_holm']:.3f}"]
    assert line[6:] == ["+0.0 [+0.0, +0.0]", "0 %", "+0.00", "1.000"]
    assert "Cases: 6, of 6 patients or images." in table.notes


def test_misses_are_listed_with_their_reason():
    rows = [row(), *(row(status="failed", name=name) for name in "bcdef"), row(status="missed", name="g")]
    table = misses_table(rows)
    assert [line[3:] for line in table.rows] == [
        ["failed", "RuntimeError: no <b>", "5", "b, c, d and 2 more"],
        ["missed", "RuntimeError: no <b>", "1", "g"],
    ]


def test_reliability_says_what_is_known():
    bins = {"calibration_count": [0] * 14 + [10], "calibration_confidence": [0.0] * 14 + [10.0]}
    bins["calibration_positive"] = [0] * 14 + [8]
    known = [row(dice=dice, name=f"{dice}", iou_score=dice / 100, **bins) for dice in (9, 50, 70, 90)]
    table = reliability_table([*known, row("B")])
    line_a, line_b = table.rows
    assert line_a == ["sim", "box", "A", "20.0", "–", "20.0", "–", "–", "+1.00", "100 %"]
    assert line_b == ["sim", "box", "B", *"–––––––"]


def test_costs_that_were_not_measured_are_dashes():
    table = cost_table({"A": {"parameters": 1_530_000, "gflops": 1.94, "device": "x"}, "B": {"gflops": 976.0}})
    assert table.headings == ["Model", "Parameters, M", "GFLOPs"]
    assert table.rows == [["A", "1.5", "1.9"], ["B", "–", "976.0"]]


def test_names_keep_their_text_and_lose_their_meaning():
    hostile = "a|b\n<script>x</script> `c` [d](e)"
    table = Table(hostile, [("", "Name"), ("group", "1")], [[hostile, "2"]])
    markdown = table.to_markdown()
    assert markdown.splitlines()[-1] == "| a\\|b &lt;script&gt;x&lt;/script&gt; \\`c\\` \\[d](e) | 2 |"
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [["Name", "group: 1"], [hostile, "2"]]


def test_the_tables_read_what_summaries_writes():
    rows = [row(model, dice, name) for model in "AB" for name, dice in {"a": 70.0, "b": 80.0, "c": 90.0}.items()]
    table = results_table(summaries(rows), "sim", "box")
    assert [(line[1], line[3][:4]) for line in table.rows] == [
        ("A", "80.0"),
        ("B", "80.0"),
        ("ellipse (blind)", "50.0"),
    ]

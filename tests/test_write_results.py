"""training/write_results.py: the tables of README and docs/results.md come from evaluation.json."""

from pathlib import Path

import pytest

TRAINING = Path(__file__).resolve().parents[1] / "training"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING))
    import write_results

    return write_results


def entry(data, target, prompt, dice):
    score = {"mean": dice, "ci95": [dice - 1, dice + 1]}
    blind = {"name": "ellipse", "dice": {"mean": 80.0}, "hd_samus": {"mean": 12.0}}
    return {
        "data": data,
        "target": target,
        "prompt": prompt,
        "n": 9,
        "dice": score,
        "hd_samus": score,
        "baseline": blind,
    }


@pytest.fixture
def record():
    data = [
        {"name": "HC18", "targets": ["fetal head"], "seen": True},
        {"name": "Heart", "targets": ["left atrium", "left ventricle"], "seen": False},
    ]
    results = [entry("HC18", "all", prompt, 97.0) for prompt in ("box", "point")]
    for target in ("left atrium", "left ventricle", "all"):
        results += [entry("Heart", target, prompt, 90.0) for prompt in ("box", "point")]
    return {"data": data, "results": results}


def test_each_target_has_a_row_and_a_single_one_its_name(script, record):
    rows = script.short_table(record).splitlines()[2:]
    assert rows[0] == "| fetal head (HC18) | 9 | other patients | 97.0 | 80.0 | 97.0 | 80.0 |"
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| left atrium (Heart)", "| left ventricle (Heart)"]
    assert "| left atrium (Heart) | box | 9 | 90.0 [89.0, 91.0] | 80.0 |" in script.long_table(record)


def test_only_what_lies_between_the_markers_changes(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    script.replace_results(page, "new")
    assert page.read_text() == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    page.write_text("without markers\n")
    with pytest.raises(ValueError, match="0 pairs of"):
        script.replace_results(page, "new")

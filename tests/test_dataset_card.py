"""The card of a built data set: what its front matter, tables, citations and warning say."""

import io
import re
from dataclasses import replace

import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from ccsam_hf.data import card as card_module
from ccsam_hf.data.card import card_template, dataset_card, redistribution_warning, size_category
from ccsam_hf.data.rows import features
from ccsam_hf.data.simulator import simulate
from ccsam_hf.data.sources import SOURCES
from ccsam_hf.data.splits import SEEN, UNSEEN
from ccsam_hf.descriptions import TARGETS

COUNTS = {
    "BUSI": {"train": {"breast lesion": 546}, "validation": {"breast lesion": 78}, "test": {"breast lesion": 156}},
    "CAMUS": {
        "train": {"left ventricle": 1600, "myocardium": 1599},
        "test": {"left ventricle": 200, "left atrium": 3},
    },
    "DDTI": {"test": {"thyroid nodule": 637}},
}
CONFIGS = [
    {
        "config_name": "all",
        "default": True,
        "data_files": [
            {"split": "train", "path": ["data/BUSI/train-*.parquet", "data/CAMUS/train-*.parquet"]},
            {"split": "test", "path": "data/*/test-*.parquet"},
        ],
    },
    {"config_name": "DDTI", "data_files": [{"split": "test", "path": "data/DDTI/test-*.parquet"}]},
]


def card_of(counts=COUNTS, **kwargs) -> str:
    return dataset_card(counts, **({"rule": "7:1:2 by patient", "seed": 11, "configs": CONFIGS} | kwargs))


def as_png(array) -> dict:
    content = io.BytesIO()
    Image.fromarray(array).save(content, format="PNG")
    return {"bytes": content.getvalue()}


def table_under(card: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, its head first; an escaped pipe is a pipe again."""
    lines = card[card.index(f"\n{heading}\n") :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip().replace("&#124;", "|") for cell in line.strip("|").split("|")])
    return [table[0], *table[2:]]


def counts_in(card: str) -> dict[str, dict[str, dict[str, int]]]:
    head, *rows = table_under(card, "## What is in it")
    assert head[:2] == ["data set", "target"] and head[-1] == "total"
    counts: dict = {}
    for name, target, *numbers, total in rows:
        assert sum(map(int, numbers)) == int(total)
        for split, number in zip(head[2:-1], numbers, strict=True):
            if int(number):
                counts.setdefault(name, {}).setdefault(split, {})[target] = int(number)
    return counts


def test_front_matter_is_read_by_the_hub_with_the_configs_given():
    data = DatasetCard(card_of()).data.to_dict()
    assert data["configs"] == CONFIGS
    assert (data["license"], data["license_name"]) == ("other", "terms-of-each-source")
    assert data["task_categories"] == ["image-segmentation"] and "task_ids" not in data
    assert data["size_categories"] == ["1K<n<10K"]  # 4819 rows
    assert data["tags"] == ["medical", "ultrasound", "breast", "heart", "thyroid"]
    assert data["pretty_name"] == "Ultrasound segmentation: BUSI, CAMUS, DDTI"


@pytest.mark.parametrize(
    ("total", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (20_000_000, "10M<n<100M")],
)
def test_size_category_follows_the_number_of_rows(total, category):
    assert size_category(total) == category


def test_table_holds_the_counts_given_and_only_their_splits():
    assert counts_in(card_of()) == COUNTS
    assert "4,819 rows" in card_of()
    only_test = card_of({"DDTI": COUNTS["DDTI"]})
    assert table_under(only_test, "## What is in it")[0] == ["data set", "target", "test", "total"]


def test_split_and_left_out_images_are_told():
    removed = {
        "BUSI": {"benign (1)": "near duplicate", "benign (2)": "near duplicate", "benign (3)": "axilla"},
        "TN3K": {"0001": "not in this set"},
    }
    card = card_of(removed=removed)
    assert "Rule: 7:1:2 by patient. Seed of what was drawn: 11. `splits.json`" in card
    assert table_under(card, "## What was left out")[1:] == [["BUSI", "near duplicate", "2"], ["BUSI", "axilla", "1"]]
    assert "TN3K" not in card
    assert "## What was left out\n\nNothing.\n" in card_of()


def test_only_sources_of_the_set_are_told_and_cited_once():
    configs = [{"config_name": "all", "data_files": [{"split": "train", "path": "data/*/train-*.parquet"}]}]
    counts = {"TN3K": {"train": {"thyroid nodule": 5}}, "TG3K": {"train": {"thyroid gland": 6}}}
    card = card_of(counts, configs=configs)
    assert re.findall(r"^@\w+{(\w+),$", card, re.MULTILINE) == [
        "gong2021multitask",
        "gong2023thyroid",  # of both
        "wunderling2017comparison",
    ]
    assert re.findall(r"^### (.+)$", card, re.MULTILINE) == ["TN3K", "TG3K"]
    assert "BUSI" not in card and "CAMUS" not in card
    for name in ("TN3K", "TG3K"):
        source = SOURCES[name]
        assert all(text in card for text in (source.title, source.url, source.license, source.terms, source.terms_url))


def test_warning_stands_where_a_source_does_not_allow_redistribution(monkeypatch):
    assert redistribution_warning(["CAMUS"]) is None
    assert "**Warning.**" not in card_of({"CAMUS": COUNTS["CAMUS"]})
    warning = redistribution_warning(COUNTS)
    assert "no permission to do so is known for BUSI, DDTI" in warning and "CAMUS" not in warning
    assert f"> **Warning.** {warning} Keep the repository private" in card_of()
    monkeypatch.setitem(card_module.SOURCES, "CAMUS", replace(SOURCES["CAMUS"], redistribution="not allowed"))
    assert redistribution_warning(["CAMUS", "BUSI"]) == (
        "Check the terms before you pass these images on, in public or to others: "
        "the terms do not allow it for CAMUS; no permission to do so is known for BUSI."
    )


def test_own_data_of_a_known_name_get_no_terms_of_that_source():
    card = card_of({"CAMUS": COUNTS["CAMUS"]}, own=["CAMUS"])
    assert SOURCES["CAMUS"].terms not in card and "the licence of CAMUS is for its owner to state" in card
    assert "CAMUS is for its owner" in redistribution_warning(["CAMUS"], own=["CAMUS"])


def test_own_data_are_told_apart_from_known_sources():
    card = card_of({"clinic_a": {"train": {"object": 3}}})
    assert "### clinic_a\n\nOwn data, licence to be stated by its owner.\n" in card
    assert "> **Warning.**" in card and "the licence of clinic_a is for its owner to state" in card
    assert "bibtex" not in card
    assert DatasetCard(card).data.tags == ["medical", "ultrasound"]


def test_texts_from_outside_break_neither_tables_nor_front_matter():
    counts = {"a|b": {"train": {"odd | target": 2}, "test": {"odd | target": 1}}}
    notes = ["busi: 3 masks | of another\n---\nsize <b>", "{{ 1 + 1 }} {% raw %}"]
    card = card_of(counts, rule="one\n| two", notes=notes, removed={"a|b": {"x": "too | small\nto use"}})
    assert counts_in(card) == counts
    assert table_under(card, "## What was left out")[1:] == [["a|b", "too | small to use", "1"]]
    assert "\n- busi: 3 masks &#124; of another --- size &lt;b&gt;\n- {{ 1 + 1 }} {% raw %}\n" in card
    assert "Rule: one &#124; two. Seed" in card
    assert DatasetCard(card).data.to_dict()["configs"] == CONFIGS
    assert "What differed" not in card_of()


def test_counts_without_a_row_are_refused():
    for counts in ({}, {"BUSI": {"train": {"breast lesion": 0}}}):
        with pytest.raises(ValueError, match="without any row; expected data set -> split -> target"):
            card_of(counts)


def test_template_is_found_in_the_package_first(tmp_path, monkeypatch):
    assert card_template("dataset_card.md").is_file()
    monkeypatch.setattr(card_module, "PLACES", (tmp_path / "package", tmp_path / "repository"))
    with pytest.raises(FileNotFoundError, match="no card template 'dataset_card.md' in .*package or .*repository"):
        card_template("dataset_card.md")
    for place in ("repository", "package"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "dataset_card.md").write_text("---\n{{ card_data }}\n---\n")
        assert card_template("dataset_card.md").parent.name == place


def test_columns_and_code_of_the_card_fit_a_built_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    drawn = simulate("breast lesion", seed=0, size=(64, 80))
    mask = drawn.masks["breast lesion"]
    row = {"name": "0", "target": "breast lesion", "class_id": 1, "dataset": "BUSI", "split": "test", "height": 64}
    row |= {"image": as_png(drawn.image), "mask": as_png(mask.astype("uint8") * 255), "width": 80}
    row |= {"mask_area": int(mask.sum())}
    row |= dict.fromkeys(["release", "patient_id", "category", "mm_per_row", "mm_per_column"])
    dataset = datasets.Dataset.from_list([row], features=features())
    dataset.to_parquet(tmp_path / "data" / "BUSI" / "test-00000-of-00001.parquet")
    data_files = [{"split": "test", "path": ["data/BUSI/test-*.parquet"]}]
    configs = [{"config_name": name, "data_files": data_files} for name in ("all", "BUSI")]
    configs[0]["default"] = True
    card = card_of({"BUSI": {"test": {"breast lesion": 1}}}, configs=configs)
    (tmp_path / "README.md").write_text(card, encoding="utf-8")

    columns = re.findall(r"`(\w+)`", "\n".join(row[0] for row in table_under(card, "A row:")))
    assert sorted(columns) == sorted(features())
    _, with_datasets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict = {}
    exec(with_datasets.replace("path/to/this/folder", str(tmp_path)), names)
    assert [row["mask_area"] for row in names["data"]] == [mask.sum()]


def test_every_known_data_set_has_a_source_with_registered_targets():
    assert set(SOURCES) == {*SEEN, *UNSEEN, "HC18", "CCA", "NERVE", "MMOTU"}
    for source in SOURCES.values():
        assert {TARGETS[target].organ for target in source.targets} == {source.organ}
        assert source.num_images is None or source.extent.startswith(f"{source.num_images:,} ")
        assert source.redistribution in ("allowed", "not allowed", "not stated")
        assert source.url.startswith("https://") and source.terms_url.startswith("https://")
        assert source.doi is None or any(f"{{{source.doi}}}" in entry for entry in source.bibtex)
        assert all(entry.count("{") == entry.count("}") for entry in source.bibtex)
        assert source.redistribution != "allowed" or source.license.startswith("CC ")  # nothing is allowed unnamed

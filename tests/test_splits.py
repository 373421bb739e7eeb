"""Which image lies in which split: the release's lists, the paper's rules, patients, folds, and the file of lists."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ccsam_hf.data.cases import SPLITS, Case, ImageFile, MaskFiles
from ccsam_hf.data.splits import GROUPS, Splits, divide, divide_in_folds


def case(name: str, dataset: str = "BUSI", **fields) -> Case:
    return Case(
        name,
        fields.pop("target", "breast lesion"),
        ImageFile(Path(f"{name}.png")),
        MaskFiles((Path(f"{name}_mask.png"),)),
        dataset=dataset,
        **{"release": dataset} | fields,
    )


def cases(count: int, dataset: str = "BUSI", **fields) -> list[Case]:
    return [case(f"{dataset}-{i}", dataset, **fields) for i in range(count)]


def sizes(splits: Splits, dataset: str) -> dict[str, int]:
    return {split: len(splits.lists[dataset][split]) for split in SPLITS}


def test_busi_is_divided_7_1_2_with_equal_shares_of_its_categories():
    data = [case(f"{kind} ({i})", category=kind) for kind, n in (("benign", 100), ("normal", 50)) for i in range(n)]
    splits = divide(data, seed=3)
    assert sizes(splits, "BUSI") == {"train": 105, "validation": 15, "test": 30}
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        kinds = Counter(name.split()[0] for name in splits.lists["BUSI"][split])
        assert kinds == {"benign": 100 * share, "normal": 50 * share}


def test_a_draw_depends_on_seed_and_names_and_not_on_the_order():
    data = cases(40)
    assert divide(data, seed=1).lists == divide(data[::-1], seed=1).lists
    assert divide(data, seed=1).lists != divide(data, seed=2).lists
    assert divide(data, seed=0).lists["BUSI"]["validation"] == ["BUSI-11", "BUSI-13", "BUSI-16", "BUSI-39"]


def test_lists_of_a_release_stay_and_a_tenth_of_its_open_images_validates():
    data = cases(20, "TN3K", split="train") + [case("t", "TN3K", split="test"), case("v", "TN3K", split="validation")]
    splits = divide(data)
    assert sizes(splits, "TN3K") == {"train": 20, "validation": 1, "test": 1}
    open_part = [case(f"trainval{i:04d}", "TN3K") for i in range(50)] + [case("test0000", "TN3K", split="test")]
    assert sizes(divide(open_part), "TN3K") == {"train": 45, "validation": 5, "test": 1}


def test_camus_is_divided_by_patient_and_keeps_the_test_patients_of_the_release():
    data = [
        case(
            f"{patient:04d}_{view}",
            "CAMUS",
            target=target,
            class_id=class_id,
            patient_id=f"{patient:04d}",
            split=split,
        )
        for patient, split in [(i, None) for i in range(30)] + [(i, "test") for i in range(30, 34)]
        for view in ("2CH_ED", "4CH_ES")
        for class_id, target in enumerate(("left ventricle", "myocardium", "left atrium"), start=1)
    ]
    lists = divide(data).lists["CAMUS"]
    patients = {split: {name[:4] for name in lists[split]} for split in SPLITS}
    assert {split: len(found) for split, found in patients.items()} == {"train": 27, "validation": 3, "test": 4}
    assert not patients["train"] & patients["validation"]
    assert patients["test"] == {f"{i:04d}" for i in range(30, 34)}
    assert len(lists["train"]) == 54  # each image once, though three objects share it


@pytest.mark.parametrize("dataset", [*GROUPS["unseen"], "TN3K", "CAMUS"])
def test_ones_own_data_of_a_known_name_are_divided_like_any_other(dataset):
    own = divide(cases(20, dataset, release=None))
    assert sizes(own, dataset) == {"train": 14, "validation": 2, "test": 4}
    assert own.lists == divide(cases(20, dataset, release="another release")).lists


def test_own_data_and_a_release_of_one_name_are_refused():
    mixed = [case("a", "DDTI"), case("b", "DDTI", release=None)]
    with pytest.raises(ValueError, match="'DDTI' holds cases of DDTI, None .*give one's own folder another name"):
        divide(mixed)


@pytest.mark.parametrize("dataset", GROUPS["unseen"])
def test_all_of_an_unseen_data_set_tests(dataset):
    assert sizes(divide(cases(7, dataset)), dataset) == {"train": 0, "validation": 0, "test": 7}


def test_an_image_without_a_split_follows_the_others_of_its_patient():
    data = [case(f"a{i}", "own", patient_id="a") for i in range(5)] + [case("a9", "own", patient_id="a", split="test")]
    assert sizes(divide(data), "own") == {"train": 0, "validation": 0, "test": 6}


def test_objects_of_one_image_in_two_splits_are_refused():
    data = [case("a", split="train"), case("a", split="test", class_id=2)]
    with pytest.raises(ValueError, match="BUSI/a is of patient None in train and of patient None in test"):
        divide(data)


def test_in_five_folds_every_patient_tests_once_and_validates_once():
    data = [case(f"{p}-{i}", "own", patient_id=str(p), split="train") for p in range(12) for i in range(2)]
    tested, validated = Counter(), Counter()
    for fold in range(5):
        splits = divide_in_folds(data, 5, fold, seed=4)
        patients = {split: {name.split("-")[0] for name in splits.lists["own"][split]} for split in SPLITS}
        assert not patients["train"] & (patients["validation"] | patients["test"])
        assert not patients["validation"] & patients["test"]
        assert sum(sizes(splits, "own").values()) == 24
        tested.update(patients["test"])
        validated.update(patients["validation"])
    assert tested == validated == Counter(str(p) for p in range(12))


@pytest.mark.parametrize(
    "num_folds, fold, message", [(2, 0, "at least 3 folds"), (5, 5, "fold=5"), (5, 0, "own has 4 patients")]
)
def test_folds_that_cannot_be_are_refused(num_folds, fold, message):
    with pytest.raises(ValueError, match=message):
        divide_in_folds(cases(4, "own"), num_folds, fold)


def test_the_file_of_lists_gives_the_same_splits_and_applies_them(tmp_path):
    data = cases(10)
    splits = divide(data, seed=5).without({"BUSI": {"BUSI-3": "copy of BUSI-4"}})
    splits.save(tmp_path / "lists" / "splits.json")
    again = Splits.load(tmp_path / "lists" / "splits.json")
    assert again == splits
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["splits.json"]
    placed = again.apply(data)
    assert len(placed) == 9 and "BUSI-3" not in {each.name for each in placed}
    assert all(each.name in splits.lists["BUSI"][each.split] for each in placed)
    assert again.of(data[3]) is None
    with pytest.raises(ValueError, match="no split names BUSI/other"):
        again.apply([case("other")])


@pytest.mark.parametrize(
    "content, message",
    [
        ("no json", "cannot be read as split lists"),
        (json.dumps({"seed": 0}), "cannot be read as split lists"),
        (
            json.dumps({"rule": "", "seed": 0, "lists": {"a": {"dev": []}}}),
            "other splits than train, validation, test",
        ),
        (
            json.dumps({"rule": "", "seed": 0, "lists": {"a": {"train": ["x"], "test": ["x"]}}}),
            "a/x is in train and in",
        ),
    ],
)
def test_a_wrong_file_of_lists_is_refused(tmp_path, content, message):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Splits.load(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Splits.load(tmp_path / "none.json")

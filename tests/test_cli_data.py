"""`ccsam-hf data`: what each command writes and prints, and its one line for wrong input."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.cli.main import main
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import simulate, write_folder
from ccsam_hf.data.splits import Splits


@pytest.fixture(scope="module")
def own_original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli") / "own"
    write_folder(directory, count=20, seed=0, targets=("breast lesion", "left atrium"), size=(96, 96))
    return directory


@pytest.fixture
def own(own_original, tmp_path):
    shutil.copytree(own_original, tmp_path / "own")
    return tmp_path / "own"


def test_build_writes_a_set_and_prints_its_counts(own, tmp_path, capsys):
    assert main(["data", "build", f"folder={own}", "--output", str(tmp_path / "set")]) == 0
    assert "own: train 14, validation 2, test 4 cases" in capsys.readouterr().out
    assert len(read_cases(tmp_path / "set", "built")) == 20
    assert main(["data", "build", f"folder={own}", "--output", str(tmp_path / "set")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_build_in_folds(own, tmp_path, capsys):
    for fold in range(5):
        arguments = ["--folds", "5", "--fold", str(fold), "--output", str(tmp_path / f"fold{fold}")]
        assert main(["data", "build", f"folder={own}", *arguments]) == 0
    tested = [
        {case.name for case in read_cases(tmp_path / f"fold{fold}", "built") if case.split == "test"}
        for fold in range(5)
    ]
    assert len(set.union(*tested)) == sum(len(names) for names in tested) == 20
    assert main(["data", "build", f"folder={own}", "--folds", "5", "--output", str(tmp_path / "x")]) == 2
    assert "--folds and --fold belong together" in capsys.readouterr().err


def test_audit_reports_a_copy_and_fix_leaves_it_out_of_the_build(own, tmp_path, capsys):
    names = sorted(path.stem for path in (own / "images").iterdir())
    shutil.copy(own / "images" / f"{names[0]}.png", own / "images" / "copy.png")
    shutil.copy(own / "masks" / f"{names[0]}.png", own / "masks" / "copy.png")
    (own / "images" / f"{names[5]}.png").write_bytes(b"torn")
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    assert main(["data", "audit", f"folder={own}", "--output", str(tmp_path / "audit"), "--fix"]) == 0
    printed = capsys.readouterr().out
    assert "copy" in printed and names[5] in printed and "left out 2 images" in printed
    assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
    found = json.loads((tmp_path / "audit" / "findings.json").read_text())
    assert str(own) not in json.dumps(found) + (tmp_path / "audit" / "splits.json").read_text()
    assert found and Image.open(tmp_path / "audit" / "contact_sheet.png").size[0] > 0
    splits = Splits.load(tmp_path / "audit" / "splits.json")
    assert names[5] in splits.removed["own"] and {"copy", names[0]} & set(splits.removed["own"])
    lists = str(tmp_path / "audit" / "splits.json")
    assert main(["data", "build", f"folder={own}", "--splits", lists, "--output", str(tmp_path / "set")]) == 0
    assert len(read_cases(tmp_path / "set", "built")) == 19


def test_show_writes_a_sheet_of_images_with_outlines(own, tmp_path, capsys):
    sheet = tmp_path / "sheets" / "sheet.png"
    assert main(["data", "show", f"folder={own}", "--count", "3", "--output", str(sheet)]) == 0
    assert "wrote 3 of 20 images" in capsys.readouterr().out
    pixels = np.asarray(Image.open(sheet)).astype(int)
    coloured = (pixels.max(axis=2) - pixels.min(axis=2) > 60).sum()
    assert coloured > 100  # the simulator's images are grey, outlines are not
    assert main(["data", "show", f"folder={own}", "--split", "test", "--output", str(sheet)]) == 0
    assert "wrote 4 of 4 images" in capsys.readouterr().out
    assert main(["data", "show", f"folder={own}", "--count", "0", "--output", str(sheet)]) == 2


def test_push_says_what_would_go_up(own, tmp_path, capsys):
    assert main(["data", "build", f"folder={own}", "--output", str(tmp_path / "set")]) == 0
    assert main(["data", "push", str(tmp_path / "set"), "--repo-id", "me/set", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert (
        "data/own/train-00000-of-00001.parquet" in printed and "would go to me/set (private if it is new)" in printed
    )
    assert main(["data", "push", str(own), "--repo-id", "me/set", "--dry-run"]) == 2
    assert "has no build.json" in capsys.readouterr().err


def test_a_built_set_is_evaluated_by_split(own, tmp_path, capsys):
    assert main(["data", "build", f"folder={own}", "--output", str(tmp_path / "set")]) == 0
    arguments = ["evaluate", "--data", str(tmp_path / "set"), "--layout", "built", "--prompt", "box"]
    assert main([*arguments, "--split", "test", "--output", str(tmp_path / "results")]) == 0
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert summary["all"]["n"] == 4 and summary["split"] == "test"
    assert main(["evaluate", "--data", str(own), "--prompt", "box", "--split", "test", "--output", "x"]) == 2
    assert "has no case in split 'test'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["build", "audit", "show"])
def test_wrong_sources_are_one_line(command, tmp_path, capsys):
    assert main(["data", command, str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "is not LAYOUT=PATH" in error and error.count("\n") == 1


def test_three_objects_of_an_image_share_a_tile(tmp_path, capsys):
    heart = simulate("left ventricle", 3, (64, 64))
    root = tmp_path / "US30K" / "Echocardiography-CAMUS"
    label = sum(
        heart.masks[name] * value for value, name in enumerate(("left ventricle", "myocardium", "left atrium"), 1)
    )
    for folder, pixels in (("img", heart.image), ("label", label.astype(np.uint8))):
        (root / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(root / folder / "0001_2CH_000.png")
    lists = tmp_path / "US30K" / "MainPatient"
    lists.mkdir()
    (lists / "class.json").write_text('{"Echocardiography-CAMUS": 4}')
    (lists / "train.txt").write_text("".join(f"{i}/Echocardiography-CAMUS/0001_2CH_000\n" for i in (1, 2, 3)))
    arguments = ["data", "show", f"us30k={tmp_path / 'US30K'}", "--output", str(tmp_path / "sheet.png")]
    assert main(arguments) == 0
    assert "wrote 1 of 1 images" in capsys.readouterr().out

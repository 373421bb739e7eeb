"""The command line writes exactly the documented files, and answers wrong input with status 2 and one line."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ccsam_hf import CCSamImageProcessor, CCSamProcessor
from ccsam_hf.cli import main
from ccsam_hf.pipeline_ccsam import CCSamPipeline

BOX = ["--box", "30", "20", "120", "90"]
SECOND_BOX = ["--box", "60", "50", "150", "110"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tiny_model_original) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model_original.save_pretrained(folder)
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def case(tmp_path, rng) -> str:
    path = tmp_path / "case.png"
    Image.fromarray(rng.integers(0, 256, (120, 200), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture
def segment(model_dir, tmp_path):
    def run(*arguments: str) -> int:
        return main(["segment", "--model", model_dir, "--output", str(tmp_path / "out"), *arguments])

    return run


def written(tmp_path) -> list[str]:
    folder = tmp_path / "out"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_one_object(segment, case, tmp_path, model_dir):
    assert segment(case, *BOX) == 0
    assert written(tmp_path) == ["case.json", "case_mask.png", "case_overlay.png"]
    (expected,) = CCSamPipeline.from_pretrained(model_dir)(case, boxes=[[30, 20, 120, 90]])
    mask = np.asarray(Image.open(tmp_path / "out" / "case_mask.png"))
    assert mask.dtype == np.uint8 and np.array_equal(mask, expected.mask * np.uint8(255))
    assert Image.open(tmp_path / "out" / "case_overlay.png").size == (200, 120)
    content = json.loads((tmp_path / "out" / "case.json").read_text())
    assert list(content) == ["objects"]
    (found,) = content["objects"]
    assert found["box"] == [30, 20, 120, 90] and found["label"] is None and found["mask"] == "case_mask.png"
    assert found["score"] == pytest.approx(expected.score)
    assert found["area_px"] == mask.sum() // 255 and "area_mm2" not in found


def test_several_boxes_are_several_objects_and_several_points_are_one(segment, case, tmp_path):
    assert segment(case, *BOX, *SECOND_BOX) == 0
    assert written(tmp_path) == ["case.json", "case_mask_0.png", "case_mask_1.png", "case_overlay.png"]
    assert len(json.loads((tmp_path / "out" / "case.json").read_text())["objects"]) == 2
    assert segment(case, "--point", "50", "40", "1", "--point", "10", "10", "0") == 0
    assert len(json.loads((tmp_path / "out" / "case.json").read_text())["objects"]) == 1
    assert segment(case, *BOX, "--point", "50", "40", "1") == 0
    assert len(json.loads((tmp_path / "out" / "case.json").read_text())["objects"]) == 1


def test_spacing_and_draws(segment, case, tmp_path):
    assert segment(case, *BOX, "--spacing", "0.2", "0.1", "--num-samples", "2") == 0
    assert "case_uncertainty.png" in written(tmp_path)
    (found,) = json.loads((tmp_path / "out" / "case.json").read_text())["objects"]
    assert found["area_mm2"] == pytest.approx(found["area_px"] * 0.02)
    assert {"longest_diameter_mm", "short_axis_mm", "longest_diameter_px"} <= set(found)


def test_several_images_share_the_prompts(segment, case, tmp_path):
    second = tmp_path / "second.jpg"
    Image.open(case).save(second)
    assert segment(case, str(second), *BOX) == 0
    assert {"case.json", "second.json", "case_mask.png", "second_mask.png"} <= set(written(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no prompt was given; expected --text T, or --box"),
        (["--box", "30", "20", "500", "90"], "case.png: box (30, 20, 500, 90) reaches outside the image"),
        (["--box", "120", "20", "30", "90"], "wrong order"),
        (["--box", "0.1", "0.1", "0.5", "0.5"], "must be pixels"),
        (["--box", "30", "20", "30", "90"], "has no area"),
        (["--box", "nan", "20", "30", "90"], "NaN"),
        (["--point", "300", "20", "1"], "outside the image"),
        (["--point", "30", "20", "7"], "holds 7; expected 1"),
        (["--box", "1", "2", "3"], "expected 4 arguments; see ccsam-hf segment --help"),
        (["--box", "1", "2", "x", "4"], "invalid float value: 'x'"),
        ([*BOX, *SECOND_BOX, "--point", "50", "40", "1"], "at most one --box"),
        ([*BOX, "--text", "nodule"], "--text came with --box or --point"),
        (["--text", " "], "text is ' '; expected the name of a target"),
        (["--text", "left ventricle"], "has no folder 'grounder' beside its weights: give grounder="),
        ([*BOX, "--every-instance", "--fallback", "best_box"], "--every-instance, --fallback came without --text"),
        ([*BOX, "--spacing", "0", "1"], "two numbers above zero"),
        ([*BOX, "--num-samples", "1"], "num_samples=1"),
        ([*BOX, "--num-samples", "many"], "invalid int value"),
        ([*BOX, "--colour", "red"], "unrecognized arguments"),
    ],
)
def test_wrong_use_is_status_2_with_one_line_and_no_file(segment, case, tmp_path, capsys, arguments, message):
    assert segment(case, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.err.startswith("ccsam-hf: ")
    assert captured.out == "" and written(tmp_path) == []


def test_a_bad_file_among_several_stops_before_any_is_written(segment, case, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert segment(case, str(broken), *BOX) == 2
    assert "broken.png is not an image that can be read" in capsys.readouterr().err
    assert segment(case, str(tmp_path / "absent.png"), *BOX) == 2
    assert "absent.png does not exist" in capsys.readouterr().err
    assert written(tmp_path) == []


def test_two_images_of_one_name_are_refused(segment, case, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    Image.open(case).save(other / "case.bmp")
    assert segment(case, str(other / "case.bmp"), *BOX) == 2
    error = capsys.readouterr().err
    assert "would both write case_mask.png" in error and error.count("\n") == 1
    assert written(tmp_path) == []


def test_a_failed_write_leaves_nothing_half_written(segment, case, tmp_path, capsys, monkeypatch):
    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("ccsam_hf.cli.os.replace", full_disk)
    assert segment(case, *BOX) == 2
    assert "No space left" in capsys.readouterr().err
    assert written(tmp_path) == []


def test_an_output_that_is_a_file_is_refused(case, model_dir, capsys):
    assert main(["segment", case, *BOX, "--model", model_dir, "--output", case]) == 2
    assert "is a file; expected a folder" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_refused(case, tmp_path, capsys):
    assert main(["segment", case, *BOX, "--model", str(tmp_path / "absent"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["segement"], ["data"], ["evaluate", "--prompt", "text"], ["convert", "vgg"]]
)
def test_unknown_commands_and_choices_are_status_2(capsys, arguments):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "--help" in error and error.count("\n") == 1


def test_help_is_status_0(capsys):
    for arguments in (["--help"], ["segment", "--help"], ["data", "simulate", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
    assert "--target" in capsys.readouterr().out


def test_the_process_ends_with_the_status():
    ended = subprocess.run([sys.executable, "-m", "ccsam_hf.cli", "segment"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("ccsam-hf: the following arguments are required") and ended.stderr.count("\n") == 1


def test_evaluate_hands_its_options_to_the_harness(monkeypatch, capsys, tmp_path):
    calls = []

    def evaluate_directory(*arguments):
        calls.append(arguments)
        return {"nodule": {"dice": {"mean": 88.123}, "n": 7}, "prompt": "box"}

    module = SimpleNamespace(evaluate_directory=evaluate_directory)
    monkeypatch.setitem(sys.modules, "ccsam_hf.evaluation.harness", module)
    out = tmp_path / "out"
    options = ["--model", "m", "--data", "d", "--layout", "busi", "--prompt", "box", "--output", str(out)]
    assert main(["evaluate", *options, "--split", "test"]) == 0
    ((model, data, layout, prompt, protocol, output, grounder, split, draws, num_samples),) = calls
    assert (model, str(data), layout, prompt, protocol, output) == ("m", "d", "busi", "box", "samus", out)
    assert (grounder, split, draws, num_samples) == (None, "test", 1, None)
    assert "nodule: Dice 88.12, 7 objects" in capsys.readouterr().out


def test_convert_prints_the_report(monkeypatch, capsys, tmp_path):
    calls = []

    def convert_checkpoint(kind, checkpoint, output_dir, base):
        calls.append((kind, checkpoint, output_dir))
        return SimpleNamespace(summary=lambda: "177 tensors loaded")

    monkeypatch.setitem(
        sys.modules, "ccsam_hf.weight_conversion", SimpleNamespace(convert_checkpoint=convert_checkpoint)
    )
    assert main(["convert", "samus", "samus.pth", str(tmp_path / "out")]) == 0
    assert [(kind, str(checkpoint), output) for kind, checkpoint, output in calls] == [
        ("samus", "samus.pth", tmp_path / "out")
    ]
    assert capsys.readouterr().out == "177 tensors loaded\n"


def test_simulated_cases_can_be_written_and_segmented(segment, tmp_path, capsys):
    arguments = ["data", "simulate", "--output", str(tmp_path / "cases"), "--count", "1", "--seed", "3"]
    assert main([*arguments, "--target", "breast lesion"]) == 0
    (image,) = (tmp_path / "cases" / "images").iterdir()
    (mask,) = (tmp_path / "cases" / "masks").iterdir()
    assert Image.open(image).size == Image.open(mask).size
    assert segment(str(image), *BOX) == 0
    assert main(arguments) == 2  # the folder is not empty
    assert main(["data", "simulate", "--output", str(tmp_path / "x"), "--count", "1", "--target", "kidney"]) == 2
    assert main(["data", "simulate", "--output", str(tmp_path / "x"), "--count", "0"]) == 2

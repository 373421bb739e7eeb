"""The command line writes exactly the documented files, and answers wrong input with status 2 and one line."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ccsam_hf import CCSamImageProcessor, CCSamProcessor
from ccsam_hf.cli.main import main
from ccsam_hf.data.readers import read_cases
from ccsam_hf.image_files import read_image
from ccsam_hf.pipeline_ccsam import CCSamPipeline
from test_image_files import region, write_dicom

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


def test_threshold_parts_precision_and_threads_can_be_chosen(segment, case, tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)

    def area(*arguments: str) -> int:
        assert segment(case, *BOX, *arguments) == 0
        (found,) = json.loads((tmp_path / "out" / "case.json").read_text())["objects"]
        return found["area_px"]

    whole = area("--keep", "all", "--threads", "1", "--device", "cpu", "--dtype", "bfloat16")
    assert threads == [1]
    assert area("--keep", "all", "--threshold", "0.3") >= whole >= area("--keep", "all", "--threshold", "0.7")


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
        ([*BOX, "--threshold", "50"], "threshold=50.0 was given; expected a probability"),
        ([*BOX, "--keep", "one"], "invalid choice: 'one'"),
        ([*BOX, "--device", "nowhere"], "device 'nowhere' cannot be used here"),
        ([*BOX, "--threads", "0"], "invalid positive value: '0'"),
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

    monkeypatch.setattr("ccsam_hf.files.os.replace", full_disk)
    assert segment(case, *BOX) == 2
    assert "No space left" in capsys.readouterr().err
    assert written(tmp_path) == []


# --- folders and files for other programs ----------------------------------------------------------------------------

IDENTITY = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}


@pytest.fixture
def folder(tmp_path, rng) -> Path:
    """Two pictures, one of them in a folder below, and files that are none."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for name in ("b.png", "sub/a.jpg", ".hidden/c.png"):
        Image.fromarray(rng.integers(0, 256, (120, 200), dtype=np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no image")
    (root / "sub" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    return root


def mask_of(tmp_path, name: str) -> np.ndarray:
    return np.asarray(Image.open(tmp_path / "out" / name)) > 0


def test_a_folder_is_all_images_in_it_and_the_rest_is_named(segment, folder, tmp_path, capsys):
    assert segment(str(folder), *BOX) == 0
    assert written(tmp_path) == [f"{stem}{end}" for stem in "ab" for end in (".json", "_mask.png", "_overlay.png")]
    captured = capsys.readouterr()
    assert captured.out.index("b.png: ") < captured.out.index("a.jpg: ")  # by path, not by name
    passed_over = [folder / "notes.txt", folder / "sub" / "DICOMDIR"]
    assert captured.err.splitlines() == [f"{path}: no image, passed over" for path in passed_over]


def test_folders_that_cannot_be_used_are_refused(segment, folder, tmp_path, capsys, model_dir):
    Image.open(folder / "b.png").save(folder / "sub" / "b.bmp")
    assert segment(str(folder), *BOX) == 2
    assert "b.png and" in (error := capsys.readouterr().err) and "would both write b_mask.png" in error
    (folder / "sub" / "b.bmp").write_bytes(b"damaged")
    assert segment(str(folder / "sub"), *BOX) == 2
    assert "b.bmp is not an image that can be read" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert segment(str(tmp_path), *BOX) == 2
    assert "whose images are segmented; expected another folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert segment(str(tmp_path / "empty"), *BOX) == 2
    assert "empty holds no image" in capsys.readouterr().err
    assert written(tmp_path) == []


def test_coco_of_a_folder_is_read_back_beside_its_images(segment, folder, tmp_path, capsys):
    assert segment(str(folder), *BOX, *SECOND_BOX, "--annotations", "coco") == 0
    assert "2 image(s), 0 without objects, in annotations_coco.json" in capsys.readouterr().out
    shutil.copy(tmp_path / "out" / "annotations_coco.json", folder / "annotations.json")
    cases = {case.name: case for case in read_cases(folder, "coco")}
    assert cases.keys() == {"b", "sub/a"} and {case.target for case in cases.values()} == {"object"}
    for name, case in cases.items():
        masks = [mask_of(tmp_path, f"{Path(name).name}_mask_{i}.png") for i in range(2)]
        assert np.array_equal(case.mask, masks[0] | masks[1])


def test_annotations_for_every_tool_in_one_call(segment, folder, tmp_path):
    tools = ["--annotations", "coco", "--annotations", "cvat", "--annotations", "label-studio"]
    assert segment(str(folder), *BOX, *tools, "--image-prefix", "/data/local-files/?d=us/") == 0
    files = ["annotations_coco.json", "annotations_cvat.xml", "annotations_label_studio.json", "label_config.xml"]
    assert [name for name in written(tmp_path) if name.startswith(("annotations", "label"))] == files
    tasks = json.loads((tmp_path / "out" / files[2]).read_text())
    names = ["b.png", "sub/a.jpg"]
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d=us/{name}" for name in names]
    cvat = ElementTree.parse(tmp_path / "out" / files[1]).getroot()
    assert [image.get("name") for image in cvat.findall("image")] == names
    assert 'value="object"' in (tmp_path / "out" / files[3]).read_text()


def test_an_image_where_nothing_was_found_is_listed_without_objects(segment, folder, tmp_path, capsys, monkeypatch):
    real = CCSamPipeline.__call__
    reason = "the best box scores 0.1, below 0.3"

    def half_found(self, image, **prompts):
        (result,) = real(self, image, boxes=[[30, 20, 120, 90]])
        fields = {"label": "cyst", "text": "cyst"}
        if not half_found.calls:
            nothing = np.zeros_like(result.mask)
            fields |= {"mask": nothing, "box": None, "score": 0.0, "reason": reason}
        half_found.calls += 1
        return [dataclasses.replace(result, **fields)]

    half_found.calls = 0
    monkeypatch.setattr(CCSamPipeline, "__call__", half_found)
    assert segment(str(folder), "--text", "cyst", "--annotations", "coco", "--annotations", "label-studio") == 0
    out = capsys.readouterr().out
    assert f"b.png: {reason}" in out and out.endswith("\nwithout objects: b.png\n") and "1 without objects" in out
    content = json.loads((tmp_path / "out" / "annotations_coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["b.png", "sub/a.jpg"]
    assert [category["name"] for category in content["categories"]] == ["cyst"]
    assert [annotation["image_id"] for annotation in content["annotations"]] == [2]
    tasks = json.loads((tmp_path / "out" / "annotations_label_studio.json").read_text())
    assert [len(task["predictions"]) for task in tasks] == [0, 1]


def test_what_labelling_tools_do_not_show_as_it_is_comes_along_as_png(segment, tmp_path, rng):
    values = rng.integers(0, 256, (120, 200), dtype=np.uint8)
    write_dicom(tmp_path / "us.dcm", values)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(values.T.copy()).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    pages = [Image.fromarray(values), Image.fromarray(255 - values)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    paths = [str(tmp_path / name) for name in ("us.dcm", "turned.jpg", "deep.png", "pages.tif")]
    assert segment(*paths, *BOX, "--annotations", "coco") == 0
    cases = read_cases(tmp_path / "out", "coco")
    assert [case.name for case in cases] == ["deep_image", "pages_image", "turned_image", "us_image"]
    assert np.array_equal(cases[3].image, values) and np.array_equal(cases[0].image, values)
    assert np.array_equal(cases[2].image, read_image(tmp_path / "turned.jpg")[0])
    assert all(np.array_equal(case.mask, mask_of(tmp_path, f"{case.name[:-6]}_mask.png")) for case in cases)


def test_formats_of_a_picture(segment, case, tmp_path):
    nibabel, highdicom = pytest.importorskip("nibabel"), pytest.importorskip("highdicom")
    formats = ["--format", "png", "--format", "nifti", "--format", "dicom-seg"]
    assert segment(case, *BOX, *SECOND_BOX, *formats, "--spacing", "0.5", "0.25") == 0
    extra = {"case_image.dcm", "case_masks.nii.gz", "case_seg.dcm"}
    plain = {"case.json", "case_mask_0.png", "case_mask_1.png", "case_overlay.png"}
    assert set(written(tmp_path)) == extra | plain
    masks = np.stack([mask_of(tmp_path, f"case_mask_{i}.png") for i in range(2)])
    labels = nibabel.load(tmp_path / "out" / "case_masks.nii.gz")
    assert np.array_equal(labels.affine, np.diag([-0.25, -0.5, 1, 1]))
    assert np.array_equal(np.asarray(labels.dataobj).T > 0, masks.any(axis=0))
    picture, spacing = read_image(tmp_path / "out" / "case_image.dcm")
    assert np.array_equal(picture, Image.open(case)) and spacing == (0.5, 0.25)
    segmentation = highdicom.seg.segread(tmp_path / "out" / "case_seg.dcm")
    ((_, _, source),) = segmentation.get_source_image_uids()
    (pixels,) = segmentation.get_pixels_by_source_instance([source])
    assert np.array_equal(np.moveaxis(pixels, 2, 0), masks)


def test_a_frame_of_a_loop_in_all_formats(segment, tmp_path, rng):
    highdicom, nibabel = pytest.importorskip("highdicom"), pytest.importorskip("nibabel")
    loop = rng.integers(0, 256, (3, 120, 200), dtype=np.uint8)
    attributes = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1", "SequenceOfUltrasoundRegions": [region(0.02, 0.01)]}
    path = write_dicom(tmp_path / "loop.dcm", loop, **IDENTITY, **attributes)
    formats = ["--format", "nifti", "--format", "dicom-seg", "--annotations", "coco"]
    assert segment(str(path), *BOX, "--frame", "2", *formats) == 0
    assert "loop_image.dcm" not in written(tmp_path)  # the source is DICOM itself
    assert np.array_equal(Image.open(tmp_path / "out" / "loop_image.png"), loop[2])
    mask = mask_of(tmp_path, "loop_mask.png")
    segmentation = highdicom.seg.segread(tmp_path / "out" / "loop_seg.dcm")
    assert np.array_equal(segmentation.get_pixels_by_source_frame("1.2.3.4", [3])[0, ..., 0], mask)
    affine = nibabel.load(tmp_path / "out" / "loop_masks.nii.gz").affine
    assert np.allclose(affine, np.diag([-0.1, -0.2, 1, 1]))
    assert segment(str(path), *BOX, "--frame", "3") == 2


def test_a_dicom_file_that_no_segmentation_can_refer_to_stops_before_any_is_written(
    segment, case, tmp_path, rng, capsys
):
    pytest.importorskip("highdicom")
    path = write_dicom(tmp_path / "us.dcm", rng.integers(0, 256, (120, 200), dtype=np.uint8))
    assert segment(case, str(path), *BOX, "--format", "dicom-seg") == 2
    assert "us.dcm: the source lacks StudyInstanceUID" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1 and written(tmp_path) == []


@pytest.mark.parametrize(
    ("library", "option"),
    [("nibabel", "--format=nifti"), ("highdicom", "--format=dicom-seg"), ("pycocotools", "--annotations=coco")],
)
def test_an_absent_library_is_said_before_the_model_is_loaded(
    segment, case, tmp_path, capsys, monkeypatch, library, option
):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(CCSamPipeline, "from_pretrained", None)
    assert segment(case, *BOX, option) == 2
    assert f'{library}: pip install "ccsam-hf[data]"' in capsys.readouterr().err and written(tmp_path) == []


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
    ended = subprocess.run([sys.executable, "-m", "ccsam_hf.cli.main", "segment"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("ccsam-hf: the following arguments are required") and ended.stderr.count("\n") == 1


def test_evaluate_hands_its_options_to_the_harness(monkeypatch, capsys, tmp_path):
    calls = []

    def evaluate_directory(*arguments):
        calls.append(arguments)
        entry = {"dice": {"mean": 88.123, "ci95": [80.0, 95.5]}, "n": 7, "n_missed": 0}
        clicks = {"dice_1": {"mean": 70.0}, "noc85": {"mean": 3.5, "n_not_reached": 2}, "n_missed": 1}
        return {"nodule": entry, "cyst": entry | clicks, "prompt": "box", "baseline": {"ellipse": entry}}

    monkeypatch.setattr("ccsam_hf.cli.evaluate.evaluate_directory", evaluate_directory)
    out = tmp_path / "out"
    options = ["--model", "m", "--data", "d", "--layout", "busi", "--prompt", "box", "--output", str(out)]
    assert main(["evaluate", *options, "--split", "test", "--splits", "lists.json"]) == 0
    ((model, data, layout, prompt, protocol, output, *others),) = calls
    assert (model, str(data), layout, prompt, protocol, output) == ("m", "d", "busi", "box", "samus", out)
    assert others == [None, "test", 1, None, None, None, Path("lists.json")]  # grounder, split, ..., target, splits
    printed = capsys.readouterr().out
    assert "nodule: Dice 88.12 [80.00, 95.50], 7 objects\n" in printed
    assert "7 objects, 1 of them missed; 70.00 after one click, NoC@85 (IoU) 3.50, not reached by 2\n" in printed
    assert "blind baseline (ellipse): Dice 88.12" in printed
    assert main(["evaluate", *options, "--limit", "5", "--target", "nodule"]) == 0 and calls[1][-3:-1] == (5, "nodule")


def test_convert_prints_the_report(monkeypatch, capsys, tmp_path):
    calls = []

    def convert_checkpoint(kind, checkpoint, output_dir, base):
        calls.append((kind, checkpoint, output_dir))
        return SimpleNamespace(summary=lambda: "177 tensors loaded")

    monkeypatch.setitem(
        sys.modules, "ccsam_hf.conversion.weights", SimpleNamespace(convert_checkpoint=convert_checkpoint)
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


def test_files_named_by_their_uids_have_results_of_their_own_and_reports_are_named(segment, tmp_path, rng, capsys):
    study, names = tmp_path / "study", ["1.2.826.0.1.498.1", "1.2.826.0.1.498.2"]
    study.mkdir()
    for name in names:
        write_dicom(study / name, rng.integers(0, 256, (60, 80), dtype=np.uint8))
    report = pytest.importorskip("pydicom").dcmread(study / names[0])
    del report.PixelData, report.Rows, report.Columns
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
    report.save_as(study / "1.2.826.0.1.498.3")
    assert segment(str(study), "--box", "10", "10", "50", "40") == 0
    assert {f"{name}.json" for name in names} <= set(written(tmp_path))
    assert "1.2.826.0.1.498.3.json" not in written(tmp_path)
    assert "1.2.826.0.1.498.3: no image" in capsys.readouterr().err

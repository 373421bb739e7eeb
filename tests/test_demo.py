"""The demo without a browser: what a session does, what is downloaded, what scripts get, and what a Space holds."""

import importlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import gradio
import nibabel
import numpy as np
import pytest
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from ccsam_hf import DEFAULT, CCSamPipeline
from ccsam_hf.data.simulator import simulate
from ccsam_hf.evaluation.metrics import dice
from ccsam_hf.formats.annotations import to_cvat, to_label_studio
from ccsam_hf.formats.dicom_headers import dicom_bytes
from ccsam_hf.formats.secondary_capture import secondary_capture
from ccsam_hf.hub.card_check import check_card
from ccsam_hf.hub.cards import space_card
from hub_server import connect, serve

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"
MODULES = [path.stem for path in DEMO.glob("*.py")]
LESION = "breast.png"
BOX = [93.0, 68.0, 216.0, 164.0]


@pytest.fixture(scope="module")
def demo():
    """The modules of the demo by name; afterwards nothing of them is left in the process."""
    sys.path.insert(0, str(DEMO))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(DEMO))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def pipe() -> CCSamPipeline:
    return CCSamPipeline.from_pretrained(DEFAULT)


@pytest.fixture
def lesion(demo):
    """A session with the example lesion open."""
    return demo.session.open_file(demo.session.Session(), DEMO / "examples" / LESION)


@pytest.fixture
def calls(demo, monkeypatch) -> list[str]:
    """What the models are asked to do."""
    done = []
    for name in ("encode", "decode", "uncertainties"):
        original = getattr(demo.shared_models, name)
        counted = lambda *args, name=name, original=original: done.append(name) or original(*args)  # noqa: E731
        monkeypatch.setattr(demo.shared_models, name, counted)
    return done


@pytest.fixture
def loop(demo, tmp_path) -> Path:
    """A cine loop of a simulated heart."""
    demo.example_cases.write_loop(simulate("left ventricle", 2_000_000_004), tmp_path / "loop.dcm")
    return tmp_path / "loop.dcm"


# --- a session -------------------------------------------------------------------------------------------------------


def test_an_image_is_encoded_once_and_the_threshold_asks_no_model(demo, lesion, calls, pipe):
    session = demo.session.add_box(lesion, BOX)
    session = demo.session.add_point(session, 150, 110, 1)
    session = demo.session.find_texts(session, "breast lesion, left ventricle")
    assert calls == ["decode"] * 3
    lesion_found, missing = session.results
    expected, _ = pipe(DEMO / "examples" / LESION, text=["breast lesion", "left ventricle"])
    assert np.array_equal(lesion_found.mask, expected.mask) and lesion_found.mask.any()
    assert not missing.mask.any() and missing.reason
    low, high = (demo.session.use_threshold(session, value).results[0] for value in (0.1, 0.9))
    assert high.measurements.area_px < lesion_found.measurements.area_px < low.measurements.area_px
    assert calls == ["decode"] * 3
    of_low, _ = pipe(DEMO / "examples" / LESION, text=["breast lesion", "left ventricle"], threshold=0.1)
    assert np.array_equal(low.mask, of_low.mask)


def test_boxes_in_any_order_of_corners_points_undo_and_clear(demo, lesion, pipe):
    x0, y0, x1, y1 = BOX
    for corners in (BOX, [x1, y0, x0, y1], [x0, y1, x1, y0], [x1, y1, x0, y0]):
        session = demo.session.add_box(lesion, corners)
        assert session.boxes == (tuple(BOX),)
    assert demo.session.add_box(session, [10, 10, 40, 40]).boxes == ((10, 10, 40, 40),)
    both = demo.session.add_box(session, [10, 10, 40, 40], keep=True)
    assert len(both.results) == 2
    assert demo.session.undo(both, "boxes").boxes == session.boxes
    pointed = demo.session.add_point(demo.session.add_point(session, 150, 110, 1), 20, 20, 0)
    (expected,) = pipe(DEMO / "examples" / LESION, points=[[[150, 110], [20, 20]]], labels=[[1, 0]])
    assert np.array_equal(pointed.results[0].mask, expected.mask)
    assert demo.session.undo(pointed, "points").points == ((150, 110),)
    assert demo.session.clear(pointed, "points").results == ()


def test_an_uncertainty_map_leaves_the_masks_alone(demo, lesion):
    session = demo.session.add_box(lesion, BOX)
    sure = demo.session.use_uncertainty(session, True)
    assert np.array_equal(sure.results[0].mask, session.results[0].mask)
    uncertainty = sure.results[0].uncertainty
    assert uncertainty.shape == session.results[0].mask.shape and 0 < uncertainty.max() <= 0.5
    assert demo.session.use_uncertainty(sure, False).results[0].uncertainty is None


def test_a_spacing_measures_in_millimetres_and_half_of_one_is_refused(demo, lesion):
    session = demo.session.use_spacing(demo.session.add_box(lesion, BOX), 0.5, 0.25)
    measured = session.results[0].measurements
    assert measured.area_mm2 == pytest.approx(measured.area_px * 0.125)
    assert demo.session.use_spacing(session, 0, 0).results[0].measurements.area_mm2 is None
    with pytest.raises(ValueError, match="one of two spacings came"):
        demo.session.use_spacing(session, 0.5, None)


def test_a_loop_is_read_frame_by_frame_with_its_spacing(demo, loop, pipe):
    session = demo.session.open_file(demo.session.Session(), loop)
    assert session.source.num_frames == 16 and session.spacing_mm is not None
    session = demo.session.go_to_frame(demo.session.find_texts(session, "left ventricle"), 8)
    (expected,) = pipe(session.image, text="left ventricle")
    assert np.array_equal(session.results[0].mask, expected.mask)
    assert session.results[0].measurements.longest_diameter_mm > 0


def test_what_cannot_be_done_is_said(demo, lesion, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    refused = {
        "notes.png is not an image that can be read": lambda: demo.session.open_file(lesion, tmp_path / "notes.png"),
        "no image is open": lambda: demo.session.find_texts(demo.session.Session(), "lesion"),
        "no target was named": lambda: demo.session.find_texts(lesion, " , "),
        "is outside the image, which is 256 x 256": lambda: demo.session.add_point(lesion, 300, 10, 1),
        "a point lacks a coordinate": lambda: demo.session.add_point(lesion, 3, None, 1),
        "holds nothing: draw it wider": lambda: demo.session.add_box(lesion, [5, 5, 5, 9]),
        "there is no result to download": lambda: demo.downloads.write_results(lesion, ["png"]),
        "no image is accepted yet": lambda: demo.downloads.write_annotations(lesion, "COCO"),
        "nothing is outlined that could be accepted": lambda: demo.session.accept(lesion),
        "a comparison takes two or more": lambda: demo.comparison.compare(lesion),
        "is not offered here; choose one of ccsam-small": lambda: demo.session.use_model(lesion, "/etc"),
        "13 targets were named; at most 12": lambda: demo.session.find_texts(lesion, ",".join("abcdefghijklm")),
        "there are 12 boxes already": lambda: demo.session.add_box(replace(lesion, boxes=(BOX,) * 12), BOX, keep=True),
        "threshold 1 came; expected a probability": lambda: demo.session.use_threshold(lesion, 1),
    }
    for message, act in refused.items():
        with pytest.raises(ValueError, match=message):
            act()


def test_the_accepted_list_has_each_image_once_and_keeps_its_masks(demo, lesion, loop, tmp_path):
    session = demo.session.add_box(lesion, BOX)
    accepted = demo.session.accept(session, "  a   mass ")
    assert [label for label, _, _ in accepted.accepted[0].annotated.objects] == ["a mass"]
    lower = demo.session.use_threshold(accepted, 0.1)
    assert np.array_equal(lower.accepted[0].annotated.objects[0][1], session.results[0].mask)
    again = demo.session.accept(lower)
    assert len(again.accepted) == 1
    assert np.array_equal(again.accepted[0].annotated.objects[0][1], lower.results[0].mask)
    (tmp_path / "breast.png").write_bytes((DEMO / "examples" / "heart.png").read_bytes())
    namesake = demo.session.add_box(demo.session.open_file(again, tmp_path / "breast.png"), BOX)
    with pytest.raises(ValueError, match="another image called breast.png is accepted already"):
        demo.session.accept(namesake)
    beating = demo.session.add_box(demo.session.open_file(again, loop), BOX)
    both = demo.session.accept(demo.session.go_to_frame(demo.session.accept(beating), 8))
    assert [each.annotated.file_name for each in both.accepted] == ["breast.png", "loop_frame1.png", "loop_frame9.png"]


def test_prompts_are_compared_in_pairs(demo, lesion):
    session = demo.session.add_point(demo.session.add_box(lesion, BOX), 150, 110, 1)
    comparison = demo.comparison.compare(session)
    assert comparison.names == ["points", "box 1"] and len(comparison.pictures) == 2
    assert comparison.dice[0, 1] == dice(*(result.mask for result in comparison.results)) > 0.5


# --- downloads -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scan(lesion, tmp_path) -> Path:
    """The example lesion as a DICOM file of one frame."""
    path = tmp_path / "scan.dcm"
    path.write_bytes(dicom_bytes(secondary_capture(lesion.image, (0.5, 0.25), name="scan")))
    return path


@pytest.mark.parametrize("kind", ["breast", "scan", "loop"])
def test_files_hold_the_masks_and_lie_on_the_image(demo, lesion, scan, loop, kind):
    import highdicom
    import pydicom

    session = lesion if kind == "breast" else demo.session.open_file(lesion, {"scan": scan, "loop": loop}[kind])
    if kind == "scan":
        assert session.spacing_mm == (0.5, 0.25)
    if kind == "loop":
        session = demo.session.go_to_frame(session, 8)
    session = demo.session.add_box(session, BOX)
    session = demo.session.add_box(session, [20, 30, 90, 120], keep=True)
    session = demo.session.use_threshold(demo.session.use_spacing(session, 0.5, 0.25), 0.4)
    files = {path.name: path for path in demo.downloads.write_results(session, ["png", "nifti", "dicom-seg", "json"])}
    masks = [result.mask for result in session.results]
    stem = "loop_frame9" if kind == "loop" else kind
    for i, mask in enumerate(masks):
        assert np.array_equal(np.asarray(Image.open(files[f"{stem}_mask_{i}.png"])) == 255, mask)
    volume = nibabel.load(files[f"{stem}_masks.nii.gz"])
    assert np.array_equal(volume.affine, np.diag([-0.25, -0.5, 1, 1]))
    assert np.array_equal(np.asarray(volume.dataobj).T > 0, masks[0] | masks[1])
    assert ("breast_image.dcm" in files) == (kind == "breast") and not any(name.startswith(".") for name in files)
    source = pydicom.dcmread({"scan": scan, "loop": loop}.get(kind) or files["breast_image.dcm"])
    segmentation = highdicom.seg.segread(files[f"{stem}_seg.dcm"])
    read = segmentation.pixel_array.reshape(-1, *masks[0].shape)
    assert np.array_equal(read, masks)
    referenced = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    assert referenced == source.SOPInstanceUID and (source.Rows, source.Columns) == masks[0].shape
    frame = source.pixel_array[8] if kind == "loop" else source.pixel_array
    assert np.array_equal(frame[..., 0] if frame.ndim == 3 else frame, np.asarray(session.image.convert("L")))
    (of_frame,) = {
        item.get("ReferencedFrameNumber", 1)
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for item in group.DerivationImageSequence[0].SourceImageSequence
    }
    assert of_frame == (9 if kind == "loop" else 1)
    about = json.loads(files[f"{stem}.json"].read_text())
    assert (about["threshold"], about["frame"]) == (0.4, 8 if kind == "loop" else 0)
    assert [each["area_px"] for each in about["objects"]] == [mask.sum() for mask in masks]
    assert "Not a medical device" in about["notice"]


def test_accepted_images_are_exported_together(demo, lesion, loop):
    from pycocotools import mask as coco_masks

    session = demo.session.accept(demo.session.add_box(lesion, BOX), "mass")
    first = session.results[0].mask
    session = demo.session.find_texts(demo.session.open_file(session, loop), "left ventricle")
    session = demo.session.accept(session)
    assert len(session.accepted) == 2
    files = {path.name: path for path in demo.downloads.write_annotations(session, "COCO")}
    coco = json.loads(files["annotations_coco.json"].read_text())
    assert [image["file_name"] for image in coco["images"]] == ["breast.png", "loop_frame1.png"]
    assert [category["name"] for category in coco["categories"]] == ["left ventricle", "mass"]
    assert np.array_equal(coco_masks.decode(coco["annotations"][0]["segmentation"]), first)
    assert np.array_equal(np.asarray(Image.open(files["loop_frame1.png"]).convert("L")), np.asarray(session.image))
    images = [each.annotated for each in session.accepted]
    files = {path.name: path for path in demo.downloads.write_annotations(session, "Label Studio")}
    assert set(files) == {"annotations_label_studio.json", "label_config.xml", "loop_frame1.png"}
    assert json.loads(files["annotations_label_studio.json"].read_text()) == to_label_studio(images)
    assert all(f'value="{label}"' in files["label_config.xml"].read_text() for label in ("left ventricle", "mass"))
    files = {path.name: path for path in demo.downloads.write_annotations(session, "CVAT")}
    assert set(files) == {"annotations_cvat.xml", "loop_frame1.png"}
    assert files["annotations_cvat.xml"].read_text() == to_cvat(images)


# --- what scripts call -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(demo, tmp_path_factory):
    """The demo behind a port, with a cache that no other server on this machine empties."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        blocks = demo.app.build()
        _, address, _ = demo.app.serve(blocks, prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
        yield address
        blocks.close()


def test_scripts_get_the_masks_of_the_pipeline_each_their_own(url, pipe, tmp_path):
    clients = [Client(url, verbose=False, download_files=tmp_path / str(number)) for number in range(2)]
    images = [DEMO / "examples" / name for name in ("breast.png", "heart.png")]
    asked = [
        ({"text": "breast lesion"}, {"text": "breast lesion"}),
        ({"text": "left ventricle, left atrium"}, {"text": ["left ventricle", "left atrium"]}),
        ({"boxes": [BOX]}, {"boxes": [BOX]}),
        (
            {"points": [[150, 110], [20, 20]], "labels": [1, 0]},
            {"points": [[[150, 110], [20, 20]]], "labels": [[1, 0]]},
        ),
    ]
    for request, prompts in asked:
        with ThreadPoolExecutor(2) as at_once:
            answers = at_once.map(
                lambda client, image, request=request: client.predict(
                    image=handle_file(image), **request, api_name="/segment"
                ),
                clients,
                images,
            )
        for image, (files, found) in zip(images, answers, strict=True):
            expected = pipe(image, **prompts)
            masks = [np.asarray(Image.open(path)) == 255 for path in files]
            assert len(masks) == len(expected) == len(found["objects"])
            for mask, result, told in zip(masks, expected, found["objects"], strict=True):
                assert np.array_equal(mask, result.mask) and told["area_px"] == result.mask.sum()


def test_a_script_is_told_what_is_wrong(url, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    client = Client(url, verbose=False, download_files=tmp_path)
    image = {"image": handle_file(DEMO / "examples" / LESION)}
    for request, message in (
        ({"image": handle_file(tmp_path / "notes.png"), "text": "lesion"}, "is not an image that can be read"),
        (image, "no prompt came; expected one of text"),
        (image | {"text": "lesion", "boxes": [BOX]}, "text and boxes came; expected one of"),
        (image | {"boxes": BOX}, "came; expected a list that holds a list of 4 numbers"),
        (image | {"boxes": [BOX] * 13}, "13 boxes came; at most 12"),
        (image | {"points": [["left", 3]]}, "came; expected a list that holds a list of 2 numbers"),
        (image | {"points": [[150, 110]], "labels": [1, 0]}, "2 labels came for 1 points"),
        (image | {"points": [[150, 110]], "labels": 1}, "labels 1 came; expected a list"),
        (image | {"points": [[150, 110]], "labels": [2]}, "expected 1 .inside. or 0 .outside."),
        (image | {"points": [[1500, 110]]}, "is outside the image, which is 256 x 256"),
        (image | {"boxes": [BOX], "spacing_mm": [0.5]}, "expected .millimetres between rows"),
        (image | {"boxes": [BOX], "threshold": 2}, "expected a probability between 0 and 1"),
        (image | {"boxes": [BOX], "frame": 3}, "frame"),
        (image | {"boxes": [BOX], "formats": []}, "expected one or more of png"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(**request, api_name="/segment")
    files, found = client.predict(**image, boxes=[BOX], text=None, points=None, spacing_mm=None, api_name="/segment")
    assert len(files) == len(found["objects"]) == 1


def test_the_example_of_the_readme_runs(url, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (DEMO / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "case.png").write_bytes((DEMO / "examples" / LESION).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Client, "__init__", partialmethod(Client.__init__, download_files=tmp_path, verbose=False))
    printed = io.StringIO()
    exec(block.replace("http://127.0.0.1:7860", url), {"print": lambda *values: print(*values, file=printed)})
    assert printed.getvalue().startswith("[") and "_mask.png" in printed.getvalue()


@pytest.mark.slow
def test_a_server_that_is_stopped_leaves_no_file_of_a_user(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    command = [sys.executable, "-u", str(DEMO / "app.py"), "--host", "127.0.0.1"]
    environment["TMPDIR"] = str(folder)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = next(line for line in process.stdout if "http://" in line).split()[-1]
            client = Client(address, verbose=False, download_files=tmp_path / "downloads")
            client.predict(image=handle_file(DEMO / "examples" / LESION), boxes=[BOX], api_name="/segment")
            assert list(folder.rglob("breast_mask.png")) and list(folder.rglob("image.png"))
        finally:
            process.terminate()
    assert [path for path in folder.rglob("*") if path.is_file()] == []


PLACES_OF_MEMORY = """
import ctypes, sys, threading
import app

libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p

def places():
    file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    return open(sys.argv[1]).read().count("<heap nr=")

def start(count):  # threads that have taken memory and live on
    taken = threading.Barrier(count + 1)
    def take():
        kept = bytearray(50_000)
        taken.wait()
        threading.Event().wait()
    for _ in range(count):
        threading.Thread(target=take, daemon=True).start()
    taken.wait()

found = [places()]
start(4)
found.append(places())
app.share_memory_among_threads()
start(8)
found.append(places())
print(*found, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_more_threads_of_the_server_take_no_more_places_of_memory(tmp_path):
    command = [sys.executable, "-c", PLACES_OF_MEMORY, str(tmp_path / "places.xml")]
    ran = subprocess.run(command, cwd=DEMO, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    at_first, with_threads, with_more = map(int, ran.stdout.split())
    assert at_first < with_threads == with_more


# --- the Space -------------------------------------------------------------------------------------------------------


def test_the_requirements_are_those_of_the_package_and_of_what_the_space_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["demo"], *extras["data"]]
    listed = [line for line in (DEMO / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(listed) == sorted(each for each in needed if not each.startswith("ccsam-hf"))


def test_the_front_matter_is_that_of_the_card():
    text = (DEMO / "README.md").read_text()
    check_card(text, "space")
    version = re.search(r"^sdk_version: (\S+)$", text, flags=re.MULTILINE).group(1)
    assert text.startswith(space_card(version).rstrip())
    assert version.split(".")[0] == gradio.__version__.split(".")[0]


def test_the_readme_states_the_limits_that_hold(demo):
    text = " ".join((DEMO / "README.md").read_text().split())
    for words in (
        f"at most {demo.app.MAX_FILE_SIZE.removesuffix('mb')} MB, a request {demo.session.MAX_OBJECTS} objects",
        f"accepted images has at most {demo.session.MAX_ACCEPTED} entries",
        f"more than {demo.app.MAX_SESSIONS} sessions",
        f"after {demo.app.KEPT_S // 60} minutes where the page is still open, after an hour where it was closed",
    ):
        assert words in text
    assert SessionState(demo.app.build()).STATE_TTL_WHEN_CLOSED == 3600  # gradio's, of pages that were closed
    assert demo.app.KEPT_S + demo.app.CHECKED_EVERY_S < 3600  # files in its cache


def test_the_examples_are_the_simulated_cases_of_their_seeds(demo):
    for case in demo.example_cases.example_cases():
        if not case.is_loop:
            assert np.array_equal(
                np.asarray(Image.open(DEMO / "examples" / case.file)), simulate(case.target, case.seed).image
            )


@pytest.mark.slow
def test_an_assembled_space_runs_by_itself(demo, tmp_path):
    files = demo.assemble.assemble(tmp_path / "space")
    names = {path.as_posix() for path in files}
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "examples/breast.png"} <= names
    assert {"ccsam_hf/assets/ccsam-small/model.safetensors", "ccsam_hf/hub_cards/model_card.md"} <= names
    assert not {"assemble.py", "benchmark.py"} & names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pyi"))]
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        demo.assemble.assemble(tmp_path / "space")
    code = "import app, sys; app.build(); print(*{str(each.__file__) for each in sys.modules.values()"
    code += " if getattr(each, '__file__', None)}, sep='\\n')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "space", env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    loaded = [Path(line) for line in ran.stdout.splitlines()]
    own = {path.relative_to(tmp_path / "space").as_posix() for path in loaded if tmp_path in path.parents}
    assert {"app.py", "session.py", "ccsam_hf/__init__.py", "ccsam_hf/pipeline_ccsam.py"} <= own
    assert not [path for path in loaded if path.is_relative_to(ROOT) and "site-packages" not in path.parts]


def test_a_space_is_pushed_in_one_commit_and_private_unless_asked(demo, monkeypatch, tmp_path, capsys):
    def assemble(folder: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["assemble.py", str(tmp_path / folder), *arguments])
        demo.assemble.main()

    with serve(tmp_path / "hub") as hub:
        connect(hub, demo.assemble, monkeypatch)
        assemble("private", "--push", "me/private")
        assert hub.repositories["spaces/me/private"].private
        pushed = {path: (tmp_path / "private" / path).read_bytes() for path in hub.files("spaces/me/private")}
        assert len(pushed) > 100 and pushed == hub.files("spaces/me/private")
        assert [each["sdk"] for each in hub.created] == ["gradio"]
        assert len(hub.history("spaces/me/private")) == 2  # the Hub's own first commit, and the push
        url = capsys.readouterr().out.splitlines()[-1]
        assert url == f"{hub.url}/spaces/me/private/commit/{hub.repositories['spaces/me/private'].branches['main']}"

        assemble("public", "--push", "me/public", "--public")
        assert not hub.repositories["spaces/me/public"].private
        api = demo.assemble.HfApi()
        api.upload_file(path_or_fileobj=b"old", path_in_repo="old.py", repo_id="me/public", repo_type="space")
        with pytest.raises(SystemExit):
            assemble("again", "--push", "me/public")
        assert "me/public exists and is public" in capsys.readouterr().err
        assert "old.py" in hub.files("spaces/me/public")
        assemble("once-more", "--push", "me/public", "--public")
        assert hub.files("spaces/me/public") == pushed
        assert hub.unknown == []
    with pytest.raises(SystemExit):
        assemble("private")
    assert "is not an empty folder; choose another" in capsys.readouterr().err

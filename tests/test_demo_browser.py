"""The demo in a real browser: prompts, slider, loop, files, bad input, a phone, the dark, the keyboard, names."""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from ccsam_hf import DEFAULT, CCSamPipeline

playwright = pytest.importorskip("playwright.sync_api")

DEMO = Path(__file__).resolve().parents[1] / "demo"
MODULES = [path.stem for path in DEMO.glob("*.py")]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CASE = DEMO / "examples" / "breast.png"
CORNERS = ("x0", "y0", "x1", "y1")
SECOND_BOX = [100.0, 80.0, 200.0, 150.0]
PATIENCE = 120_000  # ms, for machines with other work
PHONE = {"width": 390, "height": 844}
NAMED = {
    "application",
    "button",
    "checkbox",
    "combobox",
    "img",
    "link",
    "radio",
    "slider",
    "spinbutton",
    "tab",
    "textbox",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url():
    """The demo behind a port; afterwards nothing of its modules is left in the process."""
    sys.path.insert(0, str(DEMO))
    app = importlib.import_module("app")
    blocks = app.build()
    _, address, _ = app.serve(blocks, prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
    yield address
    blocks.close()
    sys.path.remove(str(DEMO))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def browser():
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with playwright.sync_playwright() as started:
        path = path or started.chromium.executable_path  # playwright's own, where that was installed
        if not Path(path).exists():
            pytest.skip(f"none of {', '.join(BROWSERS)} is installed, nor playwright's own Chromium")
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = started.chromium.launch(executable_path=path, args=options)
        yield launched
        launched.close()


@pytest.fixture
def page(browser, url):
    """A page of the demo with nothing open; what goes wrong in it is kept in `page.faults`."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    opened.faults = []
    opened.on("pageerror", lambda error: opened.faults.append(str(error)))
    opened.on(
        "response", lambda answer: answer.status >= 400 and opened.faults.append(f"{answer.status} {answer.url}")
    )
    opened.goto(url)
    opened.wait_for_selector("#find")
    yield opened
    content = opened.content()
    opened.close()
    assert "Traceback" not in content
    assert opened.faults == []


@pytest.fixture(scope="module")
def pipe() -> CCSamPipeline:
    return CCSamPipeline.from_pretrained(DEFAULT)


def upload(page, path: Path) -> None:
    page.set_input_files("#upload input[type=file]", path)
    wait_for_message(page, path.name)


def wait_for_message(page, words: str) -> None:
    page.wait_for_function("words => document.querySelector('#picture .message').innerText.includes(words)", arg=words)


def open_example(page, title: str, objects: int) -> None:
    page.get_by_role("button", name=title).click()
    page.wait_for_function("count => document.querySelectorAll('#results tbody tr').length === count", arg=objects)


def find(page, text: str) -> None:
    page.fill("#text textarea, #text input", text)
    page.click("#find")
    page.wait_for_selector("#results table")


def areas(page) -> list[int]:
    """Pixels of each object in the table."""
    cells = page.locator("#results tbody tr").evaluate_all("rows => rows.map(row => row.children[1].innerText)")
    return [int("".join(filter(str.isdigit, cell.split("px")[0].splitlines()[-1]))) for cell in cells]


def changed_areas(page, before: list[int]) -> list[int]:
    """Pixels of each object once they are others than before."""
    page.wait_for_function(
        """before => {
            const row = document.querySelector('#results tbody tr');
            return row && !row.children[1].innerText.includes(before);
        }""",
        arg=f"{before[0]:,} px",
    )
    return areas(page)


def on_screen(page, x: float, y: float) -> tuple[float, float]:
    """The middle of a pixel of the open image."""
    page.locator("#picture .stage").evaluate("stage => stage.scrollIntoView({block: 'center'})")
    frame = page.locator("#picture img").bounding_box()
    width, height = Image.open(CASE).size
    return frame["x"] + (x + 0.5) / width * frame["width"], frame["y"] + (y + 0.5) / height * frame["height"]


def type_box(page, corners: list[float]) -> None:
    for name, value in zip(CORNERS, corners, strict=True):
        page.fill(f"#{name} input", str(value))
    page.click("#add-box")


def saved_files(page, listing: str, folder: Path) -> dict[str, Path]:
    """Save all files that a list on the page offers."""
    links = page.locator(f"{listing} a[download]")
    links.first.wait_for()
    saved = {}
    for link in links.all():
        with page.expect_download() as event:
            link.click()
        path = folder / event.value.suggested_filename
        event.value.save_as(path)
        saved[path.name] = path
    return saved


def unnamed(page) -> list[str]:
    """Roles of what a screen reader meets and cannot call by a name."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    shown = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    assert len([role for role, _ in shown if role in NAMED]) > 15
    return [role for role, name in shown if role in NAMED and not name.strip()]


def test_an_uploaded_image_is_found_by_text_and_its_files_hold_the_mask(page, pipe, tmp_path):
    import highdicom

    upload(page, CASE)
    find(page, "breast lesion")
    (expected,) = pipe(CASE, text="breast lesion")
    assert areas(page) == [expected.mask.sum()]
    for name in ("NIfTI", "DICOM-SEG"):
        page.get_by_label(name).check()
    page.click("#make-files")
    files = saved_files(page, "#files", tmp_path)
    assert np.array_equal(np.asarray(Image.open(files["breast_mask.png"])) == 255, expected.mask)
    volume = nibabel.load(files["breast_masks.nii.gz"])
    assert np.array_equal(np.asarray(volume.dataobj).T == 1, expected.mask)
    assert np.array_equal(volume.affine, np.diag([-1, -1, 1, 1]))
    segmentation = highdicom.seg.segread(files["breast_seg.dcm"])
    assert np.array_equal(segmentation.pixel_array.reshape(expected.mask.shape), expected.mask)
    assert json.loads(files["breast.json"].read_text())["objects"][0]["area_px"] == expected.mask.sum()


def test_an_example_is_outlined_and_a_lower_threshold_grows_it_without_the_model(page, monkeypatch):
    pictures = page.locator("#examples img")
    assert pictures.count() == 4
    page.wait_for_function("() => [...document.querySelectorAll('#examples img')].every(each => each.naturalWidth)")
    open_example(page, "Heart, three structures", objects=3)
    before = areas(page)
    assert min(before) > 0
    asked = []
    for name in ("encode", "decode"):
        monkeypatch.setattr(sys.modules["shared_models"], name, lambda *_, name=name: asked.append(name))
    number = page.locator("#threshold input[type=number]")
    number.fill("0.2")
    number.press("Enter")
    assert all(new > old for new, old in zip(changed_areas(page, before), before, strict=True))
    assert asked == []


def test_clicks_inside_and_outside_are_taken_back_one_by_one(page, pipe):
    upload(page, CASE)
    page.get_by_role("tab", name="Points").click()
    assert [page.input_value(f"#{name} input") for name in "xy"] == ["", ""]
    page.mouse.click(*on_screen(page, 150, 110))
    page.wait_for_selector("#results table")
    point = [float(page.input_value(f"#{name} input")) for name in "xy"]
    assert np.abs(np.subtract(point, [150, 110])).max() <= 1
    one = [pipe(CASE, points=[point])[0].mask.sum()]
    assert areas(page) == one

    page.get_by_label("Outside").check()
    page.fill("#x input", "120")
    page.fill("#y input", "120")
    page.click("#add-point")
    two = [pipe(CASE, points=[[*point], [120, 120]], labels=[1, 0])[0].mask.sum()]
    assert changed_areas(page, one) == two != one
    page.click("#undo-point")
    assert changed_areas(page, two) == one
    page.click("#clear-points")
    page.wait_for_function("() => !document.querySelector('#results table')")


def test_boxes_are_dragged_and_typed_then_compared_and_exported(page, pipe, tmp_path):
    upload(page, CASE)
    page.get_by_role("tab", name="Box", exact=True).click()
    page.mouse.move(*on_screen(page, 93, 68))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 150, 120), steps=3)
    page.mouse.move(*on_screen(page, 216, 164), steps=3)
    page.mouse.up()
    wait_for_message(page, "box 1")
    dragged = [float(page.input_value(f"#{name} input")) for name in CORNERS]
    assert np.abs(np.subtract(dragged, [93, 68, 216, 164])).max() <= 1
    page.get_by_label("Add to the boxes").check()
    type_box(page, SECOND_BOX)
    wait_for_message(page, "box 2")
    expected = [result.mask.sum() for result in pipe(CASE, boxes=[dragged, SECOND_BOX])]
    assert areas(page) == expected
    type_box(page, [20, 20, 999, 80])
    wait_for_message(page, "x 999, y 80 is outside the image, which is 256 x 256 pixels")

    page.get_by_role("tab", name="Uncertainty").click()
    page.get_by_label("Show how sure").check()
    page.wait_for_selector("#uncertainty img[alt^='Uncertainty']")
    assert areas(page) == expected
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare")
    page.wait_for_selector("#comparison-table table")
    page.wait_for_selector("#comparison .gallery-item")
    assert page.locator("#comparison .gallery-item").count() == 2
    page.get_by_role("tab", name="Export").click()
    page.fill("#label input, #label textarea", "lesion")
    page.click("#accept")
    page.wait_for_selector("#accepted table")
    page.click("#export")
    coco = json.loads(saved_files(page, "#annotations", tmp_path)["annotations_coco.json"].read_text())
    assert [each["area"] for each in coco["annotations"]] == expected
    assert [each["name"] for each in coco["categories"]] == ["lesion"]
    assert unnamed(page) == []


def test_a_loop_is_asked_again_on_another_frame_and_measured_in_its_own_spacing(page):
    open_example(page, "Heart, DICOM loop", objects=2)
    first = areas(page)
    number = page.locator("#frame input[type=number]")
    number.fill("9")
    number.press("Enter")
    assert changed_areas(page, first)[0] < first[0]  # the ventricle has contracted
    assert "mm²" in page.inner_text("#results")


def test_an_unknown_pixel_size_is_empty_and_half_of_one_waits_for_the_rest(page):
    upload(page, CASE)
    find(page, "breast lesion")
    page.get_by_role("button", name="Pixel size").click()
    assert [page.input_value(f"#{name} input") for name in ("row-mm", "column-mm")] == ["", ""]
    assert "mm²" not in page.inner_text("#results")
    page.fill("#row-mm input", "0.2")
    page.fill("#column-mm input", "0,2")
    page.press("#column-mm input", "Enter")
    page.wait_for_function("() => document.querySelector('#results').innerText.includes('mm²')")
    assert page.locator("#picture .message[data-kind=refused]").count() == 0
    page.fill("#row-mm input", "wide")
    page.press("#row-mm input", "Enter")
    wait_for_message(page, "'wide' was entered; expected a number")


def test_the_picture_takes_points_and_boxes_from_the_keyboard(page, pipe):
    upload(page, CASE)
    page.locator("#picture .stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for_message(page, "Outlined: points")
    assert [page.input_value(f"#{name} input") for name in "xy"] == ["133", "128"]
    page.locator("#picture .stage").focus()
    for key in ("b", *["ArrowRight"] * 8, *["ArrowUp"] * 8, "b"):
        page.keyboard.press(key)
    wait_for_message(page, "box 1")
    corners = [float(page.input_value(f"#{name} input")) for name in CORNERS]
    assert corners == [133, 88, 173, 128]
    assert areas(page) == [pipe(CASE, boxes=[corners])[0].mask.sum()]


def test_what_cannot_be_done_is_said_in_words_and_the_next_file_is_taken(page, tmp_path):
    page.fill("#text textarea, #text input", "left ventricle")
    page.click("#find")
    wait_for_message(page, "no image is open: upload one, or pick an example")
    (tmp_path / "notes.png").write_text("no image")
    page.set_input_files("#upload input[type=file]", tmp_path / "notes.png")
    wait_for_message(page, "notes.png is not an image that can be read")
    wait_for_message(page, "expected a PNG, JPEG, TIFF, BMP or DICOM file")
    upload(page, CASE)  # and on it goes
    page.wait_for_selector("#upload input[type=file]", state="attached")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_sideways_scrolling(browser, url, theme):
    page = browser.new_page(viewport=PHONE, color_scheme=theme)
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.wait_for_selector("#find")
    open_example(page, "Breast lesion", objects=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator("#make-files").scroll_into_view_if_needed()
    notice = page.locator("#notice").bounding_box()
    assert 0 <= notice["y"] < 100 and "Not a medical device" in page.inner_text("#notice")
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")  # rgb(r, g, b)
    brightness = sum(int(part) for part in color.split("(")[1].rstrip(")").split(",")[:3])
    assert (brightness < 200) == (theme == "dark")
    page.close()


def test_every_control_has_a_name(page):
    assert unnamed(page) == []
    open_example(page, "Heart, DICOM loop", objects=2)
    page.get_by_role("button", name="Pixel size").click()
    for tab, control in (("Points", "#x input"), ("Box", "#x0 input")):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_selector(control)
        assert unnamed(page) == []

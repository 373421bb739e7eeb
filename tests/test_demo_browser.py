"""The demo in a real browser: every way to prompt, slider, downloads, a bad file, a phone, the dark, the keyboard."""

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

from ccsam_hf import TINY, CCSamPipeline

playwright = pytest.importorskip("playwright.sync_api")

DEMO = Path(__file__).resolve().parents[1] / "demo"
MODULES = [path.stem for path in DEMO.glob("*.py")]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CASE = DEMO / "examples" / "breast.png"
PATIENCE = 60_000  # ms, for machines with other work
PHONE = {"width": 390, "height": 844}

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
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
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
    assert opened.faults == []
    opened.close()


@pytest.fixture(scope="module")
def pipe() -> CCSamPipeline:
    return CCSamPipeline.from_pretrained(TINY)


def upload(page, path: Path) -> None:
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_function("name => document.querySelector('#picture').innerText.includes(name)", arg=path.name)


def find(page, text: str) -> None:
    page.fill("#text textarea, #text input", text)
    page.click("#find")
    page.wait_for_function("() => document.querySelector('#results table')")


def areas(page) -> list[int]:
    """Pixels of each object in the table."""
    cells = page.locator("#results tbody tr").evaluate_all("rows => rows.map(row => row.children[1].innerText)")
    return [int("".join(filter(str.isdigit, cell.split("px")[0].splitlines()[-1]))) for cell in cells]


def download(page, names: list[str], folder: Path) -> dict[str, Path]:
    """Ask for formats, and save all files that come."""
    page.get_by_role("tab", name="Download").click()
    for box in page.locator("#formats input").all():
        box.set_checked(box.evaluate("box => box.closest('label').innerText.trim()") in names)
    page.click("#make-files")
    links = page.locator("#files a[download], #files a[href*='/file=']")
    links.first.wait_for()
    saved = {}
    for link in links.all():
        with page.expect_download() as event:
            link.click()
        path = folder / event.value.suggested_filename
        event.value.save_as(path)
        saved[path.name] = path
    return saved


def test_an_uploaded_image_is_found_by_text_and_its_files_hold_the_mask(page, pipe, tmp_path):
    import highdicom

    upload(page, CASE)
    find(page, "breast lesion")
    (expected,) = pipe(CASE, text="breast lesion")
    assert areas(page) == [expected.mask.sum()]
    files = download(page, ["PNG", "NIfTI", "DICOM-SEG", "JSON"], tmp_path)
    assert np.array_equal(np.asarray(Image.open(files["breast_mask.png"])) == 255, expected.mask)
    volume = nibabel.load(files["breast_masks.nii.gz"])
    assert np.array_equal(np.asarray(volume.dataobj).T == 1, expected.mask)
    assert np.array_equal(volume.affine, np.diag([-1, -1, 1, 1]))
    segmentation = highdicom.seg.segread(files["breast_seg.dcm"])
    assert np.array_equal(segmentation.pixel_array.reshape(expected.mask.shape), expected.mask)
    assert json.loads(files["breast.json"].read_text())["objects"][0]["area_px"] == expected.mask.sum()


def test_several_targets_and_a_threshold_that_moves_the_outline(page):
    page.get_by_role("button", name="Heart, three structures").click()
    page.wait_for_selector("#picture img")
    find(page, "left ventricle, left atrium, myocardium")
    before, table = areas(page), page.locator("#results tbody").inner_text()
    assert len(before) == 3 and min(before) > 0
    number = page.locator("#threshold input[type=number]")
    number.fill("0.2")
    number.press("Enter")
    page.wait_for_function("old => document.querySelector('#results tbody').innerText !== old", arg=table)
    assert all(new > old for new, old in zip(areas(page), before, strict=True))


def test_points_and_a_dragged_box_prompt_where_they_are_drawn(page, pipe):
    upload(page, CASE)
    page.get_by_role("tab", name="Points").click()
    frame = page.locator("#picture img").bounding_box()

    def place(x: float, y: float) -> tuple[float, float]:
        return frame["x"] + (x + 0.5) / 256 * frame["width"], frame["y"] + (y + 0.5) / 256 * frame["height"]

    page.mouse.click(*place(150, 110))
    page.wait_for_selector("#results table")
    x, y = (float(page.input_value(f"#{name} input")) for name in "xy")
    assert abs(x - 150) <= 1 and abs(y - 110) <= 1
    (expected,) = pipe(CASE, points=[[x, y]])
    assert areas(page) == [expected.mask.sum()]

    page.get_by_role("tab", name="Box", exact=True).click()
    frame = page.locator("#picture img").bounding_box()
    page.mouse.move(*place(93, 68))
    page.mouse.down()
    page.mouse.move(*place(150, 120), steps=3)
    page.mouse.move(*place(216, 164), steps=3)
    page.mouse.up()
    page.wait_for_function("() => document.querySelector('#results').innerText.includes('box 1')")
    corners = [float(page.input_value(f"#{name} input")) for name in ("x0", "y0", "x1", "y1")]
    assert np.abs(np.subtract(corners, [93, 68, 216, 164])).max() <= 1
    (expected,) = pipe(CASE, boxes=[corners])
    assert areas(page) == [expected.mask.sum()]


def test_the_picture_takes_points_from_the_keyboard(page):
    upload(page, CASE)
    page.get_by_role("tab", name="Points").click()
    page.locator("#picture [tabindex='0']").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results table")
    assert len(areas(page)) == 1


def test_a_bad_file_is_a_message_and_no_trace(page, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    page.set_input_files("#upload input[type=file]", tmp_path / "notes.png")
    page.wait_for_function("() => document.querySelector('#picture').innerText.includes('notes.png is not an image')")
    assert "Traceback" not in page.content()
    upload(page, CASE)  # and on it goes


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_sideways_scrolling(browser, url, theme):
    page = browser.new_page(viewport=PHONE, color_scheme=theme)
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector("#find")
    page.get_by_role("button", name="Breast lesion").click()
    page.wait_for_selector("#picture img")
    find(page, "breast lesion")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert "Not a medical device" in page.locator("#notice").inner_text()
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")  # rgb(r, g, b)
    brightness = sum(int(part) for part in color.split("(")[1].rstrip(")").split(",")[:3])
    assert (brightness < 200) == (theme == "dark")
    page.close()


def test_every_control_has_a_name(page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select')]
            .filter(each => each.offsetParent !== null && !each.closest('[aria-hidden=true]'))
            .filter(each => !(each.getAttribute('aria-label') || each.innerText || each.title
                || each.closest('label') || each.labels?.length || each.getAttribute('aria-labelledby')))
            .map(each => each.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []

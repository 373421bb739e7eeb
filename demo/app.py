"""The demo: `CCSamPipeline` plus widgets. `session` holds what a user has done, `picture` and `tables` show it.

python demo/app.py
"""

import argparse
import ctypes
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from types import SimpleNamespace
from typing import Any

import gradio as gr

import downloads
import shared_models
import tables
from ccsam_hf.image_files import ACCEPTED_FILES
from ccsam_hf.pixel_spacing import plain_spacing
from comparison import compare
from example_cases import ExampleCase, example_cases, path_of, thumbnail
from picture import picture, shown, uncertainty_figure
from scripting import Prompts, requested
from session import (
    DEFAULT_THRESHOLD,
    INSIDE,
    NOTICE,
    OUTSIDE,
    Session,
    accept,
    add_box,
    add_point,
    clear,
    close,
    find_texts,
    go_to_frame,
    open_file,
    undo,
    use_model,
    use_spacing,
    use_threshold,
    use_uncertainty,
)

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
TITLE = "CC-SAM ultrasound segmentation"
KEPT_S = 1800  # a session after its last use, and files in gradio's cache
CHECKED_EVERY_S = 300
MAX_SESSIONS = 200
MAX_FILE_SIZE = "200mb"
REFUSAL_S = 6  # that a refusal stays in the corner; below the picture it stays until the next event
REFUSALS = (ValueError, ImportError)  # whose words are for the user
TROUBLE = "Something went wrong here, and it has been noted. Try again, or open another image."
M_ARENA_MAX = -8  # of glibc's mallopt
ARENAS = 2
MARKS = {"Inside": INSIDE, "Outside": OUTSIDE}


class Desk:
    """One user's session, and a lock: a slow event and a quick one of the same user do not lose each other's work."""

    def __init__(self):
        self.lock = RLock()
        self.session = Session()
        self.turn = 0  # counts answers, so that the page takes one that says the same again

    def __deepcopy__(self, memo: dict) -> "Desk":
        """A new desk: gradio copies the first one for every user."""
        return Desk()


def main(argv: list[str] | None = None) -> None:
    """Load the bundled model and serve the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", help="default: 127.0.0.1, on a Space what gradio is told there")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped either way, users' files are removed
    share_memory_among_threads()
    shared_models.load(shared_models.BUNDLED)
    with TemporaryDirectory(prefix="ccsam-cache-") as cache:
        os.environ.setdefault("GRADIO_TEMP_DIR", cache)  # its own: a server that stops empties what it has used
        serve(build(), server_name=arguments.host, server_port=arguments.port)


def share_memory_among_threads() -> None:
    """Let all threads take memory from the same few places, where the C library is glibc.

    Left alone it gives every thread a place of its own, each of which keeps what it once needed: with gradio's many
    threads the server then grows for as long as it meets new ones (`benchmark.py`).
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_ARENA_MAX, ARENAS)


def serve(blocks: gr.Blocks, **options: Any) -> tuple:
    """Launch the demo with its looks and limits; `options` are those of `launch`."""
    blocks.queue(default_concurrency_limit=1)
    return blocks.launch(
        theme=theme(),
        css_paths=FOLDER / "app.css",
        max_file_size=MAX_FILE_SIZE,
        ssr_mode=False,
        footer_links=["api", "settings"],
        **options,
    )


def theme() -> gr.Theme:
    """Colours of at least 4.5 to 1 against their ground in light and dark, and fonts that no one has to download."""
    colors = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    )
    return colors.set(
        color_accent="*primary_700",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
    )


def build() -> gr.Blocks:
    """The page and its events."""
    with gr.Blocks(title=TITLE, delete_cache=(CHECKED_EVERY_S, KEPT_S), analytics_enabled=False) as blocks:
        blocks.state_session_capacity = MAX_SESSIONS
        ui = SimpleNamespace(
            desk=gr.State(Desk(), time_to_live=KEPT_S, delete_callback=lambda desk: close(desk.session))
        )
        gr.HTML(
            f"<p role='note'><strong>{NOTICE}</strong> Upload no image that shows who a patient is.</p>",
            elem_id="notice",
        )
        gr.Markdown(f"# {TITLE}\nName a structure, click on it, or draw a box around it.", elem_id="title")
        with gr.Column(elem_id="work"):
            with gr.Column(elem_id="opening"):
                lay_out_image(ui)
            with gr.Column(elem_id="look"):
                ui.picture = picture()
                ui.frame = gr.Slider(1, 2, value=1, step=1, label="Frame of the loop", visible=False, elem_id="frame")
                ui.table = gr.HTML(tables.results_table(Session()), visible=False, elem_id="results")
            with gr.Column(elem_id="ask"):
                lay_out_prompts(ui)
        with gr.Column(visible=False, elem_id="outcome") as ui.outcome:
            lay_out_more(ui)
        with gr.Accordion("How it works, what to expect, what is kept", open=False, elem_id="about"):
            gr.Markdown((FOLDER / "about.md").read_text())
        wire_image(ui)
        wire_prompts(ui)
        wire_more(ui)
        wire_api(ui)
    return blocks


# --- what stands on the page -----------------------------------------------------------------------------------------


def lay_out_image(ui: SimpleNamespace) -> None:
    """Upload and examples."""
    ui.upload = gr.File(label=f"Your image: {ACCEPTED_FILES}", type="filepath", height=104, elem_id="upload")
    gr.Markdown("Or a simulated example:", elem_id="examples-title")
    gr.set_static_paths([thumbnail(case) for case in example_cases()])  # the cache is emptied while the page is open
    with gr.Row(elem_id="examples"):
        ui.examples = [
            (case, gr.Button(case.title, icon=thumbnail(case), size="sm", min_width=140)) for case in example_cases()
        ]


def lay_out_prompts(ui: SimpleNamespace) -> None:
    """The three ways to say what is meant, and what changes the answer without asking anew."""
    with gr.Tabs(selected="text", elem_id="prompts") as ui.tabs:
        with gr.Tab("Text", id="text") as ui.text_tab:
            ui.text = gr.Textbox(
                label="What to outline",
                placeholder="left ventricle, left atrium",
                info="Several targets: separate them by commas. Enter starts the search.",
                lines=1,
                max_lines=4,
                elem_id="text",
            )
            ui.find = gr.Button("Find", variant="primary", elem_id="find")
        with gr.Tab("Points", id="points") as ui.points_tab:
            gr.Markdown(
                "Click in the picture, or type a place. All points belong to one object: white ones lie inside, "
                "black ones outside."
            )
            ui.mark = gr.Radio(list(MARKS), value="Inside", label="The next point lies", elem_id="mark")
            with gr.Row():
                ui.x = number_field("x", min_width=90, elem_id="x")
                ui.y = number_field("y", min_width=90, elem_id="y")
            ui.add_point = gr.Button("Add this point", elem_id="add-point")
            with gr.Row():
                ui.undo_point = gr.Button("Undo", min_width=90, elem_id="undo-point")
                ui.clear_points = gr.Button("Clear", min_width=90, elem_id="clear-points")
        with gr.Tab("Box", id="boxes") as ui.boxes_tab:
            gr.Markdown("Drag in the picture from corner to corner, or type both corners.")
            with gr.Row():
                ui.corners = [number_field(name, min_width=70, elem_id=name) for name in ("x0", "y0", "x1", "y1")]
            ui.keep = gr.Checkbox(label="Add to the boxes drawn before, one object each", elem_id="keep")
            ui.add_box = gr.Button("Use this box", elem_id="add-box")
            with gr.Row():
                ui.undo_box = gr.Button("Undo", min_width=90, elem_id="undo-box")
                ui.clear_boxes = gr.Button("Clear", min_width=90, elem_id="clear-boxes")
    ui.threshold = gr.Slider(
        0.05,
        0.95,
        value=DEFAULT_THRESHOLD,
        step=0.05,
        label="Threshold of the probability",
        info="Lower: larger masks. The model does not run again.",
        elem_id="threshold",
    )
    with gr.Accordion("Pixel size and model", open=False, elem_id="settings"):
        with gr.Row():
            ui.row_mm = number_field("mm between rows", placeholder="unknown", min_width=120, elem_id="row-mm")
            ui.column_mm = number_field(
                "mm between columns", placeholder="unknown", min_width=120, elem_id="column-mm"
            )
        ui.model = gr.Dropdown(
            shared_models.model_names(), value=shared_models.BUNDLED, label="Model", elem_id="model"
        )


def number_field(label: str, **settings: Any) -> gr.Textbox:
    """A field for a number that may stay empty; where gradio's own field for numbers is empty, it shows 0."""
    return gr.Textbox(label=label, max_lines=1, **settings)


def lay_out_more(ui: SimpleNamespace) -> None:
    """What can be done with a result."""
    with gr.Tabs(elem_id="more"):
        with gr.Tab("Download"):
            ui.formats = gr.CheckboxGroup(
                list(downloads.FORMATS), value=["PNG", "JSON"], label="Formats of the masks", elem_id="formats"
            )
            ui.make_files = gr.Button("Make the files", elem_id="make-files")
            ui.files = gr.File(label="Files", file_count="multiple", visible=False, interactive=False, elem_id="files")
        with gr.Tab("Uncertainty"):
            ui.with_uncertainty = gr.Checkbox(
                label="Show how sure the model is",
                info="Standard deviation of the probability over 8 draws of the fusion, at most 0.5.",
                elem_id="with-uncertainty",
            )
            ui.uncertainty = gr.HTML(visible=False, elem_id="uncertainty")
        with gr.Tab("Compare"):
            gr.Markdown("Give at least two prompts above, of any kind, then compare what each of them outlines.")
            ui.compare = gr.Button("Compare", elem_id="compare")
            ui.comparison = gr.Gallery(
                label="One picture for each prompt",
                columns=3,
                visible=False,
                interactive=False,
                height="auto",
                object_fit="contain",
                buttons=["download", "fullscreen"],
                elem_id="comparison",
            )
            ui.comparison_table = gr.HTML(elem_id="comparison-table")
        with gr.Tab("Export"):
            gr.Markdown("Accept the masks of several images, then export them for a labelling tool.")
            ui.label = gr.Textbox(label="Label of objects that no text named", placeholder="object", elem_id="label")
            with gr.Row():
                ui.accept = gr.Button("Accept these masks", elem_id="accept")
                ui.clear_accepted = gr.Button("Clear the list", elem_id="clear-accepted")
            ui.accepted = gr.HTML(tables.accepted_table(Session()), elem_id="accepted")
            ui.tool = gr.Radio(list(downloads.TOOLS), value=downloads.TOOLS[0], label="Labelling tool", elem_id="tool")
            ui.export = gr.Button("Export accepted", elem_id="export")
            ui.annotations = gr.File(
                label="Annotations", file_count="multiple", visible=False, interactive=False, elem_id="annotations"
            )


# --- what happens on it ----------------------------------------------------------------------------------------------


def event_of(ui: SimpleNamespace, change: Callable, also: Callable[[Session], dict] | None = None) -> Callable:
    """A function of the session as an event of the page.

    Args:
        ui: the page.
        change: session and values of widgets -> session; its refusals become the message in the page.
        also: session -> updates of widgets beyond those that every event brings.
    """

    def event(desk: Desk, *values: Any) -> dict:
        with desk.lock:
            session, refusal = attempted(change, desk.session, *values)
            desk.session = session or desk.session
            desk.turn += 1
            more = also(desk.session) if also and not refusal else {}
            return {ui.desk: desk, **seen(ui, desk, refusal), **more}

    return event


def made_from(make: Callable) -> Callable:
    """A function of the session that makes updates of widgets, and leaves the session as it is, as an event."""

    def event(desk: Desk, *values: Any) -> Any:
        with desk.lock:
            updates, refusal = attempted(make, desk.session, *values)
        return gr.skip() if refusal else updates

    return event


def attempted(function: Callable, *arguments: Any) -> tuple[Any, str | None]:
    """What a function returns, or None and why it refused; the reason is shown, and a trace is only logged."""
    refusal = None
    try:
        return function(*arguments), None
    except REFUSALS as error:
        refusal = str(error)
    except Exception:
        logger.exception("an event failed")
        refusal = TROUBLE
    gr.Warning(refusal, duration=REFUSAL_S, title="Not done")
    return None, refusal


def entered(text: str | None) -> float | None:
    """The number in a field, None where the field is empty."""
    if text is None or not text.strip():
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text.strip()!r} was entered; expected a number, such as 12 or 0.25")
    return value


def written(value: float | None) -> str:
    """A number as it stands in a field."""
    return "" if value is None else f"{value:g}"


def seen(ui: SimpleNamespace, desk: Desk, refusal: str | None) -> dict:
    """Updates of the widgets that show the session; files made before are of no result any more."""
    uncertainty = uncertainty_figure(desk.session)
    return {
        ui.picture: shown(desk.session, refusal) | {"turn": desk.turn},
        ui.table: gr.update(value=tables.results_table(desk.session), visible=bool(desk.session.asked)),
        ui.uncertainty: gr.update(value=uncertainty, visible=bool(uncertainty)),
        ui.files: gr.update(value=None, visible=False),
    }


def answers(ui: SimpleNamespace) -> list:
    """The widgets that `seen` updates, and the session."""
    return [ui.desk, ui.picture, ui.table, ui.uncertainty, ui.files]


def opened(ui: SimpleNamespace, session: Session) -> dict:
    """Updates of the widgets that belong to the opened image."""
    row_mm, column_mm = plain_spacing(session.spacing_mm) or (None, None)
    num_frames = session.source.num_frames
    return {
        ui.frame: gr.update(value=1, maximum=max(num_frames, 2), visible=num_frames > 1),
        ui.row_mm: written(row_mm),
        ui.column_mm: written(column_mm),
        ui.outcome: gr.update(visible=True),
        **dict.fromkeys([ui.x, ui.y, *ui.corners], ""),
    }


def open_example(session: Session, case: ExampleCase) -> Session:
    """Open an example and look for what its text names; what no PNG file says is known of it, its spacing."""
    return find_texts(open_file(session, path_of(case), case.spacing_mm), case.text)


def wire_image(ui: SimpleNamespace) -> None:
    """Opening, frames and the model."""
    of_image = [ui.outcome, ui.frame, ui.row_mm, ui.column_mm, ui.x, ui.y, *ui.corners]
    also = partial(opened, ui)
    ui.upload.upload(
        event_of(ui, open_file, also),
        [ui.desk, ui.upload],
        [*answers(ui), *of_image],
        api_name="open",
        api_visibility="undocumented",
    ).then(lambda: None, None, ui.upload, show_progress="hidden", api_visibility="private")  # free for the next file
    for case, button in ui.examples:
        button.click(
            event_of(
                ui, partial(open_example, case=case), lambda session, case=case: also(session) | {ui.text: case.text}
            ),
            ui.desk,
            [*answers(ui), *of_image, ui.text],
            api_visibility="private",
        )
    ui.frame.input(
        event_of(ui, lambda session, frame: go_to_frame(session, frame - 1)),
        [ui.desk, ui.frame],
        answers(ui),
        trigger_mode="always_last",
        api_visibility="private",
    )
    ui.model.input(event_of(ui, use_model), [ui.desk, ui.model], answers(ui), api_visibility="private")


def wire_prompts(ui: SimpleNamespace) -> None:
    """Texts, points, boxes, and what cuts and measures the answer."""
    outputs = answers(ui)
    for tab, mode in ((ui.text_tab, "text"), (ui.points_tab, "points"), (ui.boxes_tab, "boxes")):
        tab.select(
            lambda mode=mode: gr.update(mode=mode),
            None,
            ui.picture,
            show_progress="hidden",
            api_visibility="private",
        )
    gr.on(
        [ui.text.submit, ui.find.click],
        event_of(ui, find_texts),
        [ui.desk, ui.text],
        outputs,
        api_visibility="private",
    )
    ui.add_point.click(
        event_of(ui, lambda session, x, y, mark: add_point(session, entered(x), entered(y), MARKS[mark])),
        [ui.desk, ui.x, ui.y, ui.mark],
        outputs,
        api_name="point",
        api_visibility="undocumented",
    )
    ui.add_box.click(
        event_of(ui, lambda session, keep, *corners: add_box(session, [*map(entered, corners)], keep)),
        [ui.desk, ui.keep, *ui.corners],
        outputs,
        api_visibility="private",
    )
    for button, change in (
        (ui.undo_point, partial(undo, kind="points")),
        (ui.clear_points, partial(clear, kind="points")),
        (ui.undo_box, partial(undo, kind="boxes")),
        (ui.clear_boxes, partial(clear, kind="boxes")),
    ):
        button.click(event_of(ui, change), ui.desk, outputs, api_visibility="private")
    wire_picture(ui)
    ui.threshold.input(
        event_of(ui, use_threshold),
        [ui.desk, ui.threshold],
        outputs,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    for number in (ui.row_mm, ui.column_mm):
        for listen, change in ((number.submit, enter_spacing), (number.blur, leave_spacing)):
            listen(
                event_of(ui, change),
                [ui.desk, ui.row_mm, ui.column_mm],
                outputs,
                show_progress="hidden",
                api_visibility="private",
            )


def enter_spacing(session: Session, row_mm: str, column_mm: str) -> Session:
    """Take the spacing that stands in the two fields."""
    return use_spacing(session, entered(row_mm), entered(column_mm))


def leave_spacing(session: Session, row_mm: str, column_mm: str) -> Session:
    """Take the spacing once both of its numbers are there; one alone waits for the other."""
    return session if bool(row_mm.strip()) != bool(column_mm.strip()) else enter_spacing(session, row_mm, column_mm)


def wire_picture(ui: SimpleNamespace) -> None:
    """Clicks and drags in the picture; the tab of what was drawn comes to the front, with its numbers."""

    def change(session: Session, prompt: dict, mark: str, keep: bool) -> Session:
        if prompt["kind"] == "box":
            return add_box(session, prompt["corners"], keep)
        return add_point(session, *prompt["at"], OUTSIDE if prompt["leave_out"] else MARKS[mark])

    def also(session: Session) -> dict:
        if session.asked == "boxes":
            return {
                ui.tabs: gr.Tabs(selected="boxes"),
                **dict(zip(ui.corners, map(written, session.boxes[-1]), strict=True)),
            }
        return {
            ui.tabs: gr.Tabs(selected="points"),
            **dict(zip((ui.x, ui.y), map(written, session.points[-1]), strict=True)),
        }

    event = event_of(ui, change, also)

    def prompted(desk: Desk, mark: str, keep: bool, data: gr.EventData) -> dict:
        return event(desk, data._data, mark, keep)

    ui.picture.prompt(
        prompted,
        [ui.desk, ui.mark, ui.keep],
        [*answers(ui), ui.tabs, ui.x, ui.y, *ui.corners],
        show_progress="hidden",
        trigger_mode="multiple",
        api_visibility="private",
    )


def wire_more(ui: SimpleNamespace) -> None:
    """Uncertainty, comparison, files and the list of what was accepted."""
    ui.with_uncertainty.input(
        event_of(ui, use_uncertainty), [ui.desk, ui.with_uncertainty], answers(ui), api_visibility="private"
    )
    ui.compare.click(
        made_from(compared),
        ui.desk,
        [ui.comparison, ui.comparison_table],
        api_visibility="private",
    )
    ui.make_files.click(
        made_from(lambda session, chosen: listed(downloads.write_results(session, formats_of(chosen)))),
        [ui.desk, ui.formats],
        ui.files,
        api_visibility="private",
    )
    ui.accept.click(
        event_of(ui, accept, lambda session: {ui.accepted: tables.accepted_table(session)}),
        [ui.desk, ui.label],
        [*answers(ui), ui.accepted],
        api_visibility="private",
    )
    ui.clear_accepted.click(
        event_of(
            ui,
            lambda session: replace(session, accepted=()),
            lambda session: {ui.accepted: tables.accepted_table(session), ui.annotations: listed([])},
        ),
        ui.desk,
        [*answers(ui), ui.accepted, ui.annotations],
        api_visibility="private",
    )
    ui.export.click(
        made_from(lambda session, tool: listed(downloads.write_annotations(session, tool))),
        [ui.desk, ui.tool],
        ui.annotations,
        api_visibility="private",
    )


def formats_of(chosen: Sequence[str]) -> list[str]:
    """The formats that are called so on the page."""
    return [downloads.FORMATS[name] for name in chosen]


def listed(paths: Sequence[Path]) -> dict:
    """Files in a list to download; without one the list is hidden."""
    return gr.update(value=[str(path) for path in paths] or None, visible=bool(paths))


def compared(session: Session) -> tuple[dict, str]:
    """Pictures and table of a comparison."""
    comparison = compare(session)
    pictures = list(zip(comparison.pictures, comparison.names, strict=True))
    table = tables.comparison_table(comparison.names, comparison.results, comparison.dice)
    return gr.update(value=pictures, visible=True), table


# --- what scripts call -----------------------------------------------------------------------------------------------


def wire_api(ui: SimpleNamespace) -> None:
    """The endpoint `/segment`; its widgets are on no page and only say what it takes and gives."""
    with gr.Column(visible=False):
        image = gr.File(label="image", type="filepath")
        text = gr.Textbox("", label="text")
        boxes, points, labels, spacing_mm = (
            gr.JSON([], label=name) for name in ("boxes", "points", "labels", "spacing_mm")
        )
        frame = gr.Number(0, label="frame", precision=0)
        threshold = gr.Number(DEFAULT_THRESHOLD, label="threshold")
        model = gr.Dropdown(shared_models.model_names(), value=shared_models.BUNDLED, label="model")
        formats = gr.CheckboxGroup(list(downloads.FORMATS.values()), value=["png"], label="formats")
        files, results = gr.File(label="files", file_count="multiple"), gr.JSON(label="results")
    gr.on(
        [],
        segment,
        [ui.desk, image, text, boxes, points, labels, frame, threshold, spacing_mm, model, formats],
        [ui.desk, files, results],
        api_name="segment",
        api_visibility="public",
    )


def segment(
    desk: Desk,
    image: str,
    text: str,
    boxes: list,
    points: list,
    labels: list,
    frame: int,
    threshold: float,
    spacing_mm: list,
    model: str,
    formats: list[str],
) -> tuple[Desk, list[str], dict]:
    """Segment what one kind of prompt names: text, boxes [[x0, y0, x1, y1], ...] or points [[x, y], ...] with labels.

    Coordinates are pixels of the image. The files are PNG masks in the order of the objects, then those of the other
    formats; the results say what was found, where, and how large it is. For research. Not a medical device.
    """
    with desk.lock:
        try:
            desk.session = requested(
                desk.session,
                image,
                Prompts(text or "", boxes or [], points or [], labels or []),
                frame=frame,
                spacing_mm=spacing_mm,
                threshold=threshold,
                model=model,
            )
            files = downloads.write_results(desk.session, formats)
        except REFUSALS as error:
            raise gr.Error(str(error), print_exception=False) from error
        return desk, [str(path) for path in files], downloads.about(desk.session)


if __name__ == "__main__":
    main()

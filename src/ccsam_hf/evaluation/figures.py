"""Examples, means, costs and reliability -> figures for a page or a paper, as PNG and SVG (`save`).

Colours are Okabe and Ito's; every model also has a marker, and bars of unseen data have a hatch: the figures read in
grey print. Names are drawn as they stand, without a meaning as formulas.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..files import replace_file
from .protocol import NEEDS
from .segmenters import SIZE
from .tables import BLIND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚"}  # of a line, and the same within a text
GREY = "#767676"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,
    "figure.titlesize": 8,
    "svg.hashsalt": "ccsam-hf",
}
DPI = 150
WIDTH = 5.4  # inches: text of 9 points stays readable where a phone shows the whole figure
FRAME = (-0.5, SIZE[1] - 0.5, SIZE[0] - 0.5, -0.5)  # left, right, bottom, top of 256x256
LONGEST_NAME = 30

# key of a cost -> heading, unit, digits behind the point, and whether more is better
SPIDER_AXES = {
    "dice": ("Dice, %", 1, 1, True),
    "unseen_dice": ("Dice on unseen data, %", 1, 1, True),
    "peak_mib": ("Peak memory, MiB", 1, 0, False),
    "parameters": ("Parameters, M", 1e6, 1, False),
    "gflops": ("GFLOPs", 1, 1, False),
    "images_per_second": ("Images a second", 1, 2, True),
}


@dataclass(frozen=True)
class Example:
    """A case that is shown.

    Attributes:
        title: what it is.
        image: (H, W) uint8, shown at 256x256.
        truth: (256, 256) bool.
        prompt: kind, one of `ccsam_hf.evaluation.protocol.PROMPTS`.
        coordinates: of the prompt in pixels of 256x256, a box xyxy or points xy behind each other; None without.
        predictions: model -> its mask (256, 256) bool, or None where it gave none, and its Dice in percent.
    """

    title: str
    image: np.ndarray
    truth: np.ndarray
    prompt: str
    coordinates: Sequence[float] | None
    predictions: dict[str, tuple[np.ndarray | None, float]]


class Look(NamedTuple):
    """How a model is drawn in every figure."""

    color: str
    marker: str


def looks(models: Sequence[str]) -> dict[str, Look]:
    """A look for each model by its place; what is blind to the image is grey.

    Args:
        models: in any number, also more than once: the first place counts. A figure that is given all models of a
            study as its `order` looks like the study's other figures, whichever models it shows.
    """
    found, markers = {}, list(MARKERS)
    for model in dict.fromkeys(models):
        if model.endswith(BLIND):
            found[model] = Look(GREY, "x")
        else:
            place = sum(not each.endswith(BLIND) for each in found)
            found[model] = Look(*(each[place % len(each)] for each in (COLORS, markers)))
    return found


def styled(draw: Callable[..., "Figure"]) -> Callable[..., "Figure"]:
    """Let a function draw in `STYLE`; ImportError that names the extra where matplotlib is missing."""

    @functools.wraps(draw)
    def draw_in_style(*args: Any, **kwargs: Any) -> "Figure":
        try:
            import matplotlib
        except ImportError as error:
            raise ImportError('figures need matplotlib: pip install "ccsam-hf[evaluation]"') from error
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_in_style


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure that knows no screen and no other figure; inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", stem: str | Path) -> list[Path]:
    """Write a figure as <stem>.png and <stem>.svg, each under another name first; the same figure, the same bytes.

    Returns:
        Both paths.
    """
    import matplotlib

    paths = []
    for kind, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items():
        path = Path(f"{stem}.{kind}")
        with replace_file(path) as partial, matplotlib.rc_context(STYLE):
            figure.savefig(partial, format=kind, dpi=DPI, metadata=metadata)
        paths.append(path)
    return paths


@styled
def qualitative_grid(examples: Sequence[Example]) -> "Figure":
    """A line for each example: image with prompt, truth, and each model's outline over the truth's, with its Dice.

    Args:
        examples: at least one; all of the same models.

    Raises:
        ValueError: there is no example, or they are of different models.
    """
    if not examples:
        raise ValueError("examples is empty; a picture needs at least one")
    models = list(examples[0].predictions)
    if any(list(example.predictions) != models for example in examples):
        raise ValueError(f"examples are of different models; expected {', '.join(models)} in each")
    headings = ["Image and prompt", "Truth", *(short(model, 20) for model in models)]
    figure = new_figure(1.75 * len(headings) + 0.3, 1.85 * len(examples) + 0.5)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(examples), len(headings), squeeze=False)
    for example, line in zip(examples, grid, strict=True):
        for axes in line:
            axes.imshow(example.image, cmap="gray", vmin=0, vmax=255, extent=FRAME)
            axes.set(xticks=[], yticks=[], xlim=FRAME[:2], ylim=FRAME[2:])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(wrapped(example.title), fontsize=8)
        draw_prompt(line[0], example)
        draw_outline(line[1], example.truth, SKY, "--")
        for axes, (mask, dice) in zip(line[2:], example.predictions.values(), strict=True):
            draw_outline(axes, example.truth, SKY, "--")
            if mask is not None:
                draw_outline(axes, mask, ORANGE, "-")
            written = f"{dice:.1f}" if mask is not None else f"no mask, {dice:.1f}"
            plate = {"facecolor": "black", "edgecolor": "none", "pad": 2}
            axes.text(6, 8, written, color="white", va="top", fontsize=8, bbox=plate)
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading)
    return figure


def draw_prompt(axes: "Axes", example: Example) -> None:
    """The box or the points that the models were given."""
    from matplotlib.patches import Rectangle

    if example.coordinates is None:
        axes.text(6, 8, "no prompt", color="white", va="top", fontsize=8, bbox={"facecolor": "black", "pad": 2})
    elif NEEDS[example.prompt] == "box":
        x0, y0, x1, y1 = example.coordinates
        box = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, edgecolor="white", linewidth=1.4)
        box.set_path_effects(dark_rim())
        axes.add_patch(box)
    else:
        x, y = np.reshape(example.coordinates, (-1, 2)).T
        axes.plot(x, y, linestyle="none", marker="P", markersize=8, color="white", markeredgecolor="black")


def draw_outline(axes: "Axes", mask: np.ndarray, color: str, linestyle: str) -> None:
    """The outline of a mask (256, 256), closed also where the frame cuts the object off; nothing of an empty mask."""
    if mask.any():
        padded = np.pad(mask, 1).astype(float)
        places = np.arange(-1, len(padded) - 1)
        lines = axes.contour(places, places, padded, [0.5], colors=color, linestyles=linestyle, linewidths=1.3)
        lines.set_path_effects(dark_rim())


def dark_rim() -> list[Any]:
    """Keeps a line visible on bright tissue."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=2.4, foreground="#000000", alpha=0.55), Normal()]


@styled
def seen_unseen_bars(entries: Sequence[dict], seen: Sequence[str], unseen: Sequence[str], prompt: str) -> "Figure":
    """Mean Dice over all targets by model, a bar for each data set, with 95 % intervals.

    Args:
        entries: of `ccsam_hf.evaluation.statistics.summaries`.
        seen, unseen: names of data; those the models trained on the like of, and the others.
        prompt: the kind that is shown.

    Raises:
        ValueError: no entry fits.
    """
    from matplotlib.patches import Patch

    kinds = {name: "seen" for name in seen} | {name: "unseen" for name in unseen}
    found = {
        (entry["model"], entry["data"]): entry["dice"]
        for entry in entries
        if entry["data"] in kinds and (entry["target"], entry["prompt"]) == ("all", prompt)
    }
    if not found:
        raise ValueError(f"no entry is of {list(kinds)} with prompt {prompt!r}: name data and prompt of the entries")
    models = list(dict.fromkeys(model for model, _ in found))
    bars = bar_looks(seen, unseen)
    height = 0.8 / len(kinds)
    figure = new_figure(WIDTH, 0.9 + len(models) * (0.22 + 0.24 * len(kinds)) + 0.2 * len(kinds))
    axes = figure.subplots()
    for place, model in enumerate(models):
        for number, name in enumerate(kinds):
            if (model, name) not in found:
                continue
            score, y = found[model, name], place + (number - (len(kinds) - 1) / 2) * height
            low, high = score["ci95"]
            axes.barh(y, score["mean"], 0.88 * height, **bars[name])
            axes.plot([low, high], [y, y], color="black", linewidth=1.2)
            axes.text(max(high, score["mean"]) + 1, y, f"{score['mean']:.1f}", va="center", fontsize=8)
    axes.set(xlim=(0, 108), xlabel="Mean Dice, % (line: 95 % interval)", xticks=range(0, 101, 20))
    axes.set_yticks(range(len(models)), [short(model) for model in models])
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    handles = [Patch(**bars[name], label=f"{kind}: {short(name)}") for name, kind in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(2, len(handles)))
    return figure


def bar_looks(seen: Sequence[str], unseen: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Blue for what was seen, orange and hatched for what was not; paler with each further data set."""
    found = {}
    for names, color, hatch in ((seen, BLUE, ""), (unseen, ORANGE, "////")):
        for place, name in enumerate(names):
            shade = 1 - 0.6 * place / len(names)
            rgb = [1 - shade * (1 - int(color[i : i + 2], 16) / 255) for i in (1, 3, 5)]
            found[name] = {"facecolor": rgb, "edgecolor": "#333333", "hatch": hatch, "linewidth": 0.6}
    return found


@styled
def spider(costs: dict[str, dict], order: Sequence[str] = ()) -> "Figure":
    """Scores and costs of models on one wheel, where outside is better; the numbers stand at the axes.

    Dice runs from 0 in the middle to 100 at the rim. The other axes are ratios: the best model is at the rim, one that
    is ten times worse half way in, one that is a hundred times worse, or more, in the middle.

    Args:
        costs: model -> the keys of `SPIDER_AXES`, "parameters" as their number; a key that any model lacks, or has as
            None, gets no axis.
        order: see `looks`.

    Raises:
        ValueError: fewer than three axes are left.
    """
    keys = spider_keys(costs)
    if len(keys) < 3:
        raise ValueError(f"every model has {keys or 'nothing'}; a wheel needs three of {', '.join(SPIDER_AXES)}")
    angles = 2 * np.pi * np.arange(len(keys)) / len(keys)
    look = looks([*order, *costs])
    figure = new_figure(6.0, 5.2 + 0.12 * len(costs))
    axes = figure.subplots(subplot_kw={"projection": "polar"})
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set(ylim=(0, 1), yticks=[0.25, 0.5, 0.75, 1], yticklabels=[], xticks=angles, xticklabels=[])
    for place, model in enumerate(costs):
        radii = np.array([spider_radii(key, [cost[key] for cost in costs.values()])[place] for key in keys])
        color, marker = look[model]
        closed = np.append(radii, radii[0])
        axes.plot(np.append(angles, angles[0]), closed, color=color, marker=marker, label=short(model), clip_on=False)
        axes.fill(angles, radii, color=color, alpha=0.08)
    for key, angle in zip(keys, angles, strict=True):
        write_values(axes, angle, key, costs, look)
    figure.legend(loc="outside lower center", ncols=min(3, len(costs)))
    figure.suptitle("Dice: 0 in the middle, 100 at the rim. All else: best at the rim, a tenth as good half way in.")
    return figure


def spider_keys(costs: dict[str, dict]) -> list[str]:
    """What is known of every model."""
    return [key for key in SPIDER_AXES if costs and all(cost.get(key) is not None for cost in costs.values())]


def spider_radii(key: str, values: Sequence[float]) -> np.ndarray:
    """Places between the middle (0) and the rim (1), see `spider`."""
    values, more_is_better = np.array(values, dtype=float), SPIDER_AXES[key][-1]
    if key.endswith("dice"):
        return values / 100
    ratio = values / values.max() if more_is_better else values.min() / values
    return np.clip(1 + np.log10(ratio) / 2, 0, 1)


def write_values(axes: "Axes", angle: float, key: str, costs: dict[str, dict], look: dict[str, Look]) -> None:
    """The heading of an axis and each model's number, outside the rim."""
    heading, unit, digits, _ = SPIDER_AXES[key]
    lines = [(heading, "bold")]
    for model, cost in costs.items():
        lines.append((f"{MARKERS.get(look[model].marker, '×')} {cost[key] / unit:,.{digits}f}", "normal"))
    side, up, step = np.sin(angle), np.cos(angle), 11  # points from line to line
    align = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
    top = step * len(lines) * (0.5 + 0.5 * up)  # all above the rim at the top of the wheel, all below at the bottom
    for number, (text, weight) in enumerate(lines):
        drawn = {"ha": align, "va": "top", "fontweight": weight, "fontsize": 8}
        place = (0, top - step * number)
        axes.annotate(text, (angle, 1.06), xytext=place, textcoords="offset points", annotation_clip=False, **drawn)


@styled
def case_dots(rows: Sequence[dict], order: Sequence[str] = ()) -> "Figure":
    """Dice of every case by model, with quartiles and mean; the blind baseline is the last line.

    Args:
        rows: of one data set and prompt, at least one; of a baseline too, see
            `ccsam_hf.evaluation.statistics.blind_rows`.
        order: see `looks`.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("rows is empty; expected those of one data set and prompt")
    models = list(dict.fromkeys(row["model"] for row in rows))
    look, rng = looks([*order, *models]), np.random.default_rng(0)
    figure = new_figure(WIDTH, 0.8 + 0.5 * len(models))
    axes = figure.subplots()
    for place, model in enumerate(models):
        values = np.array([row["dice"] for row in rows if row["model"] == model])
        heights = place + rng.uniform(-0.28, 0.28, len(values))
        color = look[model].color
        axes.scatter(values, heights, s=9, color=color, alpha=0.65, linewidths=0, rasterized=True)
        axes.boxplot(
            values,
            positions=[place],
            widths=0.62,
            orientation="horizontal",
            showfliers=False,
            showmeans=True,
            manage_ticks=False,
            medianprops={"color": "black", "linewidth": 1.6},
            meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5},
        )
    axes.set(xlim=(-2, 102), xlabel="Dice of a case, % (box: quartiles; diamond: mean)")
    axes.set_yticks(range(len(models)), [short(model) for model in models])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return figure


@styled
def calibration_plot(curves: dict[str, dict], order: Sequence[str] = ()) -> "Figure":
    """How often a pixel is object where a model says so with a given probability; below, how many pixels that are.

    Args:
        curves: model -> `ccsam_hf.evaluation.reliability.calibration`, at least one.
        order: see `looks`.
    """
    look = looks([*order, *curves])
    figure = new_figure(WIDTH, 5 + 0.17 * len(curves))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 100], [0, 100], color=GREY, linestyle=":", label="perfect")
    for model, curve in curves.items():
        color, marker = look[model]
        drawn = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.2}
        probability = percent(curve["probability"])
        name = f"{short(model)}: error {100 * curve['ece']:.1f} %"
        if curve["ece_inner"] is not None:
            name += f", inner bins {100 * curve['ece_inner']:.1f} %"
        axes.plot(probability, percent(curve["positive"]), **drawn, label=name)
        below.plot(probability, shares(curve["count"]), **drawn)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), ylabel="Pixels that are object, %")
    below.set(yscale="log", ylabel="Pixels, %", xlabel="Mean probability of the bin, %")
    below.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center")
    return figure


@styled
def error_by_uncertainty_plot(curves: dict[str, dict], order: Sequence[str] = ()) -> "Figure":
    """The share of wrong pixels by their uncertainty; below, how many pixels that are.

    Args:
        curves: model -> `ccsam_hf.evaluation.reliability.error_by_uncertainty`, at least one.
        order: see `looks`.
    """
    look = looks([*order, *curves])
    figure = new_figure(WIDTH, 4 + 0.17 * len(curves))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for model, curve in curves.items():
        color, marker = look[model]
        drawn = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.2}
        middle = (np.array(curve["edges"][1:]) + curve["edges"][:-1]) / 2
        axes.plot(middle, percent(curve["wrong"]), **drawn, label=short(model))
        below.plot(middle, shares(curve["count"]), **drawn)
    axes.set(xlim=(0, 0.5), ylim=(-2, 102), ylabel="Wrong pixels, %")
    below.set(yscale="log", ylabel="Pixels, %", xlabel="Uncertainty of a pixel (standard deviation)")
    below.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=min(2, len(curves)))
    return figure


@styled
def referral_plot(curves: dict[str, dict], order: Sequence[str] = ()) -> "Figure":
    """Mean Dice of what a model keeps when it sends its most doubtful cases to a person, a panel a model.

    Args:
        curves: model -> `ccsam_hf.evaluation.reliability.referral`, at least one.
        order: see `looks`.
    """
    look, columns = looks([*order, *curves]), min(2, len(curves))
    lines = -(-len(curves) // columns)
    figure = new_figure(WIDTH, 2.4 * lines + 0.5)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    words = {"uncertainty": "its uncertainty", "iou_score": "its own IoU estimate"}
    handles = {}
    for axes, (model, curve) in zip(panels.flat, curves.items(), strict=False):
        color, marker = look[model]
        of_order = {
            "oracle": {"color": "black", "linestyle": "--", "linewidth": 1, "label": "best order"},
            "dice": {"color": color, "marker": marker, "markersize": 4, "label": "the model's order"},
            "random": {"color": GREY, "linestyle": ":", "label": "random order"},
        }
        for name, drawn in of_order.items():
            (handles[name],) = axes.plot(curve["percent"], curve[name], **drawn)
        axes.set_title(f"{short(model)}\nby {words[curve['by']]}")
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("Cases sent away, %")
    for axes in panels[:, 0]:
        axes.set_ylabel("Mean Dice of the rest, %")
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3)
    return figure


def percent(shares_of_bins: Sequence[float | None]) -> np.ndarray:
    """Shares as percent, NaN where a bin is empty."""
    return 100 * np.array(shares_of_bins, dtype=float)


def shares(counts: Sequence[int]) -> np.ndarray:
    """Counts as percent of their sum, NaN for zero, which a logarithmic axis does not know."""
    counts = np.array(counts, dtype=float)
    return np.where(counts > 0, 100 * counts / counts.sum(), np.nan)


def short(name: str, most: int = LONGEST_NAME) -> str:
    """A name on one line; of a long one the beginning and the end."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def wrapped(title: str) -> str:
    """A title for the side of a picture, "<data>: <target>" on two lines."""
    return "\n".join(short(part, 26) for part in title.split(": ", 1))

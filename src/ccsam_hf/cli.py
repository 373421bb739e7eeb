"""The command line `ccsam-hf`: thin over the library. Exit status 0, or 2 with one line on standard error.

argparse rather than typer: an option of several numbers that may be repeated (`--box X0 Y0 X1 Y1 --box ...`) is beyond
typer's annotations.
"""

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers.utils import logging

from . import TINY
from .cli_data import add_data
from .data.cases import SPLITS
from .data.readers import LAYOUTS
from .descriptions import FORMS, to_phrase
from .evaluation.protocol import PROMPTS, PROTOCOLS
from .grounding import FALLBACKS
from .image_files import read_image
from .measurements import check_spacing
from .pipeline_ccsam import CCSamPipeline, SegmentationResult
from .visualization import heatmap, overlay

CHECKPOINT_KINDS = ("sam", "samus", "medsam", "radimagenet")
GROUNDING_DINO = "grounding-dino"
INPUT_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, SafetensorError, StrictDataclassError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments behind the program's name; left out, those of the process.

    Returns:
        Exit status: 0, or 2 for wrong usage or input, of which one line on standard error tells.
    """
    logging.disable_progress_bar()
    try:
        arguments = build_parser().parse_args(argv)
        arguments.run(arguments)
    except INPUT_ERRORS as error:
        print("ccsam-hf: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, so that `main` reports them as it reports all others."""

    def error(self, message: str) -> None:
        """Raise ValueError with the message and the command that explains the usage."""
        raise ValueError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options; `arguments.run` is the function of the chosen command."""
    parser = OneLineParser(prog="ccsam-hf", description="CC-SAM: promptable ultrasound segmentation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    add_segment(commands)
    add_train(commands)
    add_evaluate(commands)
    add_convert(commands)
    add_data(commands)
    return parser


def add_segment(commands: Any) -> None:
    """Declare `segment`."""
    text = "Segment objects named by a text, or marked by boxes or points in pixels; the same for every IMAGE."
    command = commands.add_parser("segment", help="masks, overlays and measurements of images", description=text)
    command.add_argument("image", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG, TIFF, BMP or DICOM file")
    command.add_argument("--model", default=TINY, help="folder or Hub id; the bundled ccsam-tiny if left out")
    command.add_argument(
        "--box", nargs=4, type=float, action="append", metavar=("X0", "Y0", "X1", "Y1"), help="one object each"
    )
    command.add_argument(
        "--point",
        nargs=3,
        type=float,
        action="append",
        metavar=("X", "Y", "LABEL"),
        help="LABEL 1 inside, 0 outside; all points, and one box beside them, mark one object",
    )
    command.add_argument("--text", action="append", metavar="T", help='one target each, such as "left ventricle"')
    add_grounder(command)
    command.add_argument("--form", choices=FORMS, help="what the text encoder reads; the grounder's own if left out")
    command.add_argument("--box-threshold", type=float, metavar="S", help="score from which a text counts as found")
    command.add_argument("--every-instance", action="store_true", help="all boxes of a text instead of the best one")
    command.add_argument("--fallback", choices=FALLBACKS, help="what to segment where a text is not found; none")
    command.add_argument(
        "--spacing",
        nargs=2,
        type=float,
        metavar=("MM_PER_ROW", "MM_PER_COLUMN"),
        help="pixel spacing for measurements in mm; that of a DICOM file if left out",
    )
    command.add_argument("--num-samples", type=int, metavar="K", help="draws for the uncertainty map, at least 2")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.set_defaults(run=segment)


def add_grounder(command: Any) -> None:
    """Declare `--grounder`."""
    command.add_argument(
        "--grounder", metavar="DIR|ID", help="Grounding DINO that finds texts; the one beside the model if left out"
    )


def add_train(commands: Any) -> None:
    """Declare `train`."""
    text = (
        "Fine-tune a checkpoint on your own cases: what learns, how fast and how long follow from their number. "
        "Measures before and after on images held out, and writes a card. Run it again to go on where it stopped."
    )
    command = commands.add_parser("train", help="fine-tune on your own images", description=text)
    command.add_argument("--data", type=Path, required=True, metavar="DIR")
    command.add_argument("--layout", choices=LAYOUTS, default="folder")
    command.add_argument("--model", default=TINY, help="folder or Hub id; the bundled ccsam-tiny if left out")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of splits and training; 0 if left out")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the run, such as max_steps=200"
    )
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.set_defaults(run=train)


def add_evaluate(commands: Any) -> None:
    """Declare `evaluate`."""
    text = "Prompt every object of a data set from its true mask, and write summary.json and cases.csv."
    command = commands.add_parser("evaluate", help="Dice and Hausdorff distance on a data set", description=text)
    command.add_argument(
        "--model", default=TINY, help="folder or Hub id, or KIND:FOLDER of another system; ccsam-tiny if left out"
    )
    command.add_argument("--data", type=Path, required=True, metavar="DIR")
    command.add_argument("--layout", choices=LAYOUTS, default="folder")
    command.add_argument("--split", choices=SPLITS, help="of a layout that knows splits; all cases if left out")
    command.add_argument("--prompt", choices=PROMPTS, required=True)
    command.add_argument("--draws", type=int, default=1, metavar="N", help="of random-point and jittered-box; 1")
    command.add_argument("--num-samples", type=int, metavar="K", help="draws for the uncertainty, at least 2")
    add_grounder(command)
    command.add_argument("--protocol", choices=PROTOCOLS, default="samus")
    command.add_argument("--output", type=Path, required=True, metavar="DIR")
    command.set_defaults(run=evaluate)


def add_convert(commands: Any) -> None:
    """Declare `convert`."""
    command = commands.add_parser(
        "convert", help="published weights to a folder that CCSamModel or TextGrounder loads"
    )
    command.add_argument("kind", choices=(*CHECKPOINT_KINDS, GROUNDING_DINO))
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    command.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    command.add_argument(
        "--base", type=Path, metavar="DIR", help="converted folder to add the weights to: SAM first, then radimagenet"
    )
    command.add_argument(
        "--tokenizer",
        metavar="DIR|ID",
        help="of the text encoder in a grounding-dino checkpoint; bert-base-uncased if left out",
    )
    command.set_defaults(run=convert)


def segment(arguments: argparse.Namespace) -> None:
    """Write masks, overlay and JSON of every image; all input is checked before the first is segmented."""
    check_spacing(arguments.spacing)
    check_files(arguments.image, arguments.output)
    prompts, grounding = prompts_of(arguments), grounding_of(arguments)
    pipe = CCSamPipeline.from_pretrained(arguments.model, arguments.grounder)
    for path in arguments.image:
        check_input(pipe, path, prompts)
    for path in arguments.image:
        image, spacing_of_file = read_image(path)
        results = pipe(
            image,
            **prompts,
            **grounding,
            num_samples=arguments.num_samples,
            spacing_mm=arguments.spacing or spacing_of_file,
        )
        write_together(arguments.output, segment_files(path.stem, image, results, prompts))
        for result in results:
            if result.reason is not None:
                print(f"{path}: {result.reason}")
        found = sum(result.box is not None for result in results)
        print(f"{path}: {found} object(s) in {arguments.output / path.stem}.json")


def check_files(paths: Sequence[Path], output: Path) -> None:
    """Raise ValueError for two images whose results would have one name, or an output that is a file."""
    by_stem: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_stem:
            raise ValueError(
                f"{by_stem[path.stem]} and {path} would both write {path.stem}_mask.png; expected different file "
                "names: run the command once for each, with an --output of its own"
            )
        by_stem[path.stem] = path
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; expected a folder, new or existing")


def prompts_of(arguments: argparse.Namespace) -> dict[str, list]:
    """The prompt options as arguments of the pipeline.

    Raises:
        ValueError: no prompt, a text that is none or stands beside other prompts, or points beside several boxes.
    """
    prompts = {}
    if arguments.text:
        if arguments.box or arguments.point:
            raise ValueError("--text came with --box or --point; expected one or the other: a text finds its own box")
        for text in arguments.text:
            to_phrase(text)
        prompts["text"] = arguments.text
    if arguments.box:
        prompts["boxes"] = arguments.box
    if arguments.point:
        prompts["points"] = [[[x, y] for x, y, _ in arguments.point]]
        prompts["labels"] = [[label for _, _, label in arguments.point]]
    if not prompts:
        raise ValueError(
            "no prompt was given; expected --text T, or --box X0 Y0 X1 Y1 or --point X Y LABEL in pixels of the image"
        )
    if len(arguments.box or []) > 1 and arguments.point:
        raise ValueError(
            f"{len(arguments.box)} boxes came with points; all points mark one object: give at most one --box "
            "beside them"
        )
    return prompts


def grounding_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that belong to texts, as arguments of the pipeline; ValueError where they come without a text."""
    options = {
        "grounder": arguments.grounder,
        "form": arguments.form,
        "box_threshold": arguments.box_threshold,
        "every_instance": arguments.every_instance or None,
        "fallback": arguments.fallback,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if given and not arguments.text:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{names} came without --text, which alone uses it")
    given.pop("grounder", None)
    return given


def check_input(pipe: CCSamPipeline, path: Path, prompts: dict[str, list]) -> None:
    """Raise ValueError, with the file's name, for an image or a prompt that cannot be used."""
    image, _ = read_image(path)
    named = {"boxes": "input_boxes", "points": "input_points", "labels": "input_labels"}
    try:
        pipe.processor(image, **{named[name]: value for name, value in prompts.items() if name in named})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def segment_files(
    stem: str, image: Image.Image, results: list[SegmentationResult], prompts: dict[str, list]
) -> dict[str, bytes]:
    """Names and contents of the files that belong to one image."""
    files, objects = {}, []
    for i, result in enumerate(results):
        name = f"{stem}_mask.png" if len(results) == 1 else f"{stem}_mask_{i}.png"
        files[name] = png_bytes(Image.fromarray(result.mask.astype(np.uint8) * 255))
        head = {"label": result.label, "box": result.box, "score": result.score, "mask": name}
        about = ("text", "description", "box_score", "reason", "text_encoder", "tuned_on")
        if result.text is not None:
            head |= {field: getattr(result, field) for field in about}
        objects.append({**head, **result.measurements.to_dict()})
    masks = [result.mask for result in results]
    boxes = [result.box for result in results] if "text" in prompts else prompts.get("boxes")
    drawn = overlay(image, masks, boxes, prompts.get("points"), prompts.get("labels"))
    files[f"{stem}_overlay.png"] = png_bytes(drawn)
    if results[0].uncertainty is not None:
        files[f"{stem}_uncertainty.png"] = png_bytes(heatmap(image, np.max([r.uncertainty for r in results], axis=0)))
    files[f"{stem}.json"] = (json.dumps({"objects": objects}, indent=2) + "\n").encode()
    return files


def png_bytes(image: Image.Image) -> bytes:
    """An image as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_together(directory: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, made where it is missing: first all under other names, then all are renamed."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ccsam-", dir=directory) as staging:
        for name, content in files.items():
            (Path(staging) / name).write_bytes(content)
        for name in files:
            os.replace(Path(staging) / name, directory / name)


def train(arguments: argparse.Namespace) -> None:
    """Fine-tune a checkpoint and print what it gained."""
    try:
        from .training.finetuning import finetune, parse_fields
    except ImportError as error:
        raise ImportError(
            f"training needs more than is installed ({error}): pip install ccsam-hf[train,data]"
        ) from error

    overrides = parse_fields(arguments.set)
    results = finetune(arguments.data, arguments.layout, arguments.model, arguments.output, arguments.seed, overrides)
    for prompt in results["before"]:
        before, after = (results[when][prompt]["all"]["dice"]["mean"] for when in ("before", "after"))
        print(f"{prompt}: Dice {before:.2f} before, {after:.2f} after, {results['after'][prompt]['all']['n']} objects")
    print(f"wrote {arguments.output}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint on a data set and print one line for each target."""
    from .evaluation.harness import evaluate_directory

    summary = evaluate_directory(
        arguments.model,
        arguments.data,
        arguments.layout,
        arguments.prompt,
        arguments.protocol,
        arguments.output,
        arguments.grounder,
        arguments.split,
        arguments.draws,
        arguments.num_samples,
    )
    for target, values in summary.items():
        if isinstance(values, dict) and "dice" in values:
            print(f"{target}: Dice {values['dice']['mean']:.2f}, {values['n']} objects")
    print(f"wrote {arguments.output / 'summary.json'} and {arguments.output / 'cases.csv'}")


def convert(arguments: argparse.Namespace) -> None:
    """Convert published weights and print what became of every tensor."""
    unused = "base" if arguments.kind == GROUNDING_DINO else "tokenizer"
    if getattr(arguments, unused) is not None:
        raise ValueError(f"--{unused} was given with {arguments.kind}, which takes none; leave it out")
    if arguments.kind == GROUNDING_DINO:
        from .grounding_dino_conversion import convert_grounding_dino_checkpoint

        tokenizer = {} if arguments.tokenizer is None else {"tokenizer": arguments.tokenizer}
        report = convert_grounding_dino_checkpoint(arguments.checkpoint, arguments.output, **tokenizer)
    else:
        from .weight_conversion import convert_checkpoint

        report = convert_checkpoint(arguments.kind, arguments.checkpoint, arguments.output, base=arguments.base)
    print(report.summary())


if __name__ == "__main__":
    sys.exit(main())

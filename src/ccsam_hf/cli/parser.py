"""Every command of `ccsam-hf` and its options. Imports no library, so that help and a typo answer at once.

The choices that the library decides are repeated here, and a test compares them. argparse rather than typer: an option
of several numbers that may be repeated (`--box X0 Y0 X1 Y1 --box ...`) is beyond typer's annotations.
"""

import argparse
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import DEFAULT, __version__
from ..checks import suggest

LAYOUTS = (
    "folder",
    "coco",
    "dicom",
    "us30k",
    "busi",
    "tn3k",
    "tg3k",
    "ddti",
    "udiat",
    "camus",
    "camus-sequence",
    "hmc-qu",
    "hc18",
    "cca",
    "nerve",
    "mmotu",
    "built",
)
SPLITS = ("train", "validation", "test")
PROMPTS = ("box", "point", "random-point", "jittered-box", "clicks", "text", "none")
PROTOCOLS = ("samus",)
FORMS = ("phrase", "description")
FALLBACKS = ("none", "best_box", "whole_image")
KEEP = ("largest", "all")
DTYPES = ("float32", "bfloat16", "float16")
FORMATS = ("png", "nifti", "dicom-seg")
ANNOTATIONS = ("coco", "label-studio", "cvat")
LOCAL_FILES = "/data/local-files/?d="
CHECKPOINT_KINDS = ("sam", "samus", "medsam", "radimagenet", "grounding-dino")

BUNDLED = f"(default: the bundled {Path(DEFAULT).name})"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Says a default where there is one and the help does not say it already."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or "default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are exceptions of one line that suggest the nearest command, option or choice."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=HelpFormatter, **options)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in argparse; ValueError for what is no option of this command."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = suggest(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with the message and the command that explains the usage."""
        wrong = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong:
            message += suggest(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        raise ValueError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options; `arguments.run` names file and function of the chosen command."""
    parser = OneLineParser(prog="ccsam-hf", description="CC-SAM: promptable ultrasound segmentation.")
    parser.add_argument("--version", action="version", version=f"ccsam-hf {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    add_segment(commands)
    add_train(commands)
    add_evaluate(commands)
    add_convert(commands)
    add_data(commands)
    add_push(commands)
    return parser


def add_command(commands: Any, name: str, run: str, summary: str, text: str = "", examples: str = "") -> OneLineParser:
    """Declare a command: `run` is "file:function" in this folder, `examples` stand at the end of its help."""
    epilog = "examples:\n" + textwrap.indent(textwrap.dedent(examples).strip(), "  ") if examples else None
    description = textwrap.fill(text or f"{summary[0].upper()}{summary[1:]}.", 100)
    command = commands.add_parser(name, help=summary, description=description, epilog=epilog)
    command.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    command.set_defaults(run=run)
    return command


def add_output(command: OneLineParser, metavar: str = "DIR", text: str | None = None) -> None:
    """Declare `--output`."""
    command.add_argument("--output", type=Path, required=True, metavar=metavar, help=text)


def add_grounder(command: OneLineParser) -> None:
    """Declare `--grounder`."""
    command.add_argument(
        "--grounder", metavar="DIR|ID", help="Grounding DINO that finds texts (default: the one beside the model)"
    )


def add_machine(command: OneLineParser) -> None:
    """Declare where and how a model runs."""
    command.add_argument("--device", metavar="D", help="where the model runs, such as cuda or cpu (default: cpu)")
    command.add_argument("--dtype", choices=DTYPES, help="precision of the model (default: that of its weights)")
    command.add_argument("--threads", type=positive, metavar="N", help="of the CPU (default: torch's choice)")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def add_segment(commands: Any) -> None:
    """Declare `segment`."""
    command = add_command(
        commands,
        "segment",
        "segment:segment",
        "masks, overlays and measurements of images",
        "Segment objects named by a text, or marked by boxes or points in pixels; the same for every IMAGE.",
        """
        ccsam-hf segment case.png --text "breast lesion" --spacing 0.17 0.14 --output out
        ccsam-hf segment case.png --box 93 68 216 164 --output out
        ccsam-hf segment scans --text "breast lesion" --annotations coco --output out
        """,
    )
    command.add_argument(
        "image",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="PNG, JPEG, TIFF, BMP or DICOM file, or a folder: all of these in it and below, by name",
    )
    command.add_argument("--model", default=DEFAULT, metavar="DIR|ID", help=f"checkpoint {BUNDLED}")
    add_prompts(command)
    command.add_argument(
        "--spacing",
        nargs=2,
        type=float,
        metavar=("MM_PER_ROW", "MM_PER_COLUMN"),
        help="pixel spacing for measurements in mm (default: that of the file, where it states one)",
    )
    command.add_argument("--num-samples", type=int, metavar="K", help="draws for the uncertainty map, at least 2")
    command.add_argument(
        "--threshold", type=float, metavar="P", help="probability above which a pixel is in the mask (default: 0.5)"
    )
    add_machine(command)
    command.add_argument(
        "--keep", choices=KEEP, help="one connected object a prompt, or every part of its mask (default: largest)"
    )
    command.add_argument(
        "--frame", type=int, metavar="N", help="of DICOM loops and TIFF pages, from 0 (default: the first)"
    )
    add_segment_files(command)


def add_prompts(command: OneLineParser) -> None:
    """Declare boxes, points and texts, and what belongs to texts."""
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
    command.add_argument("--form", choices=FORMS, help="what the text encoder reads (default: the grounder's own)")
    command.add_argument(
        "--box-threshold",
        type=float,
        metavar="S",
        help="score from which a text counts as found (default: the grounder's own)",
    )
    command.add_argument("--every-instance", action="store_true", help="all boxes of a text instead of the best one")
    command.add_argument(
        "--fallback", choices=FALLBACKS, help="what to segment where a text is not found (default: none)"
    )


def add_segment_files(command: OneLineParser) -> None:
    """Declare which files `segment` writes."""
    command.add_argument(
        "--format",
        action="append",
        default=[],
        choices=FORMATS,
        help="masks in these too; PNG masks are always written",
    )
    command.add_argument(
        "--annotations", action="append", default=[], choices=ANNOTATIONS, help="masks of all images for this tool"
    )
    command.add_argument(
        "--image-prefix", default=LOCAL_FILES, metavar="P", help="address before image names in tasks of Label Studio"
    )
    add_output(command)


def add_train(commands: Any) -> None:
    """Declare `train`."""
    command = add_command(
        commands,
        "train",
        "train:train",
        "fine-tune on your own images",
        "Fine-tune a checkpoint on your own cases: what learns, how fast and how long follow from their number. "
        "Measures before and after on held-out images, and writes a card. Run it again to go on where it stopped.",
        """
        ccsam-hf train --data my_folder --output models/tuned
        ccsam-hf train --data data/mine --layout built --output models/tuned --set max_steps=800 patience=5
        """,
    )
    command.add_argument("--data", type=Path, required=True, metavar="DIR")
    command.add_argument("--layout", choices=LAYOUTS, default="folder", help="of the data")
    command.add_argument("--model", default=DEFAULT, metavar="DIR|ID", help=f"checkpoint to start from {BUNDLED}")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of splits and training")
    command.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the run, such as max_steps=200"
    )
    add_output(command)


def add_evaluate(commands: Any) -> None:
    """Declare `evaluate`."""
    command = add_command(
        commands,
        "evaluate",
        "evaluate:evaluate",
        "Dice and Hausdorff distance on a data set",
        "Prompt every object of a data set from its true mask, and write summary.json and cases.csv.",
        """
        ccsam-hf evaluate --data my_folder --prompt box --output results/box
        ccsam-hf evaluate --data BUSI --layout busi --prompt clicks --limit 100 --output results/busi-clicks
        ccsam-hf evaluate --data nodules --target "thyroid nodule" --prompt text --output results/nodules
        """,
    )
    command.add_argument(
        "--model", default=DEFAULT, metavar="DIR|ID", help=f"checkpoint, or KIND:FOLDER of another system {BUNDLED}"
    )
    command.add_argument("--data", type=Path, required=True, metavar="DIR")
    command.add_argument("--layout", choices=LAYOUTS, default="folder", help="of the data")
    command.add_argument("--split", choices=SPLITS, help="of a layout that knows splits (default: all cases)")
    command.add_argument(
        "--splits", type=Path, metavar="FILE", help="lists of images in place of the data's own splits"
    )
    command.add_argument("--target", metavar="NAME", help="only its objects; in data without names, what they are")
    command.add_argument("--limit", type=int, metavar="N", help="at most N objects, spread over targets and patients")
    command.add_argument("--prompt", choices=PROMPTS, required=True)
    command.add_argument(
        "--draws", type=int, default=1, metavar="N", help="prompts per object of random-point and jittered-box"
    )
    command.add_argument("--num-samples", type=int, metavar="K", help="draws for the uncertainty, at least 2")
    add_grounder(command)
    command.add_argument("--protocol", choices=PROTOCOLS, default="samus", help="of the scores")
    add_output(command)


def add_convert(commands: Any) -> None:
    """Declare `convert`."""
    command = add_command(
        commands,
        "convert",
        "convert:convert",
        "published weights to a folder that CCSamModel or TextGrounder loads",
        examples="""
        ccsam-hf convert samus samus.pth models/samus
        ccsam-hf convert sam sam_vit_b_01ec64.pth models/ccsam
        ccsam-hf convert radimagenet ResNet50.pt models/ccsam-start --base models/ccsam
        """,
    )
    command.add_argument("kind", choices=CHECKPOINT_KINDS)
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    command.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    command.add_argument(
        "--base", type=Path, metavar="DIR", help="converted folder to add the weights to: SAM first, then radimagenet"
    )
    command.add_argument(
        "--tokenizer",
        metavar="DIR|ID",
        help="of the text encoder in a grounding-dino checkpoint (default: bert-base-uncased)",
    )


def add_push(commands: Any) -> None:
    """Declare `push`."""
    command = add_command(
        commands,
        "push",
        "push:push",
        "a checkpoint to the Hub",
        "Upload a checkpoint with its code, processor, grounder, licence, card, results and an example, in one "
        "commit. A new repository is private unless --public is given.",
        """
        ccsam-hf push --model models/tuned --repo-id me/ccsam-tuned --dry-run
        ccsam-hf push --model models/tuned --repo-id me/ccsam-tuned --tag v1
        """,
    )
    command.add_argument("--model", default=DEFAULT, metavar="DIR", help=f"its folder {BUNDLED}")
    command.add_argument("--repo-id", required=True, metavar="ID", help="<user or organisation>/<name>")
    command.add_argument("--public", action="store_true", help="make a new repository public, or push to a public one")
    command.add_argument("--revision", default="main", metavar="R", help="branch, made if it is new")
    command.add_argument("--tag", metavar="T", help="name for this version, not yet taken")
    command.add_argument("--dry-run", action="store_true", help="say what would be uploaded, and stop")


def add_data(commands: Any) -> None:
    """Declare `data` and its commands."""
    data = commands.add_parser("data", help="build, audit, show, push and simulate data sets")
    data_commands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    add_data_build(data_commands)
    add_data_audit(data_commands)
    add_data_show(data_commands)
    add_data_push(data_commands)
    add_data_simulate(data_commands)


def add_sources(command: OneLineParser) -> None:
    """Declare the sources and the seed of their splits."""
    command.add_argument(
        "source",
        nargs="+",
        metavar="LAYOUT=PATH",
        help=f"a data set as downloaded, such as busi=downloads/BUSI; layouts: {', '.join(LAYOUTS)}",
    )
    command.add_argument("--splits", type=Path, metavar="FILE", help="lists to use, such as those of audit --fix")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of splits that are drawn")


def add_data_build(commands: Any) -> None:
    """Declare `data build`."""
    command = add_command(
        commands,
        "build",
        "data:run_build",
        "downloads to one split data set",
        "Read data sets or archives of them, split them as the paper does, and write Parquet that datasets loads.",
        """
        ccsam-hf data build busi=BUSI --splits audit/splits.json --output data/busi
        ccsam-hf data build folder=my_folder --folds 5 --fold 0 --output data/fold-0
        """,
    )
    add_sources(command)
    command.add_argument("--folds", type=int, metavar="K", help="cross-validation instead of the paper's splits")
    command.add_argument("--fold", type=int, metavar="I", help="the fold that tests, from 0")
    add_output(command)


def add_data_audit(commands: Any) -> None:
    """Declare `data audit`."""
    command = add_command(
        commands,
        "audit",
        "data:run_audit",
        "what is wrong with data sets",
        "Look for duplicates, leakage between splits, wrong masks and unreadable files; changes no data.",
        "ccsam-hf data audit busi=BUSI --output audit --fix",
    )
    add_sources(command)
    command.add_argument("--fix", action="store_true", help="also write splits.json without what has to go")
    add_output(command)


def add_data_show(commands: Any) -> None:
    """Declare `data show`."""
    summary = "a sheet of images with the outlines of their masks"
    example = "ccsam-hf data show busi=BUSI --output sheet.png"
    command = add_command(commands, "show", "data:run_show", summary, examples=example)
    add_sources(command)
    command.add_argument("--split", choices=SPLITS, help="(default: all)")
    command.add_argument("--count", type=int, default=24, metavar="N", help="images drawn at random")
    add_output(command, "PNG")


def add_data_push(commands: Any) -> None:
    """Declare `data push`."""
    summary = "a built data set to the Hub, private unless --public is given"
    example = "ccsam-hf data push data/busi --repo-id me/busi --dry-run"
    command = add_command(commands, "push", "data:run_push", summary, examples=example)
    command.add_argument("directory", type=Path, metavar="DIR", help="the output of data build")
    command.add_argument("--repo-id", required=True, metavar="ID")
    command.add_argument("--public", action="store_true", help="make a new repository public")
    command.add_argument("--licences-checked", action="store_true", help="you may pass on every source in the set")
    command.add_argument("--dry-run", action="store_true", help="say what would be uploaded, and stop")


def add_data_simulate(commands: Any) -> None:
    """Declare `data simulate`."""
    summary = "ultrasound phantoms with exact masks, in the folder layout"
    example = "ccsam-hf data simulate --output sim --count 300 --seed 2000000000"
    command = add_command(commands, "simulate", "data:run_simulate", summary, examples=example)
    add_output(command)
    command.add_argument("--count", type=int, required=True, metavar="N", help="cases")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the first case")
    command.add_argument("--target", nargs="+", metavar="T", help="what to show (default: all kinds)")

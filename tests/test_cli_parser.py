"""The command line answers help and typos without loading a library, and every error in one line."""

import subprocess
import sys

import pytest

import ccsam_hf
from ccsam_hf.cli import main as command_line
from ccsam_hf.cli import parser
from ccsam_hf.cli.main import main
from ccsam_hf.data.cases import SPLITS
from ccsam_hf.data.readers import LAYOUTS
from ccsam_hf.descriptions import FORMS
from ccsam_hf.evaluation.protocol import PROMPTS, PROTOCOLS
from ccsam_hf.formats.annotations import ANNOTATIONS, LOCAL_FILES
from ccsam_hf.formats.mask_files import FORMATS
from ccsam_hf.grounding_boxes import FALLBACKS
from ccsam_hf.objects import KEEP

COMMANDS = [
    [],
    ["segment"],
    ["train"],
    ["evaluate"],
    ["convert"],
    ["push"],
    ["data"],
    *(["data", name] for name in ("build", "audit", "show", "push", "simulate")),
]


def test_the_choices_are_those_of_the_library():
    assert parser.LAYOUTS == tuple(LAYOUTS)
    assert (parser.SPLITS, parser.PROMPTS, parser.PROTOCOLS) == (SPLITS, PROMPTS, PROTOCOLS)
    assert (parser.FORMS, parser.FALLBACKS, parser.FORMATS, parser.KEEP) == (FORMS, FALLBACKS, FORMATS, KEEP)
    assert (parser.ANNOTATIONS, parser.LOCAL_FILES) == (ANNOTATIONS, LOCAL_FILES)


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["sgment"], ["--version"]])
def test_help_a_typo_and_the_version_load_no_library(arguments):
    code = (
        f"import sys; from ccsam_hf.cli.main import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
        "print('loaded:', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ended.stdout.rpartition("loaded: ")[2].split()
    assert not {"torch", "transformers", "numpy", "huggingface_hub"} & set(loaded)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_defaults_as_defaults_and_ends_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and "if left out" not in text and "default: None" not in text
    if command and command != ["data"]:
        example = text.rpartition("examples:\n")[2].strip().splitlines()[0]
        assert example.startswith("ccsam-hf " + " ".join(command))
        assert "--debug" in text


def test_help_says_the_numbers(capsys):
    with pytest.raises(SystemExit):
        main(["data", "show", "--help"])
    assert "images drawn at random (default: 24)" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"ccsam-hf {ccsam_hf.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (["sgment"], '"segment"'),
        (["data", "biuld"], '"build"'),
        (["data", "show", "busi=x", "--output", "y", "--cont", "3"], '"--count"'),
        (["data", "show", "busi=x", "--output", "y", "--cont=3"], '"--count"'),
        (["evaluate", "--layout", "bussi"], '"busi"'),
    ],
)
def test_what_is_mistyped_suggests_the_nearest(arguments, suggested, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"did you mean {suggested}?; see ccsam-hf" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("wrong\n  value"), "ccsam-hf: wrong value\n"),
        (KeyError("weight"), "ccsam-hf: KeyError: 'weight'; add --debug for the traceback\n"),
        (AssertionError(), "ccsam-hf: AssertionError; add --debug for the traceback\n"),
        (ValueError(), "ccsam-hf: ValueError; add --debug for the traceback\n"),
    ],
)
def test_every_error_is_one_line_and_debug_shows_its_traceback(error, line, capsys, monkeypatch):
    def fail(arguments):
        raise error

    monkeypatch.setattr("ccsam_hf.cli.convert.convert", fail)
    arguments = ["convert", "sam", "a", "b"]
    assert main(arguments) == 2
    assert capsys.readouterr().err == line
    for debugged in ([*arguments, "--debug"], ["--debug", *arguments]):
        assert main(debugged) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("Traceback (most recent call last):") and shown.endswith(line)


def test_progress_bars_of_libraries_are_off(monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    command_line.silence_libraries()
    assert command_line.os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"

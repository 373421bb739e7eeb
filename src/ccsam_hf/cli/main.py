"""The command line `ccsam-hf`: thin over the library. Exit status 0, or 2 with one line on standard error."""

import importlib
import os
import sys
from collections.abc import Sequence

from .parser import build_parser

INPUT_ERRORS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)
LIBRARIES_OF_INPUT_ERRORS = ("safetensors", "safetensors_rust", "huggingface_hub")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments behind the program's name; left out, those of the process.

    Returns:
        Exit status: 0, or 2 for wrong usage or input, of which one line on standard error tells. With `--debug` the
        traceback stands above it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = build_parser().parse_args(argv)
        silence_libraries()
        file, _, function = arguments.run.partition(":")
        getattr(importlib.import_module(f".{file}", __package__), function)(arguments)
    except Exception as error:
        if "--debug" in argv:
            sys.excepthook(type(error), error, error.__traceback__)
        print(f"ccsam-hf: {describe_error(error)}", file=sys.stderr)
        return 2
    return 0


def silence_libraries() -> None:
    """No progress bars of transformers and huggingface_hub, loaded already or not."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()


def describe_error(error: Exception) -> str:
    """One line: what a check of ours or of a library says, and the kind of any other error."""
    text = " ".join(str(error).split())
    library = type(error).__module__.partition(".")[0]
    if text and (isinstance(error, INPUT_ERRORS) or library in LIBRARIES_OF_INPUT_ERRORS):
        return text
    return f"{type(error).__name__}: {text}; add --debug for the traceback".replace(": ;", ";")


if __name__ == "__main__":
    sys.exit(main())

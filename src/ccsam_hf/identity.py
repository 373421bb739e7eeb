"""Hashes of weights, files and cases: whatever resumes or reports a piece of work compares them first.

A hash depends on content alone, so that a folder that was moved is the same and one whose masks were changed is not.
"""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

SHOWN = 12  # characters of a hash in a message
DISTRIBUTIONS = ("ccsam-hf", "torch", "torchvision", "transformers", "numpy", "scipy", "pillow")  # decide the numbers
ABOUT_CASE = ("dataset", "name", "target", "class_id", "split", "patient_id")
HASH_LENGTH = 64


class HasFiles(Protocol):
    """A case of `ccsam_hf.data.cases`: names, and sources of pixels that know their files."""

    image_source: Any
    mask_source: Any


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_weights(module: nn.Module) -> str:
    """SHA-256 of names and values of a module's state, on whatever device it is."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_cases(cases: Iterable[HasFiles]) -> str:
    """SHA-256 of cases in their order: what they are called, their splits, and the content of their files.

    A file that many cases share is read once. Where the files lie is no part of it; what a source takes from them,
    such as the number of a frame or the value of a label, is.
    """
    digest, of_file = hashlib.sha256(), {}
    for case in cases:
        about = [getattr(case, name, None) for name in ABOUT_CASE]
        for source in (case.image_source, case.mask_source):
            for path in source.paths:
                if path not in of_file:
                    of_file[path] = hash_file(path)
            about.append([type(source).__name__, settings_of(source), [of_file[path] for path in source.paths]])
        digest.update((json.dumps(about, default=str) + "\n").encode())
    return digest.hexdigest()


def settings_of(source: Any) -> dict[str, Any]:
    """The fields of a source of pixels that are no paths and hold none."""
    fields = dataclasses.fields(source) if dataclasses.is_dataclass(source) else ()
    return {each.name: value for each in fields if is_plain(value := getattr(source, each.name))}


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a word, nothing, or several of these."""
    return (
        all(map(is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, int | float | str | None)
    )


def find_versions(names: Iterable[str] = DISTRIBUTIONS) -> dict[str, str]:
    """Version of Python and of installed distributions; left out, of those that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path instead of an installed package
            found[name] = "not installed"
    return found


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two identities, such as `draws: 1 before, 3 now; data/0/sha256: 9f86d0818841 before, ...`.

    Args:
        before, now: values of JSON, nested as they come.

    Returns:
        One entry for each value that differs, and "" where none does.
    """
    first, second = flatten(before), flatten(now)
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return "; ".join(f"{name}: {show(first.get(name))} before, {show(second.get(name))} now" for name in names)


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Every plain value within lists and dicts by the names and numbers that lead to it."""
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {name: value}
    nested = [flatten(each, f"{name}/{key}" if name else str(key)) for key, each in parts]
    return {key: each for part in nested for key, each in part.items()}


def show(value: Any) -> str:
    """A value in a message; of a hash its beginning."""
    return value[:SHOWN] if isinstance(value, str) and len(value) == HASH_LENGTH else repr(value)


__all__ = ["describe_differences", "find_versions", "hash_cases", "hash_file", "hash_weights"]

"""Files and folders that appear whole or not at all, whenever the process is stopped.

Whatever is written goes beside its place first, under a hidden name that ends in `.partial`, and is renamed when it is
complete. Nothing is removed before what replaces it is complete.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"  # ends the name of what is still being written
NEW = ".new"  # of a folder that is complete and not yet in its place
OLD = ".old"  # of a folder that was replaced or is being removed


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    ```python
    with replace_file("mask.png") as partial:
        image.save(partial, format="PNG")
    ```

    Args:
        path: of the file; its folder is made where it is missing.

    Yields:
        The path to write to, in the same folder. It takes the place of `path` at the end, and is removed on an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = hidden(path, f".{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; line ends stay as they are."""
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, content: Any, indent: int = 2) -> None:
    """Write a value as JSON, whole or not at all; ValueError for a number that is not finite."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def replace_folder(folder: str | Path) -> Iterator[Path]:
    """Write a folder whole or not at all.

    ```python
    with replace_folder("best") as partial:
        model.save_pretrained(partial)
    ```

    A folder of that name stays until the new one is complete. Between the two renamings neither is in place; what was
    stopped there is completed by [`recover_folder`], which this function calls first.

    Args:
        folder: its path; the folder above is made where it is missing.

    Yields:
        An empty folder beside it, which takes its place at the end and is removed on an error.

    Raises:
        FileExistsError: another process wrote the same folder meanwhile.
    """
    folder = Path(folder)
    recover_folder(folder)
    partial = hidden(folder, PARTIAL)
    remove_folder(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        move_into_place(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def move_into_place(partial: Path, folder: Path) -> None:
    """Give a complete folder its name; an older folder of that name is removed behind it."""
    new, old = hidden(folder, NEW), hidden(folder, OLD)
    try:
        os.replace(partial, new)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    except FileNotFoundError as error:
        raise FileExistsError(f"{folder} was written by another process meanwhile: give each its own") from error
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: str | Path) -> None:
    """Complete what [`replace_folder`] was stopped at: rename a complete new folder, remove an old one."""
    folder = Path(folder)
    new, old = hidden(folder, NEW), hidden(folder, OLD)
    if new.exists():
        if folder.exists():
            remove_folder(old)
            os.replace(folder, old)
        os.replace(new, folder)
    remove_folder(old)


def remove_folder(folder: str | Path) -> None:
    """Remove a folder where there is one: renamed first, so that no half of it stands under its name."""
    folder = Path(folder)
    if not folder.exists():
        return
    going = folder if folder.name.endswith((OLD, PARTIAL)) else hidden(folder, OLD)
    if going != folder:
        shutil.rmtree(going, ignore_errors=True)
        os.replace(folder, going)
    shutil.rmtree(going)


def check_new_folder(folder: str | Path) -> None:
    """Raise FileExistsError unless a folder is absent or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; choose another or empty it first")


def hidden(path: Path, ending: str) -> Path:
    """The hidden name beside a path with an ending."""
    return path.with_name(f".{path.name}{ending}")


__all__ = [
    "check_new_folder",
    "recover_folder",
    "remove_folder",
    "replace_file",
    "replace_folder",
    "write_json",
    "write_text",
]

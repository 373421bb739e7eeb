"""Files of a run: folders that appear whole, and a log of JSON lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..files import replace_folder, write_json, write_text


def write_folder(folder: Path, write: Callable[[Path], None], record: dict[str, Any] | None = None) -> None:
    """Let `write` fill a folder, add the record as `training.json`; the folder appears whole or not at all."""
    with replace_folder(folder) as partial:
        write(partial)
        if record is not None:
            write_json(partial / "training.json", record)


def log(accelerator: Accelerator, output_dir: Path, entry: dict[str, Any]) -> None:
    """Print one line, append it to log.jsonl, and hand its numbers to the trackers where it has a step."""
    accelerator.print(json.dumps(entry))
    if "step" in entry:
        accelerator.log({name: value for name, value in entry.items() if name != "step"}, step=entry["step"])
    if accelerator.is_main_process:
        with (output_dir / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def keep_lines(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Remove lines of a log, also one that was cut off in the middle; a log that does not exist stays so."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if is_kept(entry):
            kept.append(line)
    write_text(path, "".join(f"{line}\n" for line in kept))

"""States of a run to resume from, each complete or absent (`save_state`, `latest_state`).

    checkpoints/step-00000500/      what Accelerate saves: weights, optimizer, random states, registered objects

A state is written under another name and renamed when every process has written its part, so that a run killed at
any moment finds whole states only. Older ones are removed after a newer one is whole.
"""

import os
import shutil
from pathlib import Path

from accelerate import Accelerator

from ..files import remove_folder

PREFIX = "step-"
HALF_WRITTEN = ".writing"


def states_of(output_dir: Path) -> list[Path]:
    """Complete states, the latest last."""
    folder = output_dir / "checkpoints"
    found = folder.glob(f"{PREFIX}*") if folder.is_dir() else ()
    return sorted(path for path in found if path.is_dir() and path.suffix != HALF_WRITTEN)


def latest_state(output_dir: Path) -> Path | None:
    """The state to resume from; None where there is none."""
    return (states_of(output_dir) or [None])[-1]


def save_state(accelerator: Accelerator, output_dir: Path, step: int, keep: int) -> None:
    """Save all that a run needs to go on as if it had never stopped; every process calls it."""
    folder = output_dir / "checkpoints"
    complete = folder / f"{PREFIX}{step:08d}"
    partial = complete.with_name(complete.name + HALF_WRITTEN)
    if accelerator.is_main_process:
        for left_over in folder.glob(f"*{HALF_WRITTEN}"):
            shutil.rmtree(left_over)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        remove_folder(complete)
        os.replace(partial, complete)
        for older in states_of(output_dir)[: -max(keep, 1)]:
            remove_folder(older)
    accelerator.wait_for_everyone()

"""The life of a run that trains a text grounder on boxes derived from masks: scenes, model, loop, checkpoints.

    accelerate launch training/train_grounder.py --config training/configs/tiny_grounder.yaml

Fine-tunes a published Grounding DINO (`grounder`), in full or by LoRA, or trains a small one from scratch
(`architecture`). A run that was stopped goes on where its latest state is: run the same command again.
"""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import get_cosine_schedule_with_warmup

from ..evaluation.grounding import average_precision, best_threshold, scene_rows, summarize_grounding
from ..grounding import TextGrounder
from ..grounding_loading import name_of
from .average import TrainableAverage
from .files import log, write_folder
from .grounding_backbone import build_mask_head, teach_backbone
from .grounding_model import QuestionsLoss, build_grounder, choose_what_learns
from .grounding_questions import Questions
from .grounding_run import GrounderRun
from .grounding_scenes import build_scenes
from .learning import build_optimizer
from .loop import Progress, Window, seed_everything, start_or_resume
from .run_config import published
from .states import latest_state, save_state


def train_grounder(run: GrounderRun) -> dict[str, Any]:
    """Train a grounder, or go on with a training that was stopped.

    Returns:
        The summary of the best checkpoint's validation, see `validate`.

    Raises:
        FileExistsError: the output directory holds a run of another configuration.
        FloatingPointError: a loss is not finite.
        ValueError: settings that do not fit together, or data that leave nothing to a part.
    """
    accelerator = build_accelerator(run)
    seed_everything(run.seed, 0)
    output_dir = Path(run.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    grounder = build_grounder(run)
    training, validation, targets = build_scenes(run)
    grounder.settings.tuned_on = describe_tuning(run)
    grounder.settings.known_targets = sorted({*(grounder.settings.known_targets or ()), *targets})
    grounder.settings.calibration = {}  # it was that of other weights

    head = build_mask_head(grounder, targets) if run.mask_loss or run.backbone_scenes else None
    if run.backbone_scenes and latest_state(output_dir) is None:
        teach_backbone(grounder, head, training, targets, run, accelerator)
    network = QuestionsLoss(
        choose_what_learns(grounder.model, run),
        run.matches_per_object,
        head if run.mask_loss else None,
        run.mask_loss,
    )
    optimizer = build_optimizer(network, run.learning_rate, run.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, run.warmup_steps, run.max_steps)
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    average, progress = TrainableAverage(network, run.ema_decay), Progress()
    accelerator.register_for_checkpointing(average, progress)
    start_or_resume(run, output_dir, accelerator, progress)
    if progress.step == 0:
        save_state(accelerator, output_dir, 0, run.keep_states)

    questions = Questions(
        grounder, run.description_share, run.texts_per_image, tuple(targets) if run.mask_loss else ()
    )
    batches = batches_from(run, training, questions, accelerator, progress.step)
    started, window = time.time(), Window()
    for inputs, labels in batches:
        network.train()
        seed_everything(run.seed, 1, progress.step, accelerator.process_index)
        with accelerator.autocast():
            loss, terms = network(inputs, labels)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), run.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.update()
        progress.step += 1
        window.add({"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}, progress.step)

        is_last = progress.step == run.max_steps
        save_every = run.save_every or run.eval_every
        if (
            is_last
            or progress.step == 1
            or any(progress.step % each == 0 for each in (run.log_every, run.eval_every, save_every))
        ):
            window.check(accelerator)  # before anything is written
        if progress.step % run.log_every == 0 or progress.step == 1 or is_last:
            entry = {"step": progress.step, "seconds": round(time.time() - started, 1)}
            means = {name: round(mean, 4) for name, mean in window.means(accelerator).items()}
            log(accelerator, output_dir, entry | {"lr": schedule.get_last_lr()[0]} | means)
        if progress.step % run.eval_every == 0 or is_last:
            with average.in_place():
                plain = accelerator.unwrap_model(network).plain()
                check(
                    run, TextGrounder(plain, grounder.processor, grounder.settings), validation, accelerator, progress
                )
        if progress.step % save_every == 0 or is_last:
            save_state(accelerator, output_dir, progress.step, run.keep_states)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return json.loads((output_dir / "best" / "training.json").read_text())["validation"]


def build_accelerator(run: GrounderRun) -> Accelerator:
    """The processes and their device.

    Raises:
        ValueError: a batch, or the scenes of the backbone, cannot be divided among the processes.
    """
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
    for name in ("batch_size", "backbone_scenes"):
        if getattr(run, name) % accelerator.num_processes:
            raise ValueError(
                f"{name}={getattr(run, name)} must be a multiple of {accelerator.num_processes} processes"
            )
    return accelerator


def describe_tuning(run: GrounderRun) -> str:
    """What the weights are fine-tuned on, for the grounder's settings."""
    named = ", ".join(run.sources) or ("ccsam_hf.data.simulator" if run.data is None else name_of(run.data))
    return f"{named}, {run.method}: {', '.join(run.parts)}"


def batches_from(
    run: GrounderRun, scenes: Dataset, questions: Questions, accelerator: Accelerator, step: int
) -> DataLoader:
    """Loader of the batches after a step."""
    rest = Subset(scenes, range(step * run.batch_size, run.max_steps * run.batch_size))
    size = run.batch_size // accelerator.num_processes
    return accelerator.prepare(DataLoader(rest, size, num_workers=run.num_workers, collate_fn=questions))


def check(
    run: GrounderRun, grounder: TextGrounder, scenes: Dataset, accelerator: Accelerator, progress: Progress
) -> None:
    """Validate the grounder, and write it as the last checkpoint and, with the largest mean IoU, as the best."""
    scores, output_dir = validate(grounder, scenes, accelerator), Path(run.output_dir)
    log(accelerator, output_dir, {"step": progress.step, **scores})
    is_best = scores["all"]["mean_iou"] > progress.best
    progress.best = max(progress.best, scores["all"]["mean_iou"])
    record = {"run": published(run), "step": progress.step, "validation": scores}
    record["versions"] = {name: version(name) for name in ("torch", "transformers", "peft")}
    if accelerator.is_main_process:
        for name in ["last"] + ["best"] * is_best:
            write_folder(output_dir / name, grounder.save_pretrained, record)
    accelerator.wait_for_everyone()


def validate(grounder: TextGrounder, scenes: Dataset, accelerator: Accelerator) -> dict[str, Any]:
    """Recall, overlap and average precision over all validation scenes, each process asking its share.

    The threshold from which a text counts as found is chosen here, and becomes the grounder's own.
    """
    share = range(accelerator.process_index, len(scenes), accelerator.num_processes)
    rows = gather_object([row for index in share for row in scene_rows(grounder, scenes[index][0])])
    threshold = best_threshold(rows)
    if threshold is not None:
        grounder.settings.box_threshold = round(threshold, 3)
        rows = [row | {"found": row["score"] >= grounder.settings.box_threshold} for row in rows]
    return summarize_grounding(rows) | {"average_precision": average_precision(rows)}


__all__ = ["train_grounder", "validate"]

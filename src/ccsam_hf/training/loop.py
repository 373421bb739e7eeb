"""The life of a training run: data, model, optimizer, loop, validation, states to resume from, checkpoints.

    accelerate launch training/train.py --config training/configs/tiny.yaml --output_dir runs/tiny

Reads top to bottom. What is random in a step depends on the seed, the step and the process alone, so that a run which
was stopped goes on exactly as it would have: run the same command again.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..checks import import_extra
from ..evaluation.metrics import dice, hausdorff_manhattan
from ..files import recover_folder, write_text
from ..grounding import TextGrounder
from ..hub.push import push_checkpoint
from ..image_processing_ccsam import CCSamImageProcessor
from ..modeling_ccsam import CCSamModel
from ..processing_ccsam import CCSamProcessor
from .average import TrainableAverage
from .files import keep_lines, log, write_folder
from .identity import check_data, identify_samples
from .inputs import EpochOrder, build_samples
from .learning import build_model, build_optimizer, build_schedule, choose_what_learns, finished
from .prompting import InteractiveLoss, PromptedLoss
from .run_config import MIXTURE, RunConfig, differences, published
from .states import latest_state, save_state

# What may differ between a run and its continuation.
FREE_TO_CHANGE = ("config", "num_workers", "tracker", "push_to_hub", "log_every", "keep_states", "output_dir")
CHECKPOINTS = ("best", "last")


class Progress:
    """Where a run stands; saved with every state."""

    def __init__(self):
        self.step = self.epoch = self.batch = 0  # `batch` counts the batches of this process in the epoch
        self.best, self.since_best = -math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        vars(self).update(state)


@dataclass(frozen=True)
class Learner:
    """What a run trains.

    Args:
        network: batch -> loss, its terms by name, and mask logits (B, 256, 256) by prompt.
        prompts: those whose mean Dice chooses the best checkpoint.
        writer: the network as Accelerate prepared it, with the weights to be kept in place -> what writes them into a
            folder. Every process calls it; the first one alone calls what it returns.
        libraries: names of the distributions whose versions are kept with a checkpoint.
    """

    network: nn.Module
    prompts: list[str]
    writer: Callable[[Accelerator, nn.Module], Callable[[Path], None]]
    libraries: tuple[str, ...]


def train(run: RunConfig) -> dict[str, float]:
    """Train a CC-SAM, or go on with a training that was stopped.

    Returns:
        The scores of the best checkpoint: "dice_<prompt>" in percent and "hd_<prompt>" in pixels of 256x256.

    Raises:
        FileExistsError: the output directory holds a run of another configuration.
        FloatingPointError: a loss is not finite; the message names the samples.
        ValueError: settings that do not fit together.
    """
    scores = train_learner(run, ccsam_learner)
    if run.push_to_hub and PartialState().is_main_process:
        push_checkpoint(Path(run.output_dir) / "best", run.push_to_hub, message="Upload the best checkpoint of a run")
    return scores


def ccsam_learner(run: RunConfig, training_samples: Any, validation_samples: Any) -> Learner:
    """The model of a run with its prompts; the samples do not change it."""
    model = build_model(run)
    model.set_attn_implementation(run.attention)
    adapted = choose_what_learns(model, run)
    grounder = None if run.grounder is None else TextGrounder.from_pretrained(run.grounder)
    kind = InteractiveLoss if run.data == MIXTURE else PromptedLoss
    network = kind(model, run.prompts, run.correction_clicks, grounder)

    def writer(accelerator: Accelerator, prepared: nn.Module) -> Callable[[Path], None]:
        if adapted is not None:
            return partial(write_model, finished(adapted), None)
        gathered = accelerator.get_state_dict(prepared)  # whole, also where processes hold parts of it
        return partial(write_model, model, {name.split("model.", 1)[1]: each for name, each in gathered.items()})

    return Learner(network, run.prompts, writer, ("ccsam-hf", "torch", "transformers", "accelerate"))


def train_learner(run: RunConfig, learner_of: Callable[[RunConfig, Any, Any], Learner]) -> dict[str, float]:
    """The life of a run of anything that learns masks; see `train`.

    Args:
        run: what the learner does not use of it has no effect.
        learner_of: run, training and validation samples -> [`Learner`].
    """
    output_dir = Path(run.output_dir)
    accelerator = build_accelerator(run, output_dir)
    seed_everything(run.seed, 0)
    training_samples, validation_samples = build_samples(run)
    order = EpochOrder(len(training_samples), run.seed, run.batch_size)
    train_loader, eval_loader = build_loaders(run, accelerator, training_samples, validation_samples, order)

    learner = learner_of(run, training_samples, validation_samples)
    network = learner.network
    optimizer = build_optimizer(network, run.learning_rate, run.weight_decay, run.optimizer, run.adam_epsilon)
    network, optimizer, train_loader, eval_loader = accelerator.prepare(network, optimizer, train_loader, eval_loader)
    steps_of_epoch = math.ceil(len(train_loader) / run.gradient_accumulation_steps)
    total_steps = run.max_steps or run.epochs * steps_of_epoch
    schedule = build_schedule(optimizer, run, total_steps, steps_of_epoch)
    average = TrainableAverage(network, run.ema_decay)
    progress = Progress()
    accelerator.register_for_checkpointing(schedule, average, progress)
    start_or_resume(run, output_dir, accelerator, progress, identify_samples(training_samples, validation_samples))

    save = partial(save_checkpoint, run, accelerator, learner, network, average, output_dir)
    eval_every = run.eval_every or steps_of_epoch
    save_every = run.save_every or eval_every
    started, window = time.time(), Window()
    bar = tqdm(total=total_steps, initial=progress.step, desc="train", disable=not shows_bar(accelerator))
    while progress.step < total_steps and not is_stalled(run, progress):
        train_loader.set_epoch(progress.epoch)  # accelerate counts by itself, from zero after a resume
        order.set_epoch(progress.epoch)  # which it does not find behind batches to skip or several processes
        training_samples.set_epoch(progress.epoch)
        batches = accelerator.skip_first_batches(train_loader, progress.batch) if progress.batch else train_loader
        for batch in batches:
            network.train()
            seed_everything(run.seed, 1, progress.epoch, progress.batch, accelerator.process_index)
            with accelerator.accumulate(network):
                with accelerator.autocast():
                    loss, terms, _ = network(batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients and run.max_grad_norm:
                    accelerator.clip_grad_norm_(network.parameters(), run.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            window.add({"loss": loss.detach(), **terms}, progress.step + 1, batch)
            progress.batch += 1
            if not accelerator.sync_gradients:
                continue
            schedule.step()
            average.update()
            progress.step += 1
            bar.update()

            is_last = progress.step == total_steps
            if (
                is_last
                or progress.step == 1
                or any(progress.step % each == 0 for each in (run.log_every, eval_every, save_every))
            ):
                window.check(accelerator)  # before anything is written
            if progress.step % run.log_every == 0 or progress.step == 1 or is_last:
                entry = {"step": progress.step, "seconds": round(time.time() - started, 1)}
                entry |= {"lr": schedule.get_last_lr()[0]} | window.means(accelerator)
                log(accelerator, output_dir, entry)
            if progress.step % eval_every == 0 or is_last:
                scores = validate(network, average, eval_loader, accelerator)
                log(accelerator, output_dir, {"step": progress.step, **scores})
                score = float(np.mean([scores[f"dice_{kind}"] for kind in learner.prompts]))
                is_best = score > progress.best
                progress.best, progress.since_best = (
                    max(score, progress.best),
                    0 if is_best else progress.since_best + 1,
                )
                save(progress.step, scores, ["last"] + ["best"] * is_best)
            if progress.step % save_every == 0 or is_last:
                save_state(accelerator, output_dir, progress.step, run.keep_states)
            if is_last or is_stalled(run, progress):
                break
        else:
            progress.epoch, progress.batch = progress.epoch + 1, 0
    bar.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return json.loads((output_dir / "best" / "training.json").read_text())["validation"]


# --- set-up ----------------------------------------------------------------------------------------------------------


def build_accelerator(run: RunConfig, output_dir: Path) -> Accelerator:
    """The processes and their device, precision and trackers."""
    if run.tracker == "tensorboard":
        import_extra("tensorboard", "train", "tracker=tensorboard")
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # embeddings of prompts that do not occur
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        gradient_accumulation_steps=run.gradient_accumulation_steps,
        cpu=not torch.cuda.is_available(),  # without it accelerate starts CPU processes that train side by side
        log_with=None if run.tracker == "none" else run.tracker,
        project_dir=output_dir,
        kwargs_handlers=[unused],
    )
    if run.tracker != "none":
        plain = {name: value for name, value in asdict(run).items() if isinstance(value, int | float | str)}
        accelerator.init_trackers("ccsam", config=plain)
    return accelerator


def build_loaders(
    run: RunConfig, accelerator: Accelerator, training, validation, order
) -> tuple[DataLoader, DataLoader]:
    """Loaders of this process's share of a batch."""
    parts = accelerator.num_processes * run.gradient_accumulation_steps
    if run.batch_size % parts:
        raise ValueError(
            f"batch_size={run.batch_size} must be a multiple of {parts}: {accelerator.num_processes} processes times "
            f"gradient_accumulation_steps={run.gradient_accumulation_steps}"
        )
    size = run.batch_size // parts
    generator = torch.Generator()  # seeds workers; the global one belongs to the model
    options = {"num_workers": run.num_workers, "generator": generator, "pin_memory": torch.cuda.is_available()}
    train_loader = DataLoader(training, size, sampler=order, **options)
    return train_loader, DataLoader(validation, size, **options)


def start_or_resume(
    run: RunConfig, output_dir: Path, accelerator: Accelerator, progress: Progress, data: dict[str, Any] | None = None
) -> None:
    """Write configuration and data of a new run, or load the latest state of the same run on the same data.

    Args:
        data: of `identify_samples`; None for a run whose data are not compared.

    Raises:
        FileExistsError: the directory holds a run of another configuration, or on other images, masks or splits.
    """
    path = output_dir / "run.yaml"
    if path.is_file():
        other = differences(run, yaml.safe_load(path.read_text()), FREE_TO_CHANGE)
        if other:
            told = "; ".join(f"{name}: {theirs!r} there, {ours!r} now" for name, (theirs, ours) in other.items())
            raise FileExistsError(f"{output_dir} holds another run ({told}); choose another output_dir, or remove it")
    elif accelerator.is_main_process:
        write_text(path, yaml.safe_dump(asdict(run)))
    if data is not None:
        check_data(output_dir, data, accelerator.is_main_process)
    if accelerator.is_main_process:
        for name in CHECKPOINTS:
            recover_folder(output_dir / name)  # of a run that was killed between two renamings
    accelerator.wait_for_everyone()
    state = latest_state(output_dir)
    if state is not None:
        accelerator.load_state(str(state))
        accelerator.print(f"resumed at step {progress.step} from {state}")
    if accelerator.is_main_process:
        keep_lines(output_dir / "log.jsonl", lambda entry: entry.get("step", 0) <= progress.step)


def seed_everything(*key: int) -> None:
    """Seed torch from a tuple of integers, so that a draw depends on nothing that came before."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


# --- validation and saving -------------------------------------------------------------------------------------------


@torch.no_grad()
def validate(network, average: TrainableAverage, loader: DataLoader, accelerator: Accelerator) -> dict[str, float]:
    """Mean Dice (percent) and Hausdorff distance (`hd_samus`, pixels of 256x256) of the averaged weights, by prompt.

    An empty prediction has a Dice of 0 and the largest distance of `hausdorff_manhattan`.
    """
    network.eval()
    scores: dict[str, list[torch.Tensor]] = {}
    with average.in_place():
        for batch in loader:
            with accelerator.autocast():
                _, _, masks = network(batch)
            truths = batch["labels"][:, 0].cpu().numpy() > 0.5
            for kind, mask_logits in masks.items():
                predicted = (mask_logits > 0).cpu().numpy()
                pairs = [
                    [100 * dice(one, truth), hausdorff_manhattan(one, truth)]
                    for one, truth in zip(predicted, truths, strict=True)
                ]
                own = torch.tensor(pairs, dtype=torch.float32, device=accelerator.device)
                scores.setdefault(kind, []).append(accelerator.gather_for_metrics(own).cpu())
    means = {kind: torch.cat(values).mean(0).tolist() for kind, values in scores.items()}
    return {f"{name}_{kind}": round(means[kind][i], 4) for i, name in enumerate(("dice", "hd")) for kind in means}


def save_checkpoint(
    run: RunConfig,
    accelerator: Accelerator,
    learner: Learner,
    network: nn.Module,
    average: TrainableAverage,
    output_dir: Path,
    step: int,
    scores: dict[str, float],
    names: list[str],
) -> None:
    """Write what was learnt, with the averaged weights, into folders that appear whole."""
    record = {"run": published(run), "step": step, "validation": scores}
    record["versions"] = {name: version(name) for name in learner.libraries}
    with average.in_place():
        write = learner.writer(accelerator, network)
        if accelerator.is_main_process:
            for name in names:
                write_folder(output_dir / name, write, record)
    accelerator.wait_for_everyone()


def write_model(model: CCSamModel, weights: dict[str, torch.Tensor] | None, folder: Path) -> None:
    """Model, with other weights where some are given, and processor beside each other."""
    model.save_pretrained(folder, state_dict=weights and dict(weights))  # which it empties
    CCSamProcessor(CCSamImageProcessor()).save_pretrained(folder)


# --- small things ----------------------------------------------------------------------------------------------------


class Window:
    """Sums of loss terms since the last line of the log, and the losses since the last check."""

    def __init__(self):
        self.sums, self.count, self.unchecked = {}, 0, []

    def add(self, terms: dict[str, torch.Tensor], step: int, batch: dict[str, Any] | None = None) -> None:
        """Take in the terms of a batch, and what names its samples where something does."""
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0) + term
        self.count += 1
        samples = {name: batch[name] for name in ("dataset", "name", "target") if name in (batch or {})}
        self.unchecked.append((step, terms["loss"], samples))

    def check(self, accelerator: Accelerator) -> None:
        """Stop every process where a loss of one of them is not finite; called by all of them at the same step.

        To ask at every batch would let the processor wait for the accelerator each time.

        Raises:
            FloatingPointError: with the step and the samples of the first such loss of this process.
        """
        wrong = ~torch.isfinite(torch.stack([loss for _, loss, _ in self.unchecked]))
        if accelerator.reduce(wrong.sum(), reduction="sum").item() == 0:
            self.unchecked.clear()
            return
        if not wrong.any():
            raise FloatingPointError("a loss is not finite in another process, whose error names the samples")
        step, loss, samples = self.unchecked[int(wrong.int().argmax())]
        named = f"; samples: {names_of(samples)}" if samples else ""
        raise FloatingPointError(f"loss is {loss.item()} at step {step}{named}")

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over batches and processes; starts anew."""
        names = list(self.sums)
        own = torch.stack([self.sums[name].float() for name in names]) / self.count
        means = accelerator.reduce(own, reduction="mean").tolist()
        self.sums, self.count = {}, 0
        return dict(zip(names, means, strict=True))


def is_stalled(run: RunConfig, progress: Progress) -> bool:
    """Whether the last `patience` validations brought nothing better."""
    return run.patience > 0 and progress.since_best >= run.patience


def names_of(batch: dict[str, Any]) -> str:
    """The samples of a batch in words; those of a mixture are named as a whole."""
    if "target" not in batch:
        return ", ".join(batch["name"])
    return ", ".join(
        f"{dataset}/{name} ({target})"
        for dataset, name, target in zip(batch["dataset"], batch["name"], batch["target"], strict=True)
    )


def shows_bar(accelerator: Accelerator) -> bool:
    """A bar where somebody looks: on a terminal, once."""
    return accelerator.is_main_process and sys.stderr.isatty()

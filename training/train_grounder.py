"""Train the text grounder on boxes derived from masks: config, scenes, model, loop, validation, checkpoints.

    accelerate launch training/train_grounder.py --config training/configs/tiny_grounder.yaml

Fine-tunes a published Grounding DINO (`--grounder`), in full or by LoRA, or trains a small one from scratch
(`architecture`). Reads top to bottom; every field of `GrounderRun` can stand in the YAML file or on the command line.
"""

import copy
import math
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object, set_seed
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    get_cosine_schedule_with_warmup,
)

from ccsam_hf import TextGrounder
from ccsam_hf.data.cases import Case
from ccsam_hf.data.prompts import tight_box
from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.simulator import TARGETS as SIMULATED_TARGETS
from ccsam_hf.data.simulator import SimulatedCase, simulate
from ccsam_hf.data.splits import divide
from ccsam_hf.descriptions import PAPER_TEMPLATE, TARGETS, find_target
from ccsam_hf.evaluation.grounding import (
    Scene,
    average_precision,
    best_threshold,
    scene_rows,
    summarize_grounding,
)
from ccsam_hf.geometry import boxes_to_unit
from ccsam_hf.grounding import GrounderSettings
from ccsam_hf.grounding_loading import name_of
from ccsam_hf.grounding_texts import encode_captions, make_caption
from ccsam_hf.image_processing_ccsam import to_three_channels, to_unit_image
from ccsam_hf.losses import binary_cross_entropy, dice_loss
from ccsam_hf.training.files import log, write_folder
from ccsam_hf.training.grounding_loss import grounding_loss
from ccsam_hf.training.learning import build_optimizer
from ccsam_hf.training.run_config import read_config

SCENE_SIZE = (192, 192)  # of simulated scenes; the image processor resizes them to the model's input
BACKBONE_SEEDS = 500_000_000  # training scenes count up from zero
VALIDATION_SEEDS = 1_000_000_000  # held-out tests from 2_000_000_000
FINEST_STRIDE = 8  # pixels between the places of the backbone's finest map

# Parts of Grounding DINO by the names of their modules; "detector" is all that the others leave.
PARTS = {
    "backbone": r"^model\.backbone\.",
    "text_encoder": r"^model\.text_backbone\.",
    "projections": r"^model\.(text_projection|input_proj_vision)\.",
    "detector": r"^(?!model\.(backbone|text_backbone|text_projection|input_proj_vision)\.)",
}
GREY_MEAN, GREY_STD = 0.25, 0.2  # of ultrasound images, for a backbone without statistics of its own
EXCHANGE = 0.1  # scale of what text and image tell each other at the start; 0.0001 as published
START_LOGIT = -4.0  # probability 0.018
BOX_HEADS = r"bbox_embed"  # start at no change; one module under several names, so that adapters would count twice


@dataclass
class GrounderRun:
    """What defines a run."""

    config: str | None = field(default=None, metadata={"help": "YAML file with any of the fields below"})
    output_dir: str = field(default="runs/grounder", metadata={"help": "receives best/, last/, log.jsonl"})
    grounder: str | None = field(default=None, metadata={"help": "folder or hub id to fine-tune"})
    text_encoder: str | None = field(default=None, metadata={"help": "BERT to read the text in place of its own"})
    architecture: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "fields of GroundingDinoConfig, to train from scratch"}
    )
    image_size: int = field(default=800, metadata={"help": "rows and columns of the input, from scratch"})
    data: str | None = field(default=None, metadata={"help": "folder of images and masks; the simulator if left out"})
    layout: str = field(default="folder", metadata={"help": "layout of the folder, see ccsam_hf.data.readers"})
    scene_weights: dict[str, float] = field(default_factory=lambda: {target: 1.0 for target in SIMULATED_TARGETS})
    description_share: float = field(default=0.25, metadata={"help": "share of texts in the long form"})
    method: str = field(default="full", metadata={"help": "full or lora"})
    parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": f"what learns: {list(PARTS)}"})
    lora_rank: int = 8
    matches_per_object: int = field(default=1, metadata={"help": "see grounding_loss"})
    backbone_scenes: int = field(default=0, metadata={"help": "scenes a backbone from scratch first segments"})
    backbone_epochs: int = field(default=10, metadata={"help": "how often it sees each of them"})
    backbone_learning_rate: float = 1e-3
    seed: int = 0
    max_steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    max_grad_norm: float = 0.1
    ema_decay: float = 0.99
    num_workers: int = 0
    eval_every: int = 500
    eval_scenes: int = 96
    log_every: int = 25


# --- scenes ----------------------------------------------------------------------------------------------------------


class SimulatedScenes(Dataset):
    """Scenes made when they are asked for: index + seed -> the same scene on every machine, worker and process.

    Args:
        count: number of scenes.
        first_seed: seed of the first.
        scene_weights: how often the scene of each target is drawn, relative to the others.
    """

    def __init__(self, count: int, first_seed: int, scene_weights: dict[str, float]):
        self.count, self.first_seed = count, first_seed
        self.targets = list(scene_weights)
        self.probabilities = np.array(list(scene_weights.values())) / sum(scene_weights.values())

    def __len__(self) -> int:
        return self.count

    def case(self, index: int) -> SimulatedCase:
        """What the simulator makes for an index."""
        seed = self.first_seed + index
        target = np.random.default_rng([seed, 1]).choice(self.targets, p=self.probabilities)
        return simulate(target, seed, SCENE_SIZE)

    def __getitem__(self, index: int) -> tuple[Scene, int]:
        """A scene, its absent targets being the simulator's others, and the seed for what is drawn about it."""
        case = self.case(index)
        boxes = {target: tight_box(mask) for target, mask in case.masks.items() if mask.any()}
        absent = tuple(target for target in SIMULATED_TARGETS if target not in case.masks)
        return Scene(f"{case.target} {case.seed}", case.image, boxes, absent), case.seed


class FolderScenes(Dataset):
    """Cases of a folder as scenes, again and again, in a new order each time round.

    A folder says what is in an image and not what else is: only targets of other organs count as absent.

    Args:
        cases: of `read_cases`.
        targets: everything that may be asked for.
        count: number of scenes.
        first_seed: seed of the first.
        shuffled: whether their order is drawn.
    """

    def __init__(self, cases: list[Case], targets: list[str], count: int, first_seed: int, shuffled: bool):
        self.cases, self.targets, self.count = cases, targets, count
        self.first_seed, self.shuffled = first_seed, shuffled

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Scene, int]:
        """As `SimulatedScenes`; a case with an empty mask is a scene in which its target is absent."""
        time_round, place = divmod(index, len(self.cases))
        if self.shuffled:
            place = np.random.default_rng([self.first_seed, time_round]).permutation(len(self.cases))[place]
        case = self.cases[place]
        mask = case.mask
        boxes = {case.target: tight_box(mask)} if mask.any() else {}
        absent = tuple(target for target in self.targets if are_of_two_organs(target, case.target))
        absent += () if boxes else (case.target,)
        return Scene(case.name, case.image, boxes, absent), self.first_seed + index


def are_of_two_organs(first: str, second: str) -> bool:
    """Whether two targets lie in different organs for all that the registry knows."""
    found = find_target(first), find_target(second)
    return None not in found and found[0].organ != found[1].organ


def build_scenes(run: GrounderRun) -> tuple[Dataset, Dataset]:
    """Training and validation scenes, apart from each other.

    A folder is divided as `ccsam-hf train` with the same seed divides it: by patients, by lists of its own where it
    has some, and with a test part that is not looked at.
    """
    if run.data is None:
        return (
            SimulatedScenes(run.max_steps * run.batch_size, 0, run.scene_weights),
            SimulatedScenes(run.eval_scenes, VALIDATION_SEEDS, run.scene_weights),
        )
    cases = read_cases(run.data, run.layout)
    placed = divide(cases, run.seed).apply(cases)
    training, validation = ([case for case in placed if case.split == split] for split in ("train", "validation"))
    validation = validation[: run.eval_scenes]
    for split, found in (("train on", training), ("validate with", validation)):
        if not any(case.mask.any() for case in found):
            raise ValueError(
                f"{run.data} leaves {len(found)} cases to {split}, and none has an object; give it more cases"
            )
    targets = sorted({case.target for case in cases})
    return (
        FolderScenes(training, targets, run.max_steps * run.batch_size, run.seed, shuffled=True),
        FolderScenes(validation, targets, len(validation), VALIDATION_SEEDS, shuffled=False),
    )


@dataclass
class Questions:
    """Scenes -> a batch: one text for each image, drawn from what is in it and what is not.

    Each image is asked for one target, two times in three for one that it shows. A batch has one form of text, as
    short texts would be padded to the length of long ones.
    """

    grounder: TextGrounder
    description_share: float

    def __call__(self, scenes: list[tuple[Scene, int]]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Model inputs and `labels` for `grounding_loss`."""
        captions, boxes, images = [], [], []
        first_seed = scenes[0][1]
        is_long = np.random.default_rng([first_seed, 3]).random() < self.description_share
        for scene, seed in scenes:
            target = draw_target(scene, np.random.default_rng([seed, 2]))
            captions.append(make_caption(target, "description" if is_long else "phrase"))
            found = np.array([box for name, box in scene.boxes.items() if name == target], dtype=np.float32)
            boxes.append(boxes_to_unit(torch.from_numpy(found.reshape(-1, 4)), scene.image.shape))
            images.append(to_three_channels(to_unit_image(scene.image), do_convert_grayscale=True))
        pixels = self.grounder.processor.image_processor(images, do_rescale=False, return_tensors="pt")
        tokens, phrase_maps = encode_captions(self.grounder.processor.tokenizer, captions, self.grounder.max_tokens)
        labels = [
            {"class_labels": torch.zeros(len(each), dtype=torch.long), "boxes": each, "phrase_maps": phrase_map[None]}
            for each, phrase_map in zip(boxes, phrase_maps, strict=True)
        ]
        return {**pixels, **tokens}, labels


def draw_target(scene: Scene, rng: np.random.Generator) -> str:
    """Which target to ask for: see `Questions`."""
    present, absent = list(scene.boxes), list(scene.absent)
    shown = present and (not absent or rng.random() < 2 / 3)
    return str(rng.choice(present if shown else absent))


# --- model -----------------------------------------------------------------------------------------------------------


def registry_tokenizer() -> BertTokenizer:
    """A WordPiece tokenizer for the registry's targets and the paper's description; other words go by letters."""
    texts = [PAPER_TEMPLATE, *(text for target in TARGETS.values() for text in (target.name, *target.synonyms))]
    words = sorted({word for text in texts for word in re.findall(r"[a-z]{2,}", text.lower())})
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".?,;:'-/()%[]", *letters]
    tokens += [f"##{letter}" for letter in letters] + words
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})


def build_grounder(run: GrounderRun) -> TextGrounder:
    """The grounder to fine-tune, or a new one of the run's architecture."""
    if (run.grounder is None) == (not run.architecture):
        raise ValueError("give either grounder, a checkpoint to fine-tune, or architecture, to train from scratch")
    if run.grounder is not None:
        return TextGrounder.from_pretrained(run.grounder, text_encoder=run.text_encoder)
    if run.text_encoder is not None:
        raise ValueError(f"text_encoder={run.text_encoder!r} came with architecture: it replaces that of a grounder")
    tokenizer = registry_tokenizer()
    text_config = {**run.architecture["text_config"], "vocab_size": len(tokenizer), "pad_token_id": 0}
    config = GroundingDinoConfig(
        **{**run.architecture, "text_config": text_config, "disable_custom_kernels": True},
    )
    size = {"height": run.image_size, "width": run.image_size}
    statistics = {"image_mean": [GREY_MEAN] * 3, "image_std": [GREY_STD] * 3}
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(size=size, **statistics), tokenizer)
    model = GroundingDinoForObjectDetection(config)
    start_from_scratch(model)
    return TextGrounder(model, processor, GrounderSettings(text_encoder="the registry's words, trained with the rest"))


@torch.no_grad()
def start_from_scratch(model: GroundingDinoForObjectDetection) -> None:
    """Start values for a model in which nothing is pre-trained.

    transformers' start values suit the widths of published models, and parts that are to change a pre-trained whole
    gently. Here every linear layer keeps the variance of its input, text and image exchange from the first step, and
    every box starts with a low probability for every token: logits are scalar products without a bias, so the norms of
    boxes start small, and a shared direction of texts and boxes takes the part of the bias that focal losses need.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and bool(module.weight.any()) and not re.search(BOX_HEADS, name):
            module.weight.normal_(std=module.in_features**-0.5)
    embeddings = model.model.text_backbone.embeddings
    embeddings.word_embeddings.weight.normal_()  # words differ more than their places
    for layer in model.model.encoder.layers:
        layer.fusion_layer.vision_param.fill_(EXCHANGE)
        layer.fusion_layer.text_param.fill_(EXCHANGE)
    text = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    shared = math.sqrt(-START_LOGIT / len(text.bias))
    text.bias.fill_(shared)
    for norm in (model.model.decoder.layer_norm, model.model.enc_output_norm):
        norm.weight.fill_(0.1)
        norm.bias.fill_(-shared)


def choose_what_learns(model: nn.Module, run: GrounderRun) -> nn.Module:
    """Freeze all but the run's parts, or put LoRA adapters into their linear layers; returns what is trained."""
    unknown = sorted(set(run.parts) - set(PARTS))
    if unknown or not run.parts or run.method not in ("full", "lora"):
        raise ValueError(f"parts={run.parts} and method={run.method!r}; expected {list(PARTS)} and 'full' or 'lora'")
    in_parts = re.compile("|".join(PARTS[part] for part in run.parts))
    if run.method == "lora":
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and in_parts.match(f"{name}.") and not re.search(BOX_HEADS, name)
        ]
        # peft asks for them, and transformers 5.24 does not know where a Grounding DINO has its.
        model.get_input_embeddings = model.model.text_backbone.get_input_embeddings
        lora = LoraConfig(r=run.lora_rank, lora_alpha=2 * run.lora_rank, target_modules=names)
        return get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(in_parts.match(name)))
    return model


class Segmenter(nn.Module):
    """A backbone with a small head that reads the masks of all targets off its maps.

    Args:
        backbone: the convolutional encoder of Grounding DINO.
        num_targets: masks to read.
        width: channels of the head.
    """

    def __init__(self, backbone: nn.Module, num_targets: int, width: int = 64):
        super().__init__()
        self.backbone = backbone.model
        self.projections = nn.ModuleList(nn.Conv2d(size, width, 1) for size in backbone.intermediate_channel_sizes)
        self.head = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, num_targets, 1)
        )

    def forward(self, pixel_values: Tensor, masks: Tensor) -> Tensor:
        """BCE of all masks and Dice of those that are not empty.

        Args:
            pixel_values: (B, 3, H, W).
            masks: (B, num_targets, h, w) in [0, 1], of the size of the backbone's finest map.
        """
        size = masks.shape[-2:]
        maps = self.backbone(pixel_values).feature_maps
        projected = [projection(each) for projection, each in zip(self.projections, maps, strict=True)]
        logits = self.head(sum(F.interpolate(each, size, mode="bilinear") for each in projected))
        present = masks.flatten(2).any(-1)  # (B, num_targets)
        return binary_cross_entropy(logits, masks) + dice_loss(logits[present][None], masks[present][None])


def teach_backbone(grounder: TextGrounder, run: GrounderRun, accelerator: Accelerator) -> None:
    """Let a backbone from scratch learn to segment simulated scenes before it learns to detect.

    A detector gives it a match an object to learn from, a mask every pixel, and without text and boxes an image costs
    about a quarter. The scenes are few, kept in memory and shown again and again, half of the times mirrored; their
    seeds lie before those of validation.
    """
    scenes = SimulatedScenes(run.backbone_scenes, BACKBONE_SEEDS, run.scene_weights)
    images, masks = [], []
    for index in range(accelerator.process_index, len(scenes), accelerator.num_processes):
        case = scenes.case(index)
        image = to_three_channels(to_unit_image(case.image), do_convert_grayscale=True)
        images.append(grounder.prepare_image(image)["pixel_values"][0, :1].half())
        nowhere = np.zeros(case.image.shape, dtype=bool)
        layers = torch.from_numpy(np.stack([case.masks.get(name, nowhere) for name in SIMULATED_TARGETS])).float()
        masks.append(F.adaptive_avg_pool2d(layers, run.image_size // FINEST_STRIDE).half())
    lessons = TensorDataset(torch.stack(images), torch.stack(masks))
    loader = DataLoader(lessons, run.batch_size, shuffle=True)

    network = Segmenter(grounder.model.model.backbone.conv_encoder, len(SIMULATED_TARGETS)).train()
    optimizer = build_optimizer(network, run.backbone_learning_rate, run.weight_decay)
    steps = run.backbone_epochs * len(loader)
    scheduler = get_cosine_schedule_with_warmup(optimizer, run.warmup_steps, steps)
    network, optimizer = accelerator.prepare(network, optimizer)
    started = time.time()
    for epoch in range(run.backbone_epochs):
        losses = []
        for pixel_values, targets in loader:
            if torch.rand(()) < 0.5:
                pixel_values, targets = pixel_values.flip(-1), targets.flip(-1)
            loss = network(pixel_values.float().expand(-1, 3, -1, -1).to(accelerator.device), targets.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(network.parameters(), run.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        entry = {"backbone_epoch": epoch + 1, "seconds": round(time.time() - started, 1)}
        log(accelerator, Path(run.output_dir), entry | {"backbone_loss": round(float(np.mean(losses)), 4)})


class WithLoss(nn.Module):
    """The detector and its loss in one forward, as distributed training wants it.

    Args:
        model: `GroundingDinoForObjectDetection`, or the peft model around it.
        matches_per_object: see `grounding_loss`.
    """

    def __init__(self, model: nn.Module, matches_per_object: int = 1):
        super().__init__()
        self.model, self.matches_per_object = model, matches_per_object

    def forward(self, inputs: dict[str, Tensor], labels: list[dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its terms: see `grounding_loss`."""
        output = self.model(**inputs)
        return grounding_loss(self.model, output, inputs["attention_mask"], labels, self.matches_per_object)

    def plain(self) -> GroundingDinoForObjectDetection:
        """The detector without adapters: a copy into which they are merged, or the detector itself."""
        return copy.deepcopy(self.model).merge_and_unload() if isinstance(self.model, PeftModel) else self.model


# --- run -------------------------------------------------------------------------------------------------------------


def validate(grounder: TextGrounder, scenes: Dataset, accelerator: Accelerator) -> dict[str, Any]:
    """Recall, overlap and average precision over all validation scenes, each process asking its share.

    The threshold from which a text counts as found is chosen here, and becomes the grounder's own.
    """
    share = range(accelerator.process_index, len(scenes), accelerator.num_processes)
    rows = [row for index in share for row in scene_rows(grounder, scenes[index][0])]
    rows = gather_object(rows)
    threshold = best_threshold(rows)
    if threshold is not None:
        grounder.settings.box_threshold = round(threshold, 3)
        rows = [row | {"found": row["score"] >= grounder.settings.box_threshold} for row in rows]
    return summarize_grounding(rows) | {"average_precision": average_precision(rows)}


def main(arguments: list[str]) -> None:
    """The life of a run."""
    run = read_config(GrounderRun, arguments)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
    for name in ("batch_size", "backbone_scenes"):
        if getattr(run, name) % accelerator.num_processes:
            raise ValueError(
                f"{name}={getattr(run, name)} must be a multiple of {accelerator.num_processes} processes"
            )
    set_seed(run.seed)
    output_dir = Path(run.output_dir)

    grounder = build_grounder(run)
    source = "ccsam_hf.data.simulator" if run.data is None else name_of(run.data)
    grounder.settings.tuned_on = f"{source}, {run.method}: {', '.join(run.parts)}"
    training_scenes, validation_scenes = build_scenes(run)
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
    if run.backbone_scenes:
        teach_backbone(grounder, run, accelerator)
    loader = DataLoader(
        training_scenes,
        run.batch_size // accelerator.num_processes,
        num_workers=run.num_workers,
        collate_fn=Questions(grounder, run.description_share),
    )
    network = WithLoss(choose_what_learns(grounder.model, run), run.matches_per_object)
    optimizer = build_optimizer(network, run.learning_rate, run.weight_decay)
    scheduler = get_cosine_schedule_with_warmup(optimizer, run.warmup_steps, run.max_steps)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    # Buffers are copied: they are indices, which an average would round down.
    averaged = AveragedModel(accelerator.unwrap_model(network), multi_avg_fn=get_ema_multi_avg_fn(run.ema_decay))

    record = {"run": asdict(run), "versions": {name: version(name) for name in ("torch", "transformers", "peft")}}
    best, started = -math.inf, time.time()
    for step, (inputs, labels) in enumerate(loader, start=1):
        network.train()
        with accelerator.autocast():
            loss, terms = network(inputs, labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), run.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        averaged.update_parameters(accelerator.unwrap_model(network))

        if step % run.log_every == 0 or step == 1:
            entry = {"step": step, "seconds": round(time.time() - started, 1), "loss": round(loss.item(), 4)}
            log(accelerator, output_dir, entry | {name: round(term.item(), 4) for name, term in terms.items()})
        if step % run.eval_every == 0 or step == run.max_steps:
            tuned = TextGrounder(averaged.module.plain(), grounder.processor, grounder.settings)
            scores = validate(tuned, validation_scenes, accelerator)
            log(accelerator, output_dir, {"step": step, **scores})
            mean_iou = scores["all"]["mean_iou"]
            if accelerator.is_main_process:
                for name in ["last"] + ["best"] * (mean_iou > best):
                    about = record | {"step": step, "validation": scores}
                    write_folder(output_dir / name, tuned.save_pretrained, about)
            best = max(best, mean_iou)
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1:])

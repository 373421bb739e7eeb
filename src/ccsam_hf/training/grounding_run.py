"""What defines a run that trains a text grounder (`GrounderRun`), read by `run_config.read_config`."""

from dataclasses import dataclass, field
from typing import Any

from ..data.simulator import TARGETS as SIMULATED_TARGETS

# Parts of Grounding DINO by the names of their modules; "detector" is all that the others leave.
PARTS = {
    "backbone": r"^model\.backbone\.",
    "text_encoder": r"^model\.text_backbone\.",
    "projections": r"^model\.(text_projection|input_proj_vision)\.",
    "detector": r"^(?!model\.(backbone|text_backbone|text_projection|input_proj_vision)\.)",
}


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
    data: str | None = field(
        default=None, metadata={"help": "folder of images and masks, or 'mixture' (default: the simulator)"}
    )
    layout: str = field(default="folder", metadata={"help": "layout of the folder, see ccsam_hf.data.readers"})
    root: str = field(default=".", metadata={"help": "data=mixture: directory of the sources"})
    sources: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={
            "help": "data=mixture: folders below root with layout and weight, 'simulator' with cases and weight"
        },
    )
    splits: str | None = field(default=None, metadata={"help": "lists of the sources' images, see data.splits"})
    stored_size: int = field(default=160, metadata={"help": "rows and columns of the sources' images in memory"})
    scene_weights: dict[str, float] = field(default_factory=lambda: {target: 1.0 for target in SIMULATED_TARGETS})
    description_share: float = field(default=0.25, metadata={"help": "share of texts in the long form"})
    texts_per_image: int = field(default=1, metadata={"help": "targets that each image of a batch is asked for"})
    method: str = field(default="full", metadata={"help": "full or lora"})
    parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": f"what learns: {list(PARTS)}"})
    lora_rank: int = 8
    matches_per_object: int = field(default=1, metadata={"help": "see grounding_loss"})
    mask_loss: float = field(default=0.0, metadata={"help": "weight of masks that the backbone's maps must tell"})
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
    save_every: int = field(default=0, metadata={"help": "steps between states; 0 for one at each validation"})
    keep_states: int = field(default=1, metadata={"help": "states to keep"})
    eval_scenes: int = field(default=96, metadata={"help": "validation scenes at most, of each source"})
    log_every: int = 25

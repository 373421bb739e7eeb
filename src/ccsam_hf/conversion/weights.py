"""Published SAM, MedSAM, SAMUS and RadImageNet weights -> a CC-SAM folder, with every tensor accounted for.

Source: names as in facebookresearch/segment-anything (modeling/), xianlin7/SAMUS at commit 030ed07
(models/segment_anything_samus/), BMEII-AI/RadImageNet (pytorch_example.ipynb), torchvision and transformers.
"""

import copy
import dataclasses
import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, ProcessorMixin

from ..configuration_ccsam import CCSamConfig
from ..files import check_new_folder, replace_folder, write_json
from ..image_processing_ccsam import CCSamImageProcessor
from ..modeling_ccsam import CCSamModel
from ..processing_ccsam import CCSamProcessor

REPORT_NAME = "conversion_report.json"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
NESTING_KEYS = ("model", "state_dict", "model_state_dict")  # where training scripts keep the weights
NAMES_IN_A_MESSAGE = 8


@dataclasses.dataclass(frozen=True)
class NamingStyle:
    """How one publisher names the tensors of an architecture.

    Args:
        title: what error messages and reports call it.
        marker: regular expression that some name of this style matches and no name of the others.
        rules: (pattern, replacement) pairs, applied to every name one after the other.
        unused: (pattern, reason) pairs: tensors that CC-SAM has no place for.
    """

    title: str
    marker: str
    rules: tuple[tuple[str, str], ...]
    unused: tuple[tuple[str, str], ...] = ()

    def translate(self, name: str) -> str:
        """Our name for a name of this style."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name

    def reason_to_drop(self, name: str) -> str | None:
        """Why a tensor is left out, or None where it is not."""
        return next((reason for pattern, reason in self.unused if re.search(pattern, name)), None)


SAM_RULES = (
    (r"^image_encoder\.blocks\.", "vit_branch.layers."),
    (r"^image_encoder\.", "vit_branch."),
    (r"^vit_branch\.patch_embed\.proj\.", "vit_branch.patch_embed.projection."),
    (r"^vit_branch\.neck\.0\.", "vit_branch.neck.conv1."),
    (r"^vit_branch\.neck\.1\.", "vit_branch.neck.layer_norm1."),
    (r"^vit_branch\.neck\.2\.", "vit_branch.neck.conv2."),
    (r"^vit_branch\.neck\.3\.", "vit_branch.neck.layer_norm2."),
    (r"(\.layers\.\d+)\.norm([1-4])\.", r"\1.layer_norm\2."),
    (r"^prompt_encoder\.pe_layer\..*", "prompt_encoder.shared_embedding.positional_embedding"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
)
PIXEL_STATISTICS = (r"^pixel_(mean|std)$", "normalization of the image: the processor's, not the model's")

SAM_STYLES = (
    NamingStyle("segment_anything", r"^image_encoder\.", SAM_RULES, (PIXEL_STATISTICS,)),
    NamingStyle(
        "transformers' SamModel",
        r"^vision_encoder\.",
        (
            (r"^vision_encoder\.", "vit_branch."),
            (r"^shared_image_embedding\.", "prompt_encoder.shared_embedding."),
        ),
    ),
)

SAMUS_RULES = (
    (r"^image_encoder\.cnn_embed\.inc\.conv\.0\.", "cnn_branch.stem.conv."),
    (r"^image_encoder\.cnn_embed\.inc\.conv\.1\.", "cnn_branch.stem.layer_norm."),
    (r"^image_encoder\.cnn_embed\.downs\.", "cnn_branch.layers."),
    (r"^image_encoder\.post_pos_embed\.downs\.", "vit_branch.position_adapter.layers."),
    (r"\.maxpool_conv\.1\.", ".conv."),
    (r"\.maxpool_conv\.2\.", ".layer_norm."),
    (r"\.input_Adapter\.", ".input_adapter."),
    (r"\.MLP_Adapter\.", ".adapter."),
    (r"(adapter)\.D_fc1\.", r"\1.down."),
    (r"(adapter)\.D_fc2\.", r"\1.up."),
    (r"\.Space_Adapter\.q\.", ".cross_branch.query."),
    (r"\.Space_Adapter\.k\.", ".cross_branch.key."),
    (r"\.Space_Adapter\.v\.", ".cross_branch.value."),
    (r"\.Space_Adapter\.proj\.", ".cross_branch.projection."),
    (r"\.refine_Adapter\.conv\.0\.", ".cross_branch.refine.conv."),
    (r"\.refine_Adapter\.conv\.1\.", ".cross_branch.refine.layer_norm."),
)
SAMUS_STYLES = (NamingStyle("SAMUS", r"^image_encoder\.cnn_embed\.", SAMUS_RULES + SAM_RULES, (PIXEL_STATISTICS,)),)

TORCHVISION_RULES = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer1\.", "encoder.stages.0.layers."),
    (r"^layer2\.", "encoder.stages.1.layers."),
    (r"^layer3\.", "encoder.stages.2.layers."),
    (r"^layer4\.", "encoder.stages.3.layers."),
    (r"\.(conv|bn)1\.", r".layer.0.\1."),
    (r"\.(conv|bn)2\.", r".layer.1.\1."),
    (r"\.(conv|bn)3\.", r".layer.2.\1."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.bn."),
    (r"\.conv\.", ".convolution."),
    (r"\.bn\.", ".normalization."),
    (r"^(embedder|encoder)\.", r"cnn_branch.backbone.\1."),
)
CLASSIFIER = "classifier: the map before it is used"

RESNET_STYLES = (
    NamingStyle(
        "RadImageNet's Sequential",
        r"^backbone\.0\.",
        (
            (r"^backbone\.0\.", "conv1."),
            (r"^backbone\.1\.", "bn1."),
            (r"^backbone\.4\.", "layer1."),
            (r"^backbone\.5\.", "layer2."),
            (r"^backbone\.6\.", "layer3."),
            (r"^backbone\.7\.", "layer4."),
            *TORCHVISION_RULES,
        ),
    ),
    NamingStyle("torchvision", r"^conv1\.", TORCHVISION_RULES, ((r"^fc\.", CLASSIFIER),)),
    NamingStyle(
        "transformers' ResNetModel",
        r"^(resnet\.)?embedder\.embedder\.",
        ((r"^(resnet\.)?(embedder|encoder)\.", r"cnn_branch.backbone.\2."),),
        ((r"^classifier\.", CLASSIFIER),),
    ),
)

# Tensors of CC-SAM that a kind of checkpoint lacks by its nature; they keep the model's start values.
NEW_BESIDE_SAM = r"^cnn_branch\.|^fusion\.|^vit_branch\.(position_adapter|input_adapter)\.|\.(adapter|cross_branch)\."
NEW_BESIDE_RESNET = r"^(?!cnn_branch\.backbone\.)|\.num_batches_tracked$"  # frozen BatchNorm does not count batches


@dataclasses.dataclass
class ConversionReport:
    """What became of every tensor: each model name is in exactly one of the first four lists.

    Args:
        kind: "sam", "samus", "medsam", "radimagenet" or "grounding-dino".
        naming: whose names the checkpoint carries.
        loaded: model names that took a tensor as it was.
        interpolated: (model name, shape in the checkpoint, shape in the model).
        newly_initialised: model names without a source, at the model's start values.
        from_base: model names without a source that kept the value of the `base` model.
        unused: source name to the reason why CC-SAM has no place for it.
    """

    kind: str
    naming: str
    loaded: list[str] = dataclasses.field(default_factory=list)
    interpolated: list[tuple[str, list[int], list[int]]] = dataclasses.field(default_factory=list)
    newly_initialised: list[str] = dataclasses.field(default_factory=list)
    from_base: list[str] = dataclasses.field(default_factory=list)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)

    def summary(self) -> str:
        """The report in a few lines, counted by part of the model."""
        lines = [f"{self.kind} checkpoint, names of {self.naming}"]
        lines.append(f"  loaded: {count_by_part(self.loaded)}")
        lines.append(f"  interpolated: {count_by_part([name for name, _, _ in self.interpolated])}")
        lines += [
            f"    {before} -> {after}: {count} tensors"
            for (before, after), count in Counter((str(old), str(new)) for _, old, new in self.interpolated).items()
        ]
        lines.append(f"  newly initialised: {count_by_part(self.newly_initialised)}")
        if self.from_base:
            lines.append(f"  from the base model: {count_by_part(self.from_base)}")
        lines.append(f"  unused: {len(self.unused)}")
        lines += [f"    {name}: {reason}" for name, reason in self.unused.items()]
        return "\n".join(lines)


def count_by_part(names: list[str]) -> str:
    """'6 tensors (4 vit_branch.layers, 2 fusion)', from model names: large parts by parts, all else as a whole."""
    parts = Counter(re.match(r"((vit_branch|cnn_branch|model)\.)?\w+", name)[0] for name in names)
    counts = ", ".join(f"{count} {part}" for part, count in parts.items())
    return f"{len(names)} tensors ({counts})" if names else "none"


def convert_sam(
    state_dict: Mapping, config: CCSamConfig, kind: str = "sam"
) -> tuple[dict[str, Tensor], ConversionReport]:
    """SAM ViT-B, in segment_anything's names or those of transformers' `SamModel`, to ours; MedSAM has SAM's names.

    Relative-position tables of global blocks are interpolated to the token grid where it differs from SAM's 64x64. The
    positional embedding keeps 64x64: the position adapter brings it to the grid.

    Args:
        state_dict: names to tensors, or a training checkpoint that holds them under "model" or "state_dict".
        config: the model to fill.
        kind: what the report calls it.

    Returns:
        Our names to tensors, without the newly initialised ones, and the report.

    Raises:
        ValueError: unknown or missing names, or shapes that do not fit; the message lists them.
    """
    return convert_tensors(state_dict, config, kind, SAM_STYLES, new=NEW_BESIDE_SAM)


def convert_samus(state_dict: Mapping, config: CCSamConfig) -> tuple[dict[str, Tensor], ConversionReport]:
    """SAMUS's released checkpoint to the model of `CCSamConfig.samus()`; every tensor is used.

    Args and errors as in `convert_sam`.
    """
    if (config.cnn_branch, config.fusion) != ("samus", "cross_branch"):
        raise ValueError(
            f"config has cnn_branch={config.cnn_branch!r} and fusion={config.fusion!r}; a SAMUS checkpoint fills "
            "CCSamConfig.samus(), that is 'samus' and 'cross_branch'"
        )
    return convert_tensors(state_dict, config, "samus", SAMUS_STYLES, new=None)


def convert_resnet50(
    state_dict: Mapping, config: CCSamConfig | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """RadImageNet's ResNet-50 to names below `cnn_branch.backbone`.

    Three styles are known: RadImageNet's own `backbone.<n>` (the children of torchvision's ResNet in a Sequential),
    torchvision's and transformers' `ResNetModel`. The network is torchvision's, with the stride in the 3x3
    convolution; it was trained on grey images in [-1, 1], `(pixel - 127.5) * 2 / 255`, which `image_mean` and
    `image_std` of `CCSamCNNConfig` reproduce.

    Args:
        state_dict: as in `convert_sam`.
        config: the model to fill; default: `CCSamConfig()`.

    Raises:
        ValueError: as in `convert_sam`; also for RadImageNet's Keras weights, whose architecture differs.
    """
    config = CCSamConfig() if config is None else config
    if config.cnn_branch != "resnet50":
        raise ValueError(f"config has cnn_branch={config.cnn_branch!r}; a ResNet checkpoint fills 'resnet50'")
    if any(name.endswith("conv1.bias") for name in unwrap(state_dict)[0]):
        raise ValueError(
            "the convolutions have biases: these are RadImageNet's Keras weights, whose ResNet-50 also strides in "
            "another convolution and takes another normalization; expected the published PyTorch weights (ResNet50.pt)"
        )
    return convert_tensors(state_dict, config, "radimagenet", RESNET_STYLES, new=NEW_BESIDE_RESNET)


def convert_tensors(
    state_dict: Mapping, config: CCSamConfig, kind: str, styles: tuple[NamingStyle, ...], new: str | None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename, interpolate and check.

    Args:
        state_dict, config, kind: as in `convert_sam`.
        styles: the naming styles this kind of checkpoint comes in.
        new: regular expression for model names that such a checkpoint lacks by its nature.
    """
    tensors, unused = unwrap(state_dict)
    style = recognise_style(tensors, kind, styles)
    report, problems = ConversionReport(kind, style.title, unused=unused), Problems()
    shapes = model_shapes(config)
    converted = rename_tensors(tensors, style, shapes, report, problems)
    for name, shape in shapes.items():
        tensor = converted.get(name)
        if tensor is None:
            (report.newly_initialised if new and re.search(new, name) else problems.missing).append(name)
        elif tensor.shape == shape:
            report.loaded.append(name)
        elif is_global_table(name, config) and tensor.ndim == 2 and tensor.shape[1] == shape[1]:
            converted[name] = interpolate_table(tensor, shape[0])
            report.interpolated.append((name, list(tensor.shape), list(shape)))
        else:
            problems.add_misshapen(name, tensor.shape, shape)
    problems.raise_if_any(kind, style)
    return converted, report


@dataclasses.dataclass
class Problems:
    """The tensors of a checkpoint that do not fit the model; one error names all of them."""

    unknown: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    misshapen: list[str] = dataclasses.field(default_factory=list)
    contradicting: list[str] = dataclasses.field(default_factory=list)

    def add_misshapen(self, name: str, shape: Sequence[int], expected: Sequence[int]) -> None:
        """Note a tensor of another shape than the model's."""
        self.misshapen.append(f"{name} {tuple(shape)} instead of {tuple(expected)}")

    def raise_if_any(self, kind: str, style: NamingStyle) -> None:
        """Raise ValueError with the names of each list that is not empty."""
        texts = {
            "unknown in the checkpoint": self.unknown,
            "missing for the model": self.missing,
            "of another shape": self.misshapen,
            "two copies that differ": self.contradicting,
        }
        found = [f"{len(names)} {text}: {shorten(names)}" for text, names in texts.items() if names]
        if found:
            raise ValueError(
                f"this is not a {kind} checkpoint in the names of {style.title} that fits the model: "
                + "; ".join(found)
                + ". Check the kind of the checkpoint and the model's config: every tensor has to be accounted for"
            )


def rename_tensors(
    tensors: Mapping[str, Tensor],
    style: NamingStyle,
    names: Collection[str],
    report: ConversionReport,
    problems: Problems,
) -> dict[str, Tensor]:
    """Model names to tensors; what has no place in the model is noted in the report or among the problems.

    Args:
        tensors: names of `style` to tensors.
        style: how the checkpoint names them.
        names: all names of the model.
        report: takes what is unused for a reason.
        problems: takes unknown names, and copies that differ.
    """
    converted = {}
    for name, tensor in tensors.items():
        reason, target = style.reason_to_drop(name), style.translate(name)
        if reason is not None:
            report.unused[name] = reason
        elif target not in names:
            problems.unknown.append(name)
        elif target in converted:
            if torch.equal(tensor, converted[target]):
                report.unused[name] = f"second copy of {target}"
            else:
                problems.contradicting.append(name)
        else:
            converted[target] = tensor
    return converted


def shorten(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMES_IN_A_MESSAGE
    return ", ".join(names[:NAMES_IN_A_MESSAGE]) + (f" and {more} more" if more > 0 else "")


def unwrap(state_dict: Mapping) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, and reasons for what lies beside them.

    Undoes the nesting of training scripts and the `module.` that DataParallel puts before every name.

    Raises:
        ValueError: no tensors by name, neither at the top nor under "model", "state_dict" or "model_state_dict".
    """
    unused = {}
    for key in NESTING_KEYS:
        if isinstance(state_dict.get(key), Mapping):
            unused = {str(other): "training state beside the weights" for other in state_dict if other != key}
            state_dict = state_dict[key]
            break
    others = [str(name) for name, value in state_dict.items() if not isinstance(value, Tensor)]
    if others or not state_dict:
        raise ValueError(
            f"the checkpoint holds no plain tensors by name: {shorten(others) or 'it is empty'}; expected a state "
            f"dict, or one under one of the keys {', '.join(NESTING_KEYS)}"
        )
    return {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}, unused


def recognise_style(tensors: Mapping[str, Tensor], kind: str, styles: tuple[NamingStyle, ...]) -> NamingStyle:
    """The style whose marker is among the names; ValueError where there is none."""
    for style in styles:
        if any(re.search(style.marker, name) for name in tensors):
            return style
    raise ValueError(
        f"no {kind} checkpoint: its names are {shorten(sorted(tensors))}; expected those of "
        + " or ".join(f"{style.title} ({style.marker})" for style in styles)
    )


def model_shapes(config: CCSamConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor of the model; no memory is taken for them."""
    with torch.device("meta"):
        model = CCSamModel(copy.deepcopy(config))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def is_global_table(name: str, config: CCSamConfig) -> bool:
    """Whether a model name is a relative-position table of a block that attends over the whole grid."""
    match = re.fullmatch(r"vit_branch\.layers\.(\d+)\.attn\.rel_pos_[hw]", name)
    return match is not None and int(match[1]) in config.vision_config.global_attn_indexes


def interpolate_table(table: Tensor, num_rows: int) -> Tensor:
    """Relative-position table (R, d) to (num_rows, d), linear between the rows.

    Source: SAMUS, models/segment_anything_samus/build_sam_us.py (there bilinear at the same width).
    """
    return F.interpolate(table.float().T[None], size=num_rows, mode="linear", align_corners=False)[0].T.contiguous()


def load_checkpoint_file(path: str | Path) -> dict:
    """Read a checkpoint without running any code it may carry.

    Args:
        path: `.pth`, `.pt` or `.bin` (pickle, read with `weights_only=True`), `.safetensors`, or a folder that holds
            `model.safetensors` or its shards.

    Returns:
        Names to tensors; a training checkpoint as it was nested.

    Raises:
        ValueError: no such file, another format, a damaged file, or a pickle that holds more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        return load_folder(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a checkpoint file or a folder with model.safetensors")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    if path.suffix not in PICKLE_SUFFIXES:
        raise ValueError(
            f"{path.name} has the suffix {path.suffix!r}; expected {', '.join(PICKLE_SUFFIXES)} or .safetensors"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, which is refused because reading it could run code: where you trust it, "
            "load it yourself and save its state dict alone, torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to spell
        raise ValueError(f"{path} is damaged or no checkpoint: {type(error).__name__} {error}") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}; expected a state dict")
    return dict(loaded)


def load_folder(folder: Path) -> dict[str, Tensor]:
    """Read `model.safetensors` of a folder, or the shards its index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return load_safetensors(folder / "model.safetensors")
    if not index.is_file():
        raise ValueError(f"{folder} holds neither model.safetensors nor {index.name}")
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is damaged: expected JSON with a weight_map") from error
    tensors = {}
    for shard in shards:
        tensors |= load_safetensors(folder / Path(shard).name)
    return tensors


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file; ValueError where it is missing or damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}") from error


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of checkpoint: which model it fills when no base is given, and how."""

    config: Callable[[], CCSamConfig]
    convert: Callable[[Mapping, CCSamConfig], tuple[dict[str, Tensor], ConversionReport]]


KINDS = {
    "sam": Kind(CCSamConfig, convert_sam),
    "samus": Kind(CCSamConfig.samus, convert_samus),
    "medsam": Kind(CCSamConfig, lambda state_dict, config: convert_sam(state_dict, config, kind="medsam")),
    "radimagenet": Kind(CCSamConfig, convert_resnet50),
}


def convert_checkpoint(
    kind: str, checkpoint: str | Path, output_dir: str | Path, base: str | Path | None = None
) -> ConversionReport:
    """Make a folder that `CCSamModel.from_pretrained` and `CCSamProcessor.from_pretrained` load.

    What the checkpoint lacks has the model's start values, drawn from a fixed seed: the same checkpoint gives the same
    folder. SAM's and RadImageNet's weights go into one model by naming the first folder as `base` of the second.

    Args:
        kind: "sam", "samus", "medsam" or "radimagenet".
        checkpoint: see `load_checkpoint_file`.
        output_dir: a new or empty folder; it is there only once it is complete.
        base: an earlier CC-SAM folder whose config, weights and processor are the start.

    Returns:
        The report, which also lies in `output_dir` as `conversion_report.json`.

    Raises:
        FileExistsError: the output is a folder that is not empty.
        ValueError: unknown kind, or a checkpoint that does not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    output_dir = Path(output_dir)
    check_new_folder(output_dir)
    state_dict = load_checkpoint_file(checkpoint)
    if base is None:
        config, processor = KINDS[kind].config(), CCSamProcessor(CCSamImageProcessor())
        converted, report = KINDS[kind].convert(state_dict, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = CCSamModel(config)
    else:
        if not (Path(base) / "config.json").is_file():
            raise ValueError(f"base={str(base)!r} is no CC-SAM folder: it has no config.json")
        model, processor = CCSamModel.from_pretrained(base), CCSamProcessor.from_pretrained(base)
        converted, report = KINDS[kind].convert(state_dict, model.config)
        report = dataclasses.replace(report, newly_initialised=[], from_base=report.newly_initialised)
    model.load_state_dict({**model.state_dict(), **converted}, strict=True)
    save_folder(output_dir, model, processor, report)
    return report


def save_folder(output_dir: Path, model: PreTrainedModel, processor: ProcessorMixin, report: ConversionReport) -> None:
    """Write all files beside `output_dir`, then move them there at once."""
    with replace_folder(output_dir) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        write_json(partial / REPORT_NAME, dataclasses.asdict(report))


__all__ = [
    "ConversionReport",
    "convert_checkpoint",
    "convert_resnet50",
    "convert_sam",
    "convert_samus",
    "load_checkpoint_file",
]

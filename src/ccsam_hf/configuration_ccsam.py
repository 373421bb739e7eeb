"""CCSamConfig: every number that changes a CC-SAM checkpoint.

Source: Gowda and Clifton, "CC-SAM", ECCV 2024 (arXiv 2408.00181), Sections 3 and 4.2; SAMUS (arXiv 2309.06824) for
the sizes that the paper takes over from it. A field's comment names the section or says "chosen here" with the reason.
"""

import difflib
import re
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, SamMaskDecoderConfig, SamPromptEncoderConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Arguments of every from_pretrained that say where a repository of the Hub is found.
HUB_ARGUMENTS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")

# Keys that transformers itself writes into config.json or passes to a config, beside the declared fields.
LIBRARY_KEYS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "torch_dtype",
    "transformers_version",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
}


# Names of one task of `transformers.pipeline`: the Hub prints the first for our cards, the second is our own.
PIPELINE_TASKS = ("mask-generation", "ultrasound-segmentation")


class PipelineTasks(dict):
    """`custom_pipelines` of config.json: one entry that is found under every name in `PIPELINE_TASKS`.

    With two entries transformers could not infer the task of `pipeline(model=...)`.
    """

    def __contains__(self, task: object) -> bool:
        return super().__contains__(task) or (task in PIPELINE_TASKS and len(self) > 0)

    def __missing__(self, task: str) -> dict:
        if task in self:
            return next(iter(self.values()))
        raise KeyError(task)


def warn_about_unknown_keys(config: PreTrainedConfig, keys: dict) -> None:
    """Name the keyword arguments that no field of `config` declares; transformers would keep them without a word."""
    known = set(config.__dataclass_fields__)
    for key in keys:
        if key in known or key in LIBRARY_KEYS:
            continue
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        logger.warning(f"{type(config).__name__} has no field `{key}`: it changes nothing{hint}")


def check_at_least(config: PreTrainedConfig, minimum: float, *names: str) -> None:
    """Raise ValueError where a number, or an item of a sequence, is below `minimum`."""
    for name in names:
        value = getattr(config, name)
        if any(item < minimum for item in (value if isinstance(value, (list, tuple)) else (value,))):
            raise ValueError(f"{name}={value} must be at least {minimum}")


@strict
class CCSamVisionConfig(PreTrainedConfig):
    """The ViT branch: SAM's ViT-B with overlapped patches, position adapter and feature adapters (Section 3.1)."""

    model_type = "ccsam_vision"
    base_config_key = "vision_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    num_channels: int = 3
    image_size: int = 256
    patch_size: int = 16
    patch_stride: int = 8  # SAMUS: patches overlap by half; equal to `patch_size` it is SAM's own embedding
    pretrained_grid_size: int = 64  # rows and columns of SAM's positional embedding (1024 / 16)
    window_size: int = 14
    global_attn_indexes: list[int] | tuple[int, ...] = (2, 5, 8, 11)
    output_channels: int = 256
    feature_adapters: bool = True
    adapter_size: int = 192  # d / 4, Eq. (1)
    adapter_scale: float | int = 0.5  # of the adapters beside the MLPs, as in SAMUS

    def __post_init__(self, **kwargs):
        warn_about_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> int:
        """Rows (and columns) of the token grid."""
        return self.image_size // self.patch_stride

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLP in each block."""
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def num_position_downsamplings(self) -> int:
        """How often the position adapter halves SAM's positional embedding."""
        return (self.pretrained_grid_size // self.grid_size).bit_length() - 1

    def validate_sizes(self):
        """Counts and sizes are positive; heads divide the width; the global blocks exist."""
        check_at_least(self, 1, "hidden_size", "num_hidden_layers", "num_attention_heads", "num_channels")
        check_at_least(self, 1, "window_size", "output_channels")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if not 0 < self.adapter_size < self.hidden_size:
            raise ValueError(f"adapter_size={self.adapter_size} must lie between 0 and hidden_size={self.hidden_size}")
        outside = [index for index in self.global_attn_indexes if not 0 <= index < self.num_hidden_layers]
        if outside:
            raise ValueError(f"global_attn_indexes {outside} do not exist in {self.num_hidden_layers} layers")

    def validate_grid(self):
        """The token grid divides the image, and SAM's grid is the token grid times a power of two."""
        check_at_least(self, 1, "image_size", "patch_size", "patch_stride")
        if self.image_size % self.patch_stride or self.patch_stride > self.patch_size:
            raise ValueError(
                f"patch_stride={self.patch_stride} must divide image_size={self.image_size} "
                f"and be at most patch_size={self.patch_size}"
            )
        if self.pretrained_grid_size != self.grid_size << max(self.num_position_downsamplings, 0):
            raise ValueError(
                f"pretrained_grid_size={self.pretrained_grid_size} must be the token grid "
                f"({self.grid_size} = image_size / patch_stride) times a power of two: the position adapter halves it"
            )


@strict
class CCSamCNNConfig(PreTrainedConfig):
    """The CNN branch: a frozen CNN with a fully connected adapter, or SAMUS's small trainable CNN (Section 3.1).

    `embedding_size`, `hidden_sizes`, `depths` and `layer_type` describe the ResNet of `cnn_branch="resnet50"`; a
    backbone of timm brings its own sizes. `feature_stages` counts the resolutions of the backbone from 1: stages 1 to
    4 of a ResNet have strides 4 to 32, stages 1 to 5 of an EfficientNet have strides 2 to 32.
    """

    model_type = "ccsam_cnn"
    base_config_key = "cnn_config"

    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 2048)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    feature_stages: list[str] | tuple[str, ...] = ("stage4",)  # more stages add local detail; concatenated at the grid
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)  # RadImageNet trains on values in [-1, 1]
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    output_channels: int = 256  # chosen here: as wide as the ViT neck, so both branches enter the fusion alike
    dropout: float | int = 0.5  # Section 4.2
    samus_channels: int = 64  # width of the first layer of SAMUS's CNN

    def __post_init__(self, **kwargs):
        warn_about_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Sizes are positive, every stage has a width and a depth, and the named stages exist."""
        check_at_least(self, 1, "embedding_size", "hidden_sizes", "depths", "output_channels", "samus_channels")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(f"hidden_sizes={self.hidden_sizes} and depths={self.depths} must have the same length")
        if not self.feature_stages or not all(re.fullmatch(r"stage[1-9]", stage) for stage in self.feature_stages):
            raise ValueError(f"feature_stages={self.feature_stages} must name at least one of stage1, stage2, ...")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                f"image_mean={self.image_mean} and image_std={self.image_std} need three values each, image_std > 0"
            )


@strict
class CCSamVAFConfig(PreTrainedConfig):
    """Variational attention fusion of the two branches (Section 3.2).

    `log_var_range` bounds every log-variance: sigma stays between exp(-5) = 0.0067 and exp(2.5) = 12, so neither the
    sampling nor the KL term overflows, in half precision too.
    """

    model_type = "ccsam_vaf"
    base_config_key = "vaf_config"

    latent_dim: int = 1024  # Section 4.2
    head_hidden_size: int = 256  # of the MLPs for mean and log-variance: latent / 4, chosen here as for the adapters
    dropout: float | int = 0.5  # Section 4.2
    granularity: Literal["token", "image"] = "token"
    attention: Literal["variational", "deterministic"] = "variational"  # Eq. (6) or Eq. (5)
    residual: bool = True  # add the ViT map, so that a pre-trained decoder starts from what it knows
    log_var_range: list[float] | tuple[float, ...] = (-10.0, 5.0)

    def __post_init__(self, **kwargs):
        warn_about_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Sizes are positive and the range of the log-variance is a range."""
        check_at_least(self, 1, "latent_dim", "head_hidden_size")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if len(self.log_var_range) != 2 or self.log_var_range[0] >= self.log_var_range[1]:
            raise ValueError(f"log_var_range={self.log_var_range} must be (smallest, largest)")


@strict
class CCSamPromptEncoderConfig(SamPromptEncoderConfig):
    """SAM's prompt encoder on the 256-pixel input with its 32x32 grid."""

    model_type = "ccsam_prompt_encoder"

    image_size: int = 256
    patch_size: int = 8  # input pixels per token: `patch_stride` of the ViT branch

    def __post_init__(self, **kwargs):
        kwargs.pop("image_embedding_size", None)  # follows from the two sizes; a saved one may belong to others
        warn_about_unknown_keys(self, kwargs)
        check_at_least(self, 1, "image_size", "patch_size")
        super().__post_init__(**kwargs)


@strict
class CCSamMaskDecoderConfig(SamMaskDecoderConfig):
    """SAM's mask decoder; `layer_norm_eps` is that of the original decoder, whose weights are loaded (not 1e-6)."""

    model_type = "ccsam_mask_decoder"

    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs):
        warn_about_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)


@strict
class CCSamConfig(PreTrainedConfig):
    """Configuration of [`CCSamModel`].

    The three columns of the paper's Table 1 are `cnn_branch`, `fusion` and the prompt a user gives.

    Args:
        vision_config, cnn_config, vaf_config, prompt_encoder_config, mask_decoder_config:
            Sub-configs, as objects or dictionaries; missing fields take their defaults.
        cnn_branch: "resnet50" (frozen ResNet with adapter), the name of a backbone of timm that gives feature maps
            (for instance "tf_efficientnet_lite0", frozen with adapter), "samus" (SAMUS's trainable CNN) or "none".
        fusion: "vaf" (Eq. 2-7), "cross_branch" (SAMUS's attention inside the ViT) or "none" (the ViT map alone).
        train_mask_decoder: whether `CCSamModel.freeze()` lets SAM's mask decoder learn.
        lambda_c, lambda_v, lambda_a: weights of the three KL terms of Eq. (8).
        lambda_iou: weight of a squared-error term for the predicted IoU, SAM's own; 0 is Eq. (8) to the letter.
        prompt_prior: what the mask starts from, see `prompt_prior.py`. "none" is SAM: the decoder draws the whole
            mask. "shape": a box starts from the logits of its inscribed ellipse and a correction from the previous
            mask; the decoder reads them as SAM's dense mask prompt and predicts what to change. Not in the paper.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a field out of range, parts that do not fit together, or a wrong
            type; also on saving a config that was changed to such a state.
    """

    model_type = "ccsam"
    sub_configs_defaults = {
        "vision_config": CCSamVisionConfig,
        "cnn_config": CCSamCNNConfig,
        "vaf_config": CCSamVAFConfig,
        "prompt_encoder_config": CCSamPromptEncoderConfig,
        "mask_decoder_config": CCSamMaskDecoderConfig,
    }

    vision_config: dict | PreTrainedConfig | None = None
    cnn_config: dict | PreTrainedConfig | None = None
    vaf_config: dict | PreTrainedConfig | None = None
    prompt_encoder_config: dict | PreTrainedConfig | None = None
    mask_decoder_config: dict | PreTrainedConfig | None = None
    cnn_branch: str = "resnet50"
    fusion: Literal["vaf", "cross_branch", "none"] = "vaf"
    train_mask_decoder: bool = True
    lambda_c: float | int = 1e-3
    lambda_v: float | int = 1e-3
    lambda_a: float | int = 1e-3
    lambda_iou: float | int = 0.0
    prompt_prior: Literal["none", "shape"] = "none"
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        warn_about_unknown_keys(self, kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """The parts fit: one image size, one grid, one embedding width, and every fusion has what it fuses."""
        vision, prompts, decoder = self.vision_config, self.prompt_encoder_config, self.mask_decoder_config
        if prompts.image_size != vision.image_size or prompts.patch_size != vision.patch_stride:
            raise ValueError(
                f"prompt_encoder_config has image_size={prompts.image_size}, patch_size={prompts.patch_size}; it must "
                f"repeat image_size={vision.image_size} and patch_stride={vision.patch_stride} of vision_config"
            )
        widths = {vision.output_channels, prompts.hidden_size, decoder.hidden_size}
        if len(widths) > 1:
            raise ValueError(
                f"vision_config.output_channels={vision.output_channels}, prompt_encoder_config.hidden_size="
                f"{prompts.hidden_size} and mask_decoder_config.hidden_size={decoder.hidden_size} must be equal"
            )
        if (self.cnn_branch == "none") != (self.fusion == "none"):
            raise ValueError(
                f"cnn_branch={self.cnn_branch!r} with fusion={self.fusion!r}: both or neither must be 'none'"
            )
        stages = len(self.cnn_config.depths)
        outside = [stage for stage in self.cnn_config.feature_stages if int(stage.removeprefix("stage")) > stages]
        if self.cnn_branch == "resnet50" and outside:
            raise ValueError(f"feature_stages {outside} do not exist in {stages} stages of cnn_branch='resnet50'")
        if self.cnn_branch == "samus" and vision.patch_stride.bit_count() != 1:
            raise ValueError(
                f"patch_stride={vision.patch_stride} must be a power of two with cnn_branch='samus', whose CNN halves "
                "the image until it is the token grid"
            )

    def validate_lambdas(self):
        """Weights of the loss terms are not negative."""
        check_at_least(self, 0, "lambda_c", "lambda_v", "lambda_a", "lambda_iou")

    def validate_parts(self):
        """Every sub-config is valid on its own: a field may have been changed since it was built."""
        for name in self.sub_configs_defaults:
            getattr(self, name).validate()

    @property
    def custom_pipelines(self) -> PipelineTasks:
        """The pipeline whose code a repository carries; AttributeError where it carries none."""
        if "custom_pipelines" not in self.__dict__:
            raise AttributeError("custom_pipelines")
        return self.__dict__["custom_pipelines"]

    @custom_pipelines.setter
    def custom_pipelines(self, tasks: dict) -> None:
        self.__dict__["custom_pipelines"] = PipelineTasks(tasks)

    @classmethod
    def vit_b(cls, **kwargs) -> "CCSamConfig":
        """CC-SAM as in the paper: ViT-B, frozen ResNet-50, variational attention fusion. Same as `CCSamConfig()`."""
        return cls(**kwargs)

    @classmethod
    def samus(cls, **kwargs) -> "CCSamConfig":
        """SAMUS, the first row of Table 1; its released checkpoint loads into it (`ccsam-hf convert samus`)."""
        defaults = {"cnn_branch": "samus", "fusion": "cross_branch", "train_mask_decoder": False}
        return cls(**{**defaults, **kwargs})

    @classmethod
    def sam(cls, **kwargs) -> "CCSamConfig":
        """Plain SAM ViT-B at 1024x1024, for comparison: no CNN, no fusion, no adapters, patches side by side."""
        vision = {"image_size": 1024, "patch_stride": 16, "feature_adapters": False}
        prompts = {"image_size": 1024, "patch_size": 16}
        defaults = {"vision_config": vision, "prompt_encoder_config": prompts, "cnn_branch": "none", "fusion": "none"}
        return cls(**{**defaults, **kwargs})

    @classmethod
    def tiny(cls, **kwargs) -> "CCSamConfig":
        """Every block of CC-SAM at a reduced width and depth: the bundled checkpoint, and what tests run on."""
        defaults = {
            "initializer_range": 0.1,  # about one over the root of the widths below, as it trains from scratch
            "vision_config": {
                "hidden_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 1,
                "mlp_ratio": 3.0,
                "window_size": 8,
                "global_attn_indexes": (2,),
                "output_channels": 64,
                "adapter_size": 16,
            },
            "cnn_config": {
                "embedding_size": 32,
                "hidden_sizes": (32, 64, 96, 128),
                "depths": (1, 2, 2, 1),
                "layer_type": "basic",
                "feature_stages": ("stage2", "stage3", "stage4"),
                "output_channels": 64,
                "dropout": 0.0,
            },
            "vaf_config": {"latent_dim": 96, "head_hidden_size": 48, "dropout": 0.1},
            "prompt_encoder_config": {"hidden_size": 64},
            "mask_decoder_config": {
                "hidden_size": 64,
                "mlp_dim": 128,
                "num_attention_heads": 4,
                "iou_head_hidden_dim": 64,
            },
        }
        return cls(**{**defaults, **kwargs})

    @classmethod
    def lite(cls, **kwargs) -> "CCSamConfig":
        """4.6 M parameters with a frozen EfficientNet-Lite0 as CNN; masks start from the prompt's shape."""
        width = 96
        defaults = {
            "initializer_range": 0.1,  # about one over the root of the widths below, as it trains from scratch
            "vision_config": {
                "hidden_size": width,
                "num_hidden_layers": 4,
                "num_attention_heads": 3,
                "mlp_ratio": 3.0,
                "window_size": 8,
                "global_attn_indexes": (3,),
                "output_channels": width,
                "adapter_size": 24,
            },
            "cnn_branch": "tf_efficientnet_lite0",
            "cnn_config": {
                "feature_stages": ("stage2", "stage3", "stage4", "stage5"),
                "output_channels": width,
                "dropout": 0.0,
            },
            "vaf_config": {"latent_dim": 144, "head_hidden_size": 72, "dropout": 0.1},
            "prompt_encoder_config": {"hidden_size": width},
            "mask_decoder_config": {
                "hidden_size": width,
                "mlp_dim": 288,
                "num_attention_heads": 4,
                "iou_head_hidden_dim": width,
            },
            "lambda_iou": 0.5,
            "prompt_prior": "shape",
        }
        return cls(**{**defaults, **kwargs})


CCSamConfig.register_for_auto_class()

__all__ = [
    "CCSamCNNConfig",
    "CCSamConfig",
    "CCSamMaskDecoderConfig",
    "CCSamPromptEncoderConfig",
    "CCSamVAFConfig",
    "CCSamVisionConfig",
]

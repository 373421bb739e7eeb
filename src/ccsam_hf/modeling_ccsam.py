"""CCSamModel: pixel_values and prompts -> mask logits; branches, fusion, SAM's prompt encoder, SAM's mask decoder.

Source: Gowda and Clifton, "CC-SAM", ECCV 2024 (arXiv 2408.00181), Figure 2.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, SamConfig, SamVisionConfig
from transformers import initialization as init
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPositionalEmbedding, SamPromptEncoder
from transformers.utils import ModelOutput

from .adapters import ZeroLinear
from .cnn_branch import build_cnn_branch
from .configuration_ccsam import CCSamConfig
from .encoded import EncodedImage, fingerprint
from .fusion import FusionOutput, LogVarianceLinear, VariationalAttentionFusion
from .loading import LOAD_LOCK, ModelSource
from .losses import binary_cross_entropy, dice_loss, iou_error, kl_to_standard_normal
from .prompt_prior import PromptPrior
from .vit_branch import ViTBranch, WindowAttention


@dataclass
class CCSamOutput(ModelOutput):
    """Output of [`CCSamModel`]. B images, P prompts (objects) an image, M masks a prompt, h w the token grid.

    Args:
        loss: scalar, Eq. (8); returned with `labels`.
        loss_dict: every term of `loss` before its weight: "bce", "dice", and, where they exist, "kl_c", "kl_v", "kl_a"
            (Eq. 9) and "iou".
        pred_masks: (B, P, M, 4h, 4w) logits; above zero is inside.
        iou_scores: (B, P, M), the model's own estimate of each mask's IoU.
        fusion_weights: (B, 2, h, w), share of the ViT (0) and of the CNN (1); they sum to one.
        mask_probability: (B, P, M, 4h, 4w) in [0, 1], mean over `num_samples` draws of the fusion posterior.
        mask_uncertainty: (B, P, M, 4h, 4w) in [0, 0.5], standard deviation of the probability over those draws.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    pred_masks: Tensor | None = None
    iou_scores: Tensor | None = None
    fusion_weights: Tensor | None = None
    mask_probability: Tensor | None = None
    mask_uncertainty: Tensor | None = None


class CCSamPreTrainedModel(PreTrainedModel):
    """Start values and loading behaviour.

    Parameters that a checkpoint lacks start as follows: the second projection of feature adapters and, with the
    residual fusion, W_h at zero; log-variances at -4; positional embeddings and relative positions at zero; the ResNet
    as transformers starts it; the Gaussian matrix of the prompt encoder with unit variance, as in the original SAM;
    all else normal with `initializer_range`, biases zero, norms one.
    """

    config: CCSamConfig
    base_model_prefix = "ccsam"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CCSamBlock", "ResNetConvLayer", "SamTwoWayAttentionBlock"]
    _keep_in_fp32_modules_strict = ["shared_embedding"]  # in bfloat16 the sine of a position is that of another pixel

    def push_to_hub(self, repo_id: str, *, private: bool | None = True, **kwargs) -> str:
        """As in transformers, but a new repository is private unless `private=False`; the code goes along.

        `ccsam-hf push` uploads card, licence, processor, grounder and example as well.
        """
        return super().push_to_hub(repo_id, private=private, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
            return
        if isinstance(module, LogVarianceLinear):
            init.zeros_(module.weight)
            init.constant_(module.bias, module.START)
            return
        super()._init_weights(module)
        if isinstance(module, SamPositionalEmbedding):
            init.normal_(module.positional_embedding, std=1.0)
        elif isinstance(module, WindowAttention):
            init.zeros_(module.rel_pos_h)
            init.zeros_(module.rel_pos_w)
        elif isinstance(module, ViTBranch):
            init.zeros_(module.pos_embed)


class CCSamModel(CCSamPreTrainedModel):
    """CC-SAM: promptable ultrasound segmentation.

    A new or loaded model has the paper's parts frozen, see [`~CCSamModel.freeze`].

    Args:
        config: `CCSamConfig`.
    """

    revision: str | None = None  # commit of the Hub repository that it was loaded from

    def __init__(self, config: CCSamConfig):
        super().__init__(config)
        for part in (config.vision_config, config.mask_decoder_config):
            if part._attn_implementation is None:  # transformers' own choice is made for the whole only
                part._attn_implementation = config._attn_implementation
        self.cnn_branch = build_cnn_branch(config)
        self.vit_branch = ViTBranch(config.vision_config, cross_branch=config.fusion == "cross_branch")
        self.fusion = None
        if config.fusion == "vaf":
            vit_channels, cnn_channels = config.vision_config.output_channels, self.cnn_branch.output_channels
            self.fusion = VariationalAttentionFusion(config.vaf_config, vit_channels, cnn_channels)
        self.prompt_encoder = SamPromptEncoder(
            SamConfig(
                prompt_encoder_config=config.prompt_encoder_config,
                vision_config=SamVisionConfig(num_pos_feats=config.prompt_encoder_config.hidden_size // 2),
            )
        )
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.post_init()
        self.freeze()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in transformers, then [`~CCSamModel.freeze`]: loading alone would let every parameter learn.

        Where it came from is kept as `model.source`, for what lies beside the weights and comes later.
        """
        with LOAD_LOCK:
            loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with `output_loading_info=True`
        if model.name_or_path:
            model.source = ModelSource.of(model.name_or_path, **kwargs)
        model.freeze()
        return loaded

    def freeze(self, trainable: Literal["declared", "all", "none"] = "declared") -> "CCSamModel":
        """Choose which parameters learn; call it before the optimizer is built.

        Args:
            trainable:
                "declared": the paper's choice (Section 3.1 and 4.2). ViT branch: feature adapters, position adapter,
                relative positions of the global blocks, SAMUS's cross-branch attention where it is used. CNN branch:
                the adapter behind the frozen ResNet, or all of SAMUS's CNN. The fusion. The mask decoder if
                `config.train_mask_decoder`. SAM's ViT, SAM's prompt encoder and the ResNet stay frozen, and the
                ResNet's BatchNorm stays in evaluation mode.
                "all": every parameter but the Gaussian matrix of the positional encoding, which is a constant in SAM.
                "none": nothing.

        Returns:
            The model itself.

        Raises:
            ValueError: another word.
        """
        if trainable not in ("declared", "all", "none"):
            raise ValueError(f"trainable={trainable!r} is not one of 'declared', 'all', 'none'")
        self.requires_grad_(trainable == "all")
        self.prompt_encoder.shared_embedding.requires_grad_(False)
        if trainable == "declared":
            for part in self._declared_parts():
                part.requires_grad_(True)
        self.train(self.training)  # a frozen ResNet goes to evaluation mode, a released one follows the model
        return self

    def _declared_parts(self) -> list[nn.Module | nn.Parameter]:
        parts = self.vit_branch.learnt_parts()
        if self.cnn_branch is not None:
            parts += self.cnn_branch.learnt_parts()
        if self.fusion is not None:
            parts.append(self.fusion)
        if self.config.train_mask_decoder:
            parts.append(self.mask_decoder)
        return parts

    def encode(self, pixel_values: Tensor) -> EncodedImage:
        """Encode images for several calls of `forward`, each of which then decodes its prompts only.

        Args:
            pixel_values: (B, 3, H, W), values in [0, 1].
        """
        fused, vit_map = self.fuse(pixel_values)
        return EncodedImage(fused, vit_map, None if self.training else fingerprint(self))

    def fuse(self, pixel_values: Tensor) -> tuple[FusionOutput, Tensor]:
        """Run branches and fusion on `(B, 3, H, W)`: the fusion's output, and the ViT map (B, C, h, w)."""
        cnn_map = self.cnn_branch(pixel_values) if self.cnn_branch is not None else None
        vit_map = self.vit_branch(pixel_values, cnn_map)
        fused = self.fusion(vit_map, cnn_map) if self.fusion is not None else FusionOutput(vit_map)
        return fused, vit_map

    def get_image_embeddings(self, pixel_values: Tensor) -> Tensor:
        """Encode once, decode many prompts: `(B, 3, H, W)` in [0, 1] to `(B, C, h, w)`. Gradients are the caller's."""
        self._check_pixel_values(pixel_values)
        return self.fuse(pixel_values)[0].feature_map

    def image_positions(self) -> Tensor:
        """SAM's positional encoding of the token grid, `(1, C, h, w)`."""
        embedding = self.prompt_encoder.shared_embedding
        size = self.config.vision_config.grid_size
        centres = (torch.arange(size, device=embedding.positional_embedding.device) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return embedding(torch.stack([x, y], dim=-1)[None]).permute(0, 3, 1, 2)

    def decode(
        self,
        image_embeddings: Tensor,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        multimask_output: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """SAM's prompt encoder and mask decoder on embeddings `(B, C, h, w)`; prompts as in `forward`.

        Returns:
            pred_masks (B, P, M, 4h, 4w) logits and iou_scores (B, P, M).
        """
        dtype = image_embeddings.dtype
        prior = None
        if self.config.prompt_prior == "shape":
            vision = self.config.vision_config
            size, input_size = 4 * vision.grid_size, vision.image_size
            prior = PromptPrior(input_boxes, input_points, input_labels, input_masks, size, input_size)
            input_masks = prior.logits
        if input_masks is not None:
            input_masks = input_masks.to(self.prompt_encoder.no_mask_embed.weight.dtype)
        with torch.autocast(image_embeddings.device.type, enabled=False):  # positions stay in float32
            sparse, dense = self.prompt_encoder(
                input_points=input_points,
                input_labels=input_labels,
                input_boxes=input_boxes,
                input_masks=None if input_masks is None else input_masks.flatten(0, 1)[:, None],
            )
            image_positions = self.image_positions().to(dtype)
        batch_size = len(image_embeddings)
        if sparse is not None:
            sparse = sparse.to(dtype)
        if input_masks is None:
            dense = dense[:1].expand(batch_size, -1, -1, -1)
        else:  # each object has a dense prompt of its own: objects become images of one object
            num_prompts = input_masks.shape[1]
            image_embeddings = image_embeddings.repeat_interleave(num_prompts, dim=0)
            sparse = sparse.flatten(0, 1)[:, None] if sparse is not None else None
        pred_masks, iou_scores = self.mask_decoder(
            image_embeddings=image_embeddings,
            image_positional_embeddings=image_positions.expand(len(image_embeddings), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense.to(dtype),
            multimask_output=multimask_output,
        )
        pred_masks = pred_masks.reshape(batch_size, -1, *pred_masks.shape[2:])
        iou_scores = iou_scores.reshape(batch_size, -1, iou_scores.shape[-1])
        return (pred_masks if prior is None else prior.add_to(pred_masks)), iou_scores

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        labels: Tensor | None = None,
        num_samples: int | None = None,
        multimask_output: bool = False,
        return_dict: bool | None = None,
        encoded: EncodedImage | None = None,
    ) -> CCSamOutput:
        """Segment the prompted objects.

        B images, P prompts (objects) an image, N points a prompt, H W the model input (256x256), h w the token grid
        (32x32). Coordinates are (x, y) pixels of the model input, as [`CCSamProcessor`] makes them.

        Args:
            pixel_values: (B, 3, H, W), values in [0, 1].
            input_points: (B, P, N, 2).
            input_labels: (B, P, N): 1 inside the object, 0 outside, -1 no point (SAM's padding point), -10 padding.
            input_boxes: (B, P, 4), x0 y0 x1 y1.
            input_masks: (B, P, 4h, 4w), logits of an earlier prediction.
            image_embeddings: (B, C, h, w) of `get_image_embeddings`, in place of `pixel_values`.
            labels: (B, P, H', W') in [0, 1], any size; `loss` is computed at that size.
            num_samples: draw the fusion's posterior this often and decode each draw; the encoders run once.
            multimask_output: SAM's three masks a prompt instead of one.
            return_dict: False gives a plain tuple of what is not None.
            encoded: what `encode` of this model returned, in place of `pixel_values`; unlike embeddings it can be
                drawn from.

        Returns:
            [`CCSamOutput`]. In evaluation mode `pred_masks` uses the means, so it is the same every time.

        Raises:
            ValueError: shapes that do not fit, no image, one that another model encoded, or arguments that exclude
                each other.
        """
        self._check_one_image(pixel_values, image_embeddings, encoded)
        if encoded is not None:
            encoded.check_model(self)
            image_embeddings = encoded.fused.feature_map
        self._check_inputs(pixel_values, image_embeddings, input_points, input_labels, input_boxes, input_masks)
        self._check_options(pixel_values is not None or encoded is not None, labels, num_samples, multimask_output)
        prompts = {
            "input_points": input_points,
            "input_labels": input_labels,
            "input_boxes": input_boxes,
            "input_masks": input_masks,
            "multimask_output": multimask_output,
        }
        if encoded is not None:
            fused, vit_map = encoded.fused, encoded.vit_map
        elif image_embeddings is None:
            fused, vit_map = self.fuse(pixel_values)
        else:
            fused, vit_map = FusionOutput(image_embeddings), None
        pred_masks, iou_scores = self.decode(fused.feature_map, **prompts)
        loss = loss_dict = mask_probability = mask_uncertainty = None
        if labels is not None:
            loss, loss_dict = self.compute_loss(fused, pred_masks[:, :, 0], iou_scores[:, :, 0], labels)
        if num_samples is not None:
            mask_probability, mask_uncertainty = self.sample_masks(fused, vit_map, num_samples, prompts)
        output = CCSamOutput(
            loss=loss,
            loss_dict=loss_dict,
            pred_masks=pred_masks,
            iou_scores=iou_scores,
            fusion_weights=fused.weights,
            mask_probability=mask_probability,
            mask_uncertainty=mask_uncertainty,
        )
        return output if return_dict in (None, True) else output.to_tuple()

    def sample_masks(
        self, fused: FusionOutput, vit_map: Tensor, num_samples: int, prompts: dict
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the mask probability over draws of z and of the attention logits.

        Source: CC-SAM paper, Eq. (4) and (6): the fusion's own distributions, which inference otherwise replaces by
        their means. Chosen here: the standard deviation over draws as the uncertainty of a pixel.

        Returns:
            Two tensors (B, P, M, 4h, 4w), in [0, 1] and in [0, 0.5].
        """
        draws = []
        for _ in range(num_samples):
            feature_map = self.fusion.combine(fused.vit, fused.cnn, vit_map, sample=True).feature_map
            draws.append(self.decode(feature_map, **prompts)[0].float().sigmoid())
        mask_probs = torch.stack(draws)
        return mask_probs.mean(dim=0), mask_probs.std(dim=0, correction=0)

    def compute_loss(
        self, fused: FusionOutput, mask_logits: Tensor, iou_scores: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. (8): the weighted sum, and every term by name before its weight.

        Args:
            fused: output of the fusion.
            mask_logits: (B, P, h', w').
            iou_scores: (B, P).
            labels: (B, P, H', W') in [0, 1].

        Raises:
            ValueError: `labels` is not 4-dimensional or its B and P are not those of the prediction.
        """
        if labels.ndim != 4 or labels.shape[:2] != mask_logits.shape[:2]:
            raise ValueError(
                f"labels has shape {tuple(labels.shape)}; expected (batch_size, num_prompts, height, width) "
                f"with the first two {tuple(mask_logits.shape[:2])}: one mask for each prompt"
            )
        mask_logits = F.interpolate(mask_logits.float(), labels.shape[-2:], mode="bilinear")
        terms = {"bce": binary_cross_entropy(mask_logits, labels), "dice": dice_loss(mask_logits, labels)}
        weights = {"bce": 1.0, "dice": 1.0}
        if fused.vit is not None:
            terms["kl_c"] = kl_to_standard_normal(fused.cnn.mean, fused.cnn.log_var)
            terms["kl_v"] = kl_to_standard_normal(fused.vit.mean, fused.vit.log_var)
            weights |= {"kl_c": self.config.lambda_c, "kl_v": self.config.lambda_v}
            if fused.vit_logits.log_var is not None:  # the deterministic attention of Eq. (5) has no distribution
                logits = (fused.vit_logits, fused.cnn_logits)
                terms["kl_a"] = sum(kl_to_standard_normal(each.mean, each.log_var) for each in logits) / 2
                weights["kl_a"] = self.config.lambda_a
        if self.config.lambda_iou > 0:
            terms["iou"] = iou_error(iou_scores, mask_logits, labels)
            weights["iou"] = self.config.lambda_iou
        return sum(weights[name] * term for name, term in terms.items()), terms

    def _check_pixel_values(self, pixel_values: Tensor) -> None:
        vision = self.config.vision_config
        expected = (vision.num_channels, vision.image_size, vision.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch_size, {expected[0]}, "
                f"{expected[1]}, {expected[2]}): CCSamProcessor resizes an image to it"
            )

    def _check_one_image(self, pixel_values, image_embeddings, encoded) -> None:
        images = {"pixel_values": pixel_values, "image_embeddings": image_embeddings, "encoded": encoded}
        given = [name for name, value in images.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'none'} of {', '.join(images)} given; exactly one is needed")

    def _check_inputs(
        self,
        pixel_values: Tensor | None,
        image_embeddings: Tensor | None,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        input_boxes: Tensor | None,
        input_masks: Tensor | None,
    ) -> None:
        if pixel_values is not None:
            self._check_pixel_values(pixel_values)
        if (input_points is None) != (input_labels is None):
            raise ValueError("input_points and input_labels belong together: give both or neither")
        grid = self.config.vision_config.grid_size
        if image_embeddings is not None:
            expected = (self.config.vision_config.output_channels, grid, grid)
            if image_embeddings.ndim != 4 or tuple(image_embeddings.shape[1:]) != expected:
                raise ValueError(
                    f"image_embeddings has shape {tuple(image_embeddings.shape)}; expected (batch_size, "
                    f"{expected[0]}, {grid}, {grid}), as get_image_embeddings returns it"
                )
        batch_size = len(pixel_values if pixel_values is not None else image_embeddings)
        shapes = {
            "input_points": (input_points, 4, (2,), "(batch_size, num_prompts, num_points, 2)"),
            "input_labels": (input_labels, 3, (), "(batch_size, num_prompts, num_points)"),
            "input_boxes": (input_boxes, 3, (4,), "(batch_size, num_prompts, 4): x0 y0 x1 y1"),
            "input_masks": (
                input_masks,
                4,
                (4 * grid, 4 * grid),
                f"(batch_size, num_prompts, {4 * grid}, {4 * grid})",
            ),
        }
        given = {name: check for name, check in shapes.items() if check[0] is not None}
        for name, (value, ndim, tail, expected) in given.items():
            if value.ndim != ndim or tuple(value.shape[ndim - len(tail) :]) != tail or len(value) != batch_size:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; expected {expected} with batch_size {batch_size}"
                )
            if value.shape[1] == 0:
                raise ValueError(f"{name} has shape {tuple(value.shape)}: no prompt in it; leave it out or add one")
        if len({value.shape[1] for value, *_ in given.values()}) > 1:
            counts = {name: value.shape[1] for name, (value, *_) in given.items()}
            raise ValueError(f"num_prompts differs between the prompts: {counts}")
        if input_points is not None and input_points.shape[:3] != input_labels.shape:
            raise ValueError(
                f"input_labels has shape {tuple(input_labels.shape)}; expected one label for each point of "
                f"input_points: {tuple(input_points.shape[:3])}"
            )

    def _check_options(
        self, has_posterior: bool, labels: Tensor | None, num_samples: int | None, multimask_output: bool
    ) -> None:
        if labels is not None and multimask_output:
            raise ValueError("the loss is that of one mask a prompt: give labels with multimask_output=False")
        if num_samples is None:
            return
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}; a standard deviation needs at least 2 draws")
        if self.fusion is None:
            raise ValueError(f"num_samples draws from the variational fusion; fusion={self.config.fusion!r} has none")
        if not has_posterior:
            raise ValueError(
                "num_samples needs pixel_values or encoded: image_embeddings carry no distribution to draw from"
            )


CCSamModel.register_for_auto_class("AutoModel")

__all__ = ["CCSamModel", "CCSamOutput", "CCSamPreTrainedModel"]

"""SAM of reduced width and depth, built by transformers and by segment_anything, for tests of names and parity."""

from functools import partial

from torch import nn
from transformers import SamConfig, SamModel

from named_weights import fill_like

SMALL_VISION = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "global_attn_indexes": (1,),
    "output_channels": 64,
}
SMALL_DECODER = {"hidden_size": 64, "num_attention_heads": 4, "mlp_dim": 128, "iou_head_hidden_dim": 64}
DECODER_EPS = 1e-5  # the original decoder's; transformers' default differs


def small_transformers(image_size: int, patch_size: int, window_size: int) -> SamModel:
    """transformers' SamModel with named weights."""
    vision = {
        **SMALL_VISION,
        "image_size": image_size,
        "patch_size": patch_size,
        "window_size": window_size,
        "mlp_dim": 192,
        "num_pos_feats": 32,
    }
    sam = SamModel(
        SamConfig(
            vision_config=vision,
            prompt_encoder_config={"image_size": image_size, "patch_size": patch_size, "hidden_size": 64},
            mask_decoder_config={**SMALL_DECODER, "layer_norm_eps": DECODER_EPS},
        )
    ).eval()
    weights = fill_like(sam.state_dict())
    shared = "shared_image_embedding.positional_embedding"
    weights["prompt_encoder.shared_embedding.positional_embedding"] = weights[shared]
    sam.load_state_dict(weights)
    return sam


def small_segment_anything(image_size: int, patch_size: int, window_size: int) -> nn.Module:
    """segment_anything's Sam with named weights."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = image_size // patch_size
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=48,
        depth=3,
        num_heads=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window_size,
        global_attn_indexes=(1,),
        out_chans=64,
    )
    prompt_encoder = PromptEncoder(64, (grid, grid), (image_size, image_size), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, num_heads=4, mlp_dim=128)
    decoder = MaskDecoder(transformer_dim=64, transformer=transformer, iou_head_hidden_dim=64)
    sam = Sam(encoder, prompt_encoder, decoder).eval()
    sam.load_state_dict(fill_like(sam.state_dict()))
    return sam

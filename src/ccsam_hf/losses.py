"""The loss of CC-SAM: binary cross-entropy, Dice and three KL terms, as pure functions.

Source: CC-SAM paper, Section 3.4, Eq. (8) and (9).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL divergence from N(mean, exp(log_var)) to N(0, I), in nats.

    Source: CC-SAM paper, Eq. (9). Open there, chosen here: the mean over images, tokens and latent dimensions, so that
    the weight of the term does not depend on their number.

    Args:
        mean, log_var: tensors of one shape; `log_var` is the natural log of the variance.

    Returns:
        Scalar in float32.

    Raises:
        ValueError: the two shapes differ.
    """
    if mean.shape != log_var.shape:
        raise ValueError(f"mean has shape {tuple(mean.shape)} and log_var {tuple(log_var.shape)}; they must be equal")
    mean, log_var = mean.float(), log_var.float()
    return -0.5 * (1 + log_var - mean.square() - log_var.exp()).mean()


def binary_cross_entropy(mask_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over all pixels; `labels` in [0, 1], both `(B, P, H, W)`."""
    return F.binary_cross_entropy_with_logits(mask_logits.float(), labels.float())


def dice_loss(mask_logits: Tensor, labels: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice coefficient of each mask, averaged over masks.

    Args:
        mask_logits: (B, P, H, W).
        labels: (B, P, H, W) in [0, 1].
        smooth: added above and below, in pixels: an empty label with an empty prediction costs nothing.

    Returns:
        Scalar in [0, 1].
    """
    mask_probs, labels = mask_logits.float().sigmoid().flatten(2), labels.float().flatten(2)
    overlap = (mask_probs * labels).sum(-1)
    return (1 - (2 * overlap + smooth) / (mask_probs.sum(-1) + labels.sum(-1) + smooth)).mean()


def iou_error(iou_scores: Tensor, mask_logits: Tensor, labels: Tensor) -> Tensor:
    """Squared error of the predicted IoU against the IoU of the thresholded prediction.

    Source: Kirillov et al., "Segment Anything", Appendix A ("Losses"): it trains the IoU head. Not in Eq. (8).

    Args:
        iou_scores: (B, P).
        mask_logits, labels: (B, P, H, W).
    """
    with torch.no_grad():
        predicted, truth = mask_logits.flatten(2) > 0, labels.flatten(2) > 0.5
        union = (predicted | truth).sum(-1)
        iou = torch.where(union > 0, (predicted & truth).sum(-1) / union.clamp(min=1), 1.0)
    return F.mse_loss(iou_scores.float(), iou)

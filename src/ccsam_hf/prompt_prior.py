"""What a mask starts from: a box's ellipse or the previous mask, as logits (`PromptPrior`).

A box already says where the object is, and the ellipse inscribed in it is the best guess of one who does not see the
image. SAM draws the mask from nothing and has to learn this guess; on organs that training never showed, a small model
then draws what it knows instead of what was asked. With `CCSamConfig.prompt_prior = "shape"` the guess goes into SAM's
dense mask prompt and is added to the decoder's logits, so that the decoder learns what to change. Not in the paper.
"""

import torch
from torch import Tensor

STEEPNESS = 8.0  # logits a unit of the normalised radius; 0 on the ellipse itself
BOUND = 6.0  # of the logits of a prior: a probability of 0.0025 to 0.9975
REACH = 0.05  # share of the box's width and height by which a mask may leave it, at each side
OUTSIDE = -12.0  # logits where a box's mask may not be


def pixel_centres(size: int, input_size: int, like: Tensor) -> Tensor:
    """(size,) positions of the centres of a mask's pixels in the model's input."""
    return (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) * (input_size / size)


def ellipse_logits(input_boxes: Tensor, size: int, input_size: int) -> Tensor:
    """Logits of the ellipses inscribed in boxes: zero on the ellipse, `BOUND` well inside it.

    Args:
        input_boxes: (..., 4), x0 y0 x1 y1 in pixels of the model's input.
        size: rows and columns of the logits.
        input_size: rows and columns of the model's input.

    Returns:
        (..., size, size) float32 in [-BOUND, BOUND].
    """
    x0, y0, x1, y1 = input_boxes.float()[..., None, None].unbind(-3)  # each (..., 1, 1)
    centres = pixel_centres(size, input_size, input_boxes)
    across = (centres - (x0 + x1) / 2) / ((x1 - x0) / 2).clamp(min=0.5)  # (..., 1, size)
    down = (centres[:, None] - (y0 + y1) / 2) / ((y1 - y0) / 2).clamp(min=0.5)  # (..., size, 1)
    return (STEEPNESS * (1 - torch.hypot(across, down))).clamp(-BOUND, BOUND)


def reach_of_boxes(
    input_boxes: Tensor, input_points: Tensor | None, input_labels: Tensor | None, size: int, input_size: int
) -> Tensor:
    """Where the mask of a box may be: in the box, enlarged by `REACH` at each side and to all positive points.

    Args:
        input_boxes: (B, P, 4).
        input_points: (B, P, N, 2); None where there is none.
        input_labels: (B, P, N), 1 for a positive point.
        size, input_size: as in `ellipse_logits`.

    Returns:
        (B, P, size, size) bool.
    """
    first, last = input_boxes.float().unflatten(-1, (2, 2)).unbind(-2)  # (B, P, 2) each
    if input_points is not None:
        positive = (input_labels == 1)[..., None]
        points = input_points.float()
        first = torch.minimum(first, points.masked_fill(~positive, torch.inf).amin(-2))
        last = torch.maximum(last, points.masked_fill(~positive, -torch.inf).amax(-2))
    margin = REACH * (last - first)
    half_pixel = input_size / size / 2
    first, last = (first - margin - half_pixel)[..., None, None], (last + margin + half_pixel)[..., None, None]
    centres = pixel_centres(size, input_size, input_boxes)
    inside_x = (centres > first[..., 0, :, :]) & (centres < last[..., 0, :, :])
    inside_y = (centres[:, None] > first[..., 1, :, :]) & (centres[:, None] < last[..., 1, :, :])
    return inside_x & inside_y


class PromptPrior:
    """The prior of each prompt, and how it enters the logits.

    Args:
        input_boxes, input_points, input_labels, input_masks: as `CCSamModel.forward` takes them.
        size: rows and columns of the mask logits.
        input_size: rows and columns of the model's input.
    """

    def __init__(
        self,
        input_boxes: Tensor | None,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        input_masks: Tensor | None,
        size: int,
        input_size: int,
    ):
        self.logits = self.reach = None
        if input_masks is not None:
            self.logits = input_masks.float().clamp(-BOUND, BOUND)
        elif input_boxes is not None:
            self.logits = ellipse_logits(input_boxes, size, input_size)
        if input_boxes is not None:
            self.reach = reach_of_boxes(input_boxes, input_points, input_labels, size, input_size)

    def add_to(self, pred_masks: Tensor) -> Tensor:
        """Mask logits (B, P, M, h, w) that the decoder drew -> those of the model."""
        if self.logits is not None:
            pred_masks = pred_masks + self.logits[:, :, None].to(pred_masks.dtype)
        if self.reach is not None:
            pred_masks = pred_masks.masked_fill(~self.reach[:, :, None], OUTSIDE)
        return pred_masks


__all__ = ["PromptPrior", "ellipse_logits", "reach_of_boxes"]

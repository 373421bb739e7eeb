"""A batch -> loss by every kind of prompt: encode once, decode by box, by click and by what a text found.

Source of the correction clicks: Kirillov et al., "Segment Anything" (arXiv 2304.02643), Section 3 and Appendix A,
where each further round adds a click drawn from what the last mask got wrong and gives the last logits back.
"""

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from ..grounding import TextGrounder
from ..modeling_ccsam import CCSamModel


class PromptedLoss(nn.Module):
    """Model and loss in one forward, as distributed training wants it.

    Args:
        model: encodes each image once.
        kinds: "point", "box", "both" or "text": each image is decoded by each.
        correction_clicks: rounds after the first decoding, each with one click more and the logits before it.
        grounder: finds the boxes of "text". Where it finds none, the box of the batch trains, and in evaluation mode
            the mask is empty: a miss.
    """

    def __init__(
        self, model: CCSamModel, kinds: list[str], correction_clicks: int = 0, grounder: TextGrounder | None = None
    ):
        super().__init__()
        self.model, self.kinds, self.correction_clicks = model, list(kinds), correction_clicks
        self.find = grounder  # a plain object: its weights are neither trained nor saved

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Loss, its terms and the masks.

        Args:
            batch: of `ccsam_hf.data.samples.Samples`, P = 1 object an image.

        Returns:
            The mean loss over kinds and rounds; "<kind>/<term>" and "<kind>/loss" of the first round of each; and
            mask logits (B, 256, 256) of the last round by kind.
        """
        fused, _ = self.model.fuse(batch["pixel_values"])
        total, terms, masks = 0.0, {}, {}
        for kind in self.kinds:
            prompt, is_missed = self.first_prompt(kind, batch)
            for round_ in range(self.correction_clicks + 1):
                pred_masks, iou_scores = self.model.decode(fused.feature_map, **prompt)
                loss, of_round = self.model.compute_loss(
                    fused, pred_masks[:, :, 0], iou_scores[:, :, 0], batch["labels"]
                )
                total = total + loss
                if round_ == 0:
                    terms |= {f"{kind}/{name}": term.detach() for name, term in of_round.items()}
                    terms[f"{kind}/loss"] = loss.detach()
                size = batch["labels"].shape[-2:]
                masks[kind] = F.interpolate(pred_masks[:, :, 0].detach().float(), size, mode="bilinear")[:, 0]
                if not self.training:
                    masks[kind] = masks[kind].masked_fill(is_missed[:, None, None], -torch.inf)
                if round_ < self.correction_clicks:
                    prompt = corrected(prompt, masks[kind], pred_masks[:, :, 0].detach(), batch["labels"])
        return total / (len(self.kinds) * (self.correction_clicks + 1)), terms, masks

    def first_prompt(self, kind: str, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """The arguments of `CCSamModel.decode` for a kind of prompt, and (B,) bool, whether a text was not found."""
        points = {name: batch[name] for name in ("input_points", "input_labels") if name in batch}
        boxes = {name: batch[name] for name in ("input_boxes",) if name in batch}
        is_missed = torch.zeros(len(batch["labels"]), dtype=torch.bool, device=batch["labels"].device)
        if kind == "text":
            found_boxes, is_found = self.find_boxes(batch)
            return {"input_boxes": found_boxes}, ~is_found
        return {"point": points, "box": boxes, "both": points | boxes}[kind], is_missed

    @torch.no_grad()
    def find_boxes(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """(B, 1, 4) boxes that the grounder finds for the targets' names, and (B,) bool, whether it found one."""
        boxes, is_found = batch["input_boxes"].clone(), []
        for i, target in enumerate(batch["target"]):
            (found,) = self.find(batch["pixel_values"][i].cpu(), target)
            is_found.append(len(found.boxes) > 0)
            if is_found[-1]:
                boxes[i, 0] = torch.as_tensor(found.boxes[0]).to(boxes)
        return boxes, torch.tensor(is_found, device=boxes.device)


def corrected(prompt: dict[str, Tensor], mask_logits: Tensor, low_logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The prompt with one click more, drawn uniformly from the wrong pixels, and with the logits as mask prompt.

    Where nothing is wrong the click carries the label -10, which has no effect.

    Args:
        prompt: arguments of `CCSamModel.decode`.
        mask_logits: (B, H, W).
        low_logits: (B, 1, 4h, 4w).
        labels: (B, 1, H, W).
    """
    truth = labels[:, 0] > 0.5
    wrong = (mask_logits > 0) != truth  # (B, H, W)
    draw = torch.rand(wrong.shape, device="cpu").to(wrong.device).masked_fill(~wrong, -1).flatten(1).argmax(1)
    width = wrong.shape[-1]
    point = torch.stack([draw % width, draw // width], dim=-1).to(labels.dtype)[:, None, None]  # (B, 1, 1, 2)
    label = truth.flatten(1).gather(1, draw[:, None]).long()
    label = label.masked_fill(~wrong.flatten(1).any(1, keepdim=True), -10)[:, None]  # (B, 1, 1)
    if "input_points" in prompt:
        point = torch.cat([prompt["input_points"], point.to(prompt["input_points"])], dim=2)
        label = torch.cat([prompt["input_labels"], label], dim=2)
    return prompt | {"input_points": point, "input_labels": label, "input_masks": low_logits}


class InteractiveLoss(PromptedLoss):
    """Loss of many objects an image, each asked for in its own way and then corrected, as SAM trains.

    In training a batch is one of `ccsam_hf.training.mixture.MixedSamples`: objects with a box or a click. After the
    first decoding come up to `correction_clicks` rounds, each with one click more in what is wrong and with the logits
    before it. In evaluation mode it is `PromptedLoss` without corrections.
    """

    def __init__(
        self, model: CCSamModel, kinds: list[str], correction_clicks: int = 0, grounder: TextGrounder | None = None
    ):
        super().__init__(model, kinds, 0, grounder)
        self.most_corrections = correction_clicks

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Loss, its terms and, in evaluation mode, the masks by kind of prompt."""
        if not self.training:
            return super().forward(batch)
        fused, _ = self.model.fuse(batch["pixel_values"])
        num_objects = batch["labels"].shape[1]
        labels = F.avg_pool2d(
            batch["labels"].flatten(0, 1)[:, None].float(), 2
        )  # (n, 1, 128, 128), soft at the border
        has_box = batch["input_labels"].flatten() < 0
        total, terms = 0.0, {}
        for kind, chosen in (("box", has_box), ("point", ~has_box)):
            picked = chosen.nonzero()[:, 0]
            if len(picked) == 0:
                continue
            embeddings = fused.feature_map[picked // num_objects]
            loss, of_kind = self.loss_of_kind(kind, picked, embeddings, fused, labels[picked], batch)
            total = total + loss * len(picked) / len(has_box)
            terms |= of_kind
        return total, terms, {}

    def loss_of_kind(
        self, kind: str, picked: Tensor, embeddings: Tensor, fused: Any, labels: Tensor, batch: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the rounds of objects that are asked for alike, and the terms of the first and last round."""
        if kind == "box":
            prompt = {"input_boxes": batch["input_boxes"].flatten(0, 1)[picked, None]}
        else:
            prompt = {
                "input_points": batch["input_points"].flatten(0, 1)[picked, None],
                "input_labels": batch["input_labels"].flatten(0, 1)[picked, None],
            }
        rounds = int(torch.randint(0, self.most_corrections + 1, ()))
        total, terms = 0.0, {}
        for round_ in range(rounds + 1):
            pred_masks, iou_scores = self.model.decode(embeddings, **prompt)
            mask_logits = pred_masks[:, :, 0]
            loss, of_round = self.model.compute_loss(fused, mask_logits, iou_scores[:, :, 0], labels)
            total = total + loss
            if round_ == 0:
                terms |= {f"{kind}/{name}": term.detach() for name, term in of_round.items()}
            if round_ < rounds:
                mask_logits = mask_logits.detach().float()
                prompt = add_click(prompt, mask_logits, labels, self.model.config.vision_config.image_size)
        return total / (rounds + 1), terms


def add_click(prompt: dict[str, Tensor], mask_logits: Tensor, labels: Tensor, input_size: int) -> dict[str, Tensor]:
    """The prompt with a click in what is wrong, at half of the objects in the middle of the largest wrong part.

    Args:
        prompt: arguments of `CCSamModel.decode` for n images of one object.
        mask_logits: (n, 1, h, w) of the last decoding; they become the mask prompt.
        labels: (n, 1, h, w) in [0, 1].
        input_size: rows and columns of the frame of the clicks.
    """
    truth = (labels[:, 0] > 0.5).cpu().numpy()
    wrong = ((mask_logits[:, 0] > 0).cpu().numpy()) != truth
    scale = input_size / wrong.shape[-1]
    in_middle = torch.rand(len(wrong)) < 0.5
    draws = torch.rand(len(wrong))
    points, clicked = torch.full((len(wrong), 1, 1, 2), -10.0), torch.full((len(wrong), 1, 1), -10)
    for i, area in enumerate(wrong):
        if not area.any():
            continue
        if in_middle[i]:
            parts, _ = ndimage.label(area)
            area = parts == np.bincount(parts.ravel())[1:].argmax() + 1
            place = int(ndimage.distance_transform_edt(np.pad(area, 1))[1:-1, 1:-1].argmax())
        else:
            pixels = np.flatnonzero(area)
            place = int(pixels[int(draws[i] * len(pixels))])
        row, column = divmod(place, area.shape[1])
        points[i, 0, 0] = torch.tensor([(column + 0.5) * scale, (row + 0.5) * scale])
        clicked[i, 0, 0] = int(truth[i, row, column])
    points, clicked = points.to(labels.device), clicked.to(labels.device)
    if "input_points" in prompt:
        points = torch.cat([prompt["input_points"], points], dim=2)
        clicked = torch.cat([prompt["input_labels"], clicked], dim=2)
    return prompt | {"input_points": points, "input_labels": clicked, "input_masks": mask_logits}

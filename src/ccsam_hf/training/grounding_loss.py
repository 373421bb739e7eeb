"""Grounding DINO's output + the boxes of phrases -> loss, for every decoder layer and for the encoder's proposals.

Source: Liu et al., "Grounding DINO" (arXiv 2303.05499), Section 3.4; transformers' matcher, focal and box terms are
reused. What transformers 5.24 puts around them is not, because it trains something else:

- its terms for the encoder's proposals read the query embeddings and detached boxes, so that the layers which choose
  and place the proposals (`enc_output`, `encoder_output_bbox_embed`) get no gradient. Here they read the proposals;
- it looks the tokens of an image up in the map of another image, so that images with texts of their own learn wrong
  words. Here each image has its own map;
- it cuts texts at the token ids of one vocabulary. Here the tokens of each phrase are given.

Chosen here: proposals are matched among all of them, not among the best as published; from scratch the best are
arbitrary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.loss.loss_grounding_dino import GroundingDinoHungarianMatcher, GroundingDinoImageLoss

CLASS_WEIGHT = 2.0  # of the focal term, as in transformers; the box terms have theirs in the config


class PhraseCriterion(GroundingDinoImageLoss):
    """transformers' criterion with the one-hot targets of each image read from that image's own token map."""

    def _get_target_classes_one_hot(self, outputs: dict, targets: list[dict], indices: list[tuple]) -> Tensor:
        one_hot = torch.zeros_like(outputs["logits"], dtype=torch.long)
        for image, (target, (queries, objects)) in enumerate(zip(targets, indices, strict=True)):
            token_map = outputs["label_maps"][image][target["class_labels"][objects]]
            one_hot[image, queries.to(one_hot.device)] = token_map.to(one_hot)
        return one_hot


def decoder_predictions(model, output, attention_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Logits (B, Q, max_text_len) and boxes (B, Q, 4) cx cy w h in [0, 1] of every decoder layer, in their order."""
    references = [output.init_reference_points, *output.intermediate_reference_points.unbind(1)]
    predictions = []
    for layer, hidden_states in enumerate(output.intermediate_hidden_states.unbind(1)):
        logits = model.class_embed[layer](
            vision_hidden_state=hidden_states,
            text_hidden_state=output.encoder_last_hidden_state_text,
            text_token_mask=attention_mask.bool(),
        )
        reference = torch.special.logit(references[layer], eps=1e-5)
        predictions.append((logits, (model.bbox_embed[layer](hidden_states) + reference).sigmoid()))
    return predictions


def grounding_loss(
    model, output, attention_mask: Tensor, labels: list[dict[str, Tensor]], matches_per_object: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Match boxes to objects and sum the weighted terms.

    B images, P phrases and N objects of an image, T tokens.

    Args:
        model: `GroundingDinoForObjectDetection`, two-stage.
        output: what it returned, without labels.
        attention_mask: (B, T), the one it was called with.
        labels: for each image "class_labels" (N,) int64, index of each object's phrase; "boxes" (N, 4), cx cy w h in
            [0, 1]; "phrase_maps" (P, T) bool, the tokens of each phrase, at least one each.
        matches_per_object: how many queries of each decoder layer, and how many proposals of the encoder, learn each
            object. 1 as published: then a model learns to suppress all boxes of an object but one, which takes long.
            More train a small model from scratch faster (compare Jia et al., "DETRs with Hybrid Matching", arXiv
            2207.13080), and leave the suppression to NMS, which `TextGrounder` applies anyway.

    Returns:
        The scalar loss, and every term by name before its weight: "loss_ce", "loss_bbox", "loss_giou" of the last
        decoder layer, with "_0", "_1" ... those of earlier layers, with "_enc" those of the proposals. All are divided
        by the number of objects in the batch and by `matches_per_object`.
    """
    config = model.config
    matcher = GroundingDinoHungarianMatcher(
        class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost
    )
    criterion = PhraseCriterion(matcher, config.focal_alpha, ["labels", "boxes"])
    *earlier, last = decoder_predictions(model, output, attention_mask)
    stages = {"": last} | {f"_{layer}": prediction for layer, prediction in enumerate(earlier)}
    stages["_enc"] = (output.enc_outputs_class, output.enc_outputs_coord_logits.sigmoid())

    weights = {
        "loss_ce": CLASS_WEIGHT,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
    length = last[0].shape[-1]
    phrase_maps = [F.pad(each["phrase_maps"], (0, length - each["phrase_maps"].shape[1])) for each in labels]
    is_token = F.pad(attention_mask.bool(), (0, length - attention_mask.shape[1]))[:, None]  # (B, 1, length)
    num_objects = max(sum(len(each["boxes"]) for each in labels), 1)
    loss, loss_dict = 0.0, {}
    repeated = [
        {
            "class_labels": each["class_labels"].repeat(matches_per_object),
            "boxes": each["boxes"].repeat(matches_per_object, 1),
        }
        for each in labels
    ]
    for suffix, (logits, boxes) in stages.items():
        predicted = {
            "logits": logits,
            "pred_boxes": boxes,
            "label_maps": phrase_maps,
            "text_mask": is_token.expand_as(logits),
        }
        indices = matcher(predicted, repeated)
        for kind in ("labels", "boxes"):
            terms = criterion.get_loss(kind, predicted, repeated, indices, num_objects * matches_per_object)
            loss_dict |= {name + suffix: term for name, term in terms.items()}
            loss = loss + sum(weights[name] * term for name, term in terms.items())
    return loss, loss_dict


__all__ = ["grounding_loss"]

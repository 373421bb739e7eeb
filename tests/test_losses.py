"""Losses: the KL against torch.distributions, BCE, Dice and IoU against pixels counted by hand."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ccsam_hf.losses import binary_cross_entropy, dice_loss, iou_error, kl_to_standard_normal

SURE = 100.0  # a logit whose sigmoid is one in float32


def logits_of(mask: torch.Tensor) -> torch.Tensor:
    """Logits of a prediction that is sure of every pixel of `mask`."""
    return (2 * mask.float() - 1) * SURE


def rectangle(rows: int, columns: int) -> torch.Tensor:
    """(1, 1, 8, 8) mask whose first `rows` x `columns` pixels are inside."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :rows, :columns] = 1
    return mask


# --- KL --------------------------------------------------------------------------------------------------------------


def test_kl_equals_torch_distributions():
    mean, log_var = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    posterior = Normal(mean, (0.5 * log_var).exp())
    expected = kl_divergence(posterior, Normal(torch.zeros(()), torch.ones(()))).mean()
    torch.testing.assert_close(kl_to_standard_normal(mean, log_var), expected)


@pytest.mark.parametrize(
    ("mean", "log_var", "expected"),
    [
        (0.0, 0.0, 0.0),
        (2.0, 0.0, 2.0),  # half the square of the mean
        (0.0, math.log(4.0), 0.5 * (4 - 1 - math.log(4.0))),
        (0.0, -4.0, 0.5 * (math.exp(-4) + 4 - 1)),
    ],
)
def test_kl_of_known_gaussians_in_nats(mean, log_var, expected):
    kl = kl_to_standard_normal(torch.full((1, 3, 2), mean), torch.full((1, 3, 2), log_var))
    assert kl.item() == pytest.approx(expected, abs=1e-6)


def test_kl_does_not_depend_on_the_number_of_tokens():
    mean, log_var = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    repeated = kl_to_standard_normal(mean.repeat(2, 3, 1), log_var.repeat(2, 3, 1))
    torch.testing.assert_close(repeated, kl_to_standard_normal(mean, log_var))


def test_kl_of_half_precision_is_computed_in_float32():
    mean = torch.full((1, 1, 4), 300.0, dtype=torch.float16)  # its square is above what float16 holds
    kl = kl_to_standard_normal(mean, torch.zeros_like(mean))
    assert kl.dtype == torch.float32
    assert kl.item() == 45000.0


def test_kl_refuses_two_shapes():
    with pytest.raises(ValueError, match=r"mean has shape \(1, 2, 3\) and log_var \(1, 2, 4\); they must be equal"):
        kl_to_standard_normal(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))


# --- Dice, cross-entropy, IoU ----------------------------------------------------------------------------------------


def test_dice_loss_of_counted_pixels():
    truth, predicted = rectangle(4, 4), rectangle(2, 4)  # 16 and 8 pixels, 8 in common
    expected = 1 - (2 * 8 + 1) / (16 + 8 + 1)
    assert dice_loss(logits_of(predicted), truth).item() == pytest.approx(expected, abs=1e-6)
    assert dice_loss(logits_of(predicted), truth, smooth=0.0).item() == pytest.approx(1 - 16 / 24, abs=1e-6)


def test_dice_loss_of_empty_masks():
    empty, full = rectangle(0, 0), rectangle(8, 8)
    assert dice_loss(logits_of(empty), empty).item() == 0.0  # nothing to find, nothing found
    assert dice_loss(logits_of(full), empty).item() == pytest.approx(1 - 1 / 65)
    assert dice_loss(logits_of(empty), full).item() == pytest.approx(1 - 1 / 65)


def test_dice_loss_is_the_mean_over_masks():
    truth = torch.cat([rectangle(4, 4), rectangle(8, 8)], dim=1)
    predicted = torch.cat([rectangle(2, 4), rectangle(8, 8)], dim=1)
    expected = (1 - 17 / 25 + 0) / 2
    assert dice_loss(logits_of(predicted), truth).item() == pytest.approx(expected, abs=1e-6)


def test_dice_loss_is_soft():
    truth = rectangle(4, 8)  # 32 of 64 pixels; undecided everywhere: 32 in sum, 16 in common
    assert dice_loss(torch.zeros(1, 1, 8, 8), truth).item() == pytest.approx(1 - (2 * 16 + 1) / (32 + 32 + 1))


def test_binary_cross_entropy_of_known_probabilities():
    mask_logits = torch.log(torch.tensor([0.9, 0.2, 0.5, 0.6]) / torch.tensor([0.1, 0.8, 0.5, 0.4])).view(1, 1, 2, 2)
    labels = torch.tensor([1, 0, 1, 0]).view(1, 1, 2, 2)
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.5) + math.log(0.4)) / 4
    assert binary_cross_entropy(mask_logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_binary_cross_entropy_of_an_empty_mask_counts_the_false_pixels():
    mask_logits = torch.full((1, 1, 8, 8), -SURE)
    assert binary_cross_entropy(mask_logits, rectangle(0, 0)).item() == 0.0
    mask_logits[..., 0, :2] = 3.0
    expected = 2 * math.log(1 + math.exp(3)) / 64
    assert binary_cross_entropy(mask_logits, rectangle(0, 0)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("predicted", "truth", "iou"),
    [
        (rectangle(2, 4), rectangle(4, 4), 8 / 16),
        (rectangle(4, 2), rectangle(2, 4), 4 / 12),
        (rectangle(4, 4), rectangle(4, 4), 1.0),
        (rectangle(0, 0), rectangle(4, 4), 0.0),
        (rectangle(4, 4), rectangle(0, 0), 0.0),
        (rectangle(0, 0), rectangle(0, 0), 1.0),
    ],
)
def test_iou_error_is_the_square_of_the_distance_to_the_counted_iou(predicted, truth, iou):
    score = 0.25
    error = iou_error(torch.full((1, 1), score), logits_of(predicted), truth)
    assert error.item() == pytest.approx((score - iou) ** 2, abs=1e-6)


def test_iou_error_sends_its_gradient_to_the_score_alone():
    score, mask_logits = torch.zeros(1, 1, requires_grad=True), torch.randn(1, 1, 8, 8, requires_grad=True)
    iou_error(score, mask_logits, rectangle(4, 4)).backward()
    assert score.grad is not None
    assert mask_logits.grad is None


@pytest.mark.parametrize("loss", [binary_cross_entropy, dice_loss])
def test_losses_take_boolean_and_integer_labels(loss):
    mask_logits = torch.randn(1, 1, 8, 8)
    expected = loss(mask_logits, rectangle(3, 5))
    assert torch.equal(loss(mask_logits, rectangle(3, 5).bool()), expected)
    assert torch.equal(loss(mask_logits, rectangle(3, 5).to(torch.uint8)), expected)

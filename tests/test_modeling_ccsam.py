"""The model: Table 1's switches, documented shapes, loss, what learns, posterior sampling, refusals."""

import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch.nn import functional as F

import ccsam_hf
from ccsam_hf import CCSamConfig, CCSamModel
from ccsam_hf.data.simulator import simulate
from ccsam_hf.losses import binary_cross_entropy, dice_loss, iou_error, kl_to_standard_normal

GLOBAL = CCSamConfig.tiny().vision_config.global_attn_indexes  # the blocks that carry an adapter
BOXES = torch.tensor([[[40.0, 50, 120, 160], [10, 20, 200, 90], [100, 100, 150, 220]]]).repeat(2, 1, 1)
POINTS = torch.tensor([[[[80.0, 100], [20, 30]], [[100, 50], [5, 5]], [[125, 160], [1, 250]]]]).repeat(2, 1, 1, 1)
POINT_LABELS = torch.tensor([1, 0]).expand(2, 3, 2)  # (B, P, N): the first point inside, the second outside


def shaken(model: CCSamModel) -> CCSamModel:
    """The model with every parameter moved off its start value: nothing is silent, no gradient is zero by design."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "shared_embedding" not in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def build(**kwargs) -> CCSamModel:
    return shaken(CCSamModel(CCSamConfig.tiny(**kwargs)).eval())


@pytest.fixture
def model(tiny_model) -> CCSamModel:
    return shaken(tiny_model)


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(2, 3, 256, 256)


@pytest.fixture
def labels() -> torch.Tensor:
    """(B, P, 256, 256) masks: the boxes themselves."""
    masks = torch.zeros(2, 3, 256, 256)
    for image in range(2):
        for prompt, (x0, y0, x1, y1) in enumerate(BOXES[image].int().tolist()):
            masks[image, prompt, y0:y1, x0:x1] = 1
    return masks


def prompts_of(kind: str) -> dict[str, torch.Tensor]:
    points = {"input_points": POINTS, "input_labels": POINT_LABELS}
    masks = {"input_masks": torch.linspace(-4, 4, 2 * 3 * 128 * 128).view(2, 3, 128, 128)}
    return {
        "none": {},
        "points": points,
        "boxes": {"input_boxes": BOXES},
        "points+boxes": {**points, "input_boxes": BOXES},
        "masks": masks,
        "boxes+masks": {"input_boxes": BOXES, **masks},
    }[kind]


KINDS = ["none", "points", "boxes", "points+boxes", "masks", "boxes+masks"]


# --- Table 1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["points", "boxes"])
@pytest.mark.parametrize("fusion", ["cross_branch", "vaf"])
@pytest.mark.parametrize("cnn_branch", ["samus", "resnet50"])
def test_a_row_of_table_1_builds_runs_and_learns(cnn_branch, fusion, prompt, pixel_values, labels):
    model = CCSamModel(
        CCSamConfig.tiny(cnn_branch=cnn_branch, fusion=fusion, cnn_config={"samus_channels": 8})
    ).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        output = model(pixel_values, **prompts_of(prompt), labels=labels)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert output.pred_masks.shape == (2, 3, 1, 128, 128)
    assert losses[2] < losses[0]
    assert (output.fusion_weights is not None) == (fusion == "vaf")


def test_the_switches_reach_the_parts():
    assert type(build(cnn_branch="samus").cnn_branch).__name__ == "SamusCNNBranch"
    samus = build(cnn_branch="samus", fusion="cross_branch")
    assert samus.fusion is None
    assert samus.vit_branch.layers[GLOBAL[0]].cross_branch is not None
    plain = build(cnn_branch="none", fusion="none")
    assert plain.cnn_branch is None and plain.fusion is None
    assert plain.vit_branch.layers[GLOBAL[0]].cross_branch is None


# --- shapes and meaning of the outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_documented_shapes(model, pixel_values, kind, multimask_output):
    output = model(pixel_values, **prompts_of(kind), multimask_output=multimask_output)
    num_prompts, num_masks = (1 if kind == "none" else 3), (3 if multimask_output else 1)
    assert output.pred_masks.shape == (2, num_prompts, num_masks, 128, 128)
    assert output.iou_scores.shape == (2, num_prompts, num_masks)
    assert output.fusion_weights.shape == (2, 2, 32, 32)
    torch.testing.assert_close(output.fusion_weights.sum(dim=1), torch.ones(2, 32, 32))
    assert output.loss is None and output.loss_dict is None and output.mask_probability is None
    assert torch.isfinite(output.pred_masks).all()


@pytest.mark.parametrize("kind", ["points", "boxes", "points+boxes", "masks", "boxes+masks"])
def test_several_objects_in_one_call_equal_one_by_one(model, pixel_values, kind):
    prompts = prompts_of(kind)
    together = model(pixel_values, **prompts)
    for index in range(3):
        alone = model(pixel_values, **{name: value[:, index : index + 1] for name, value in prompts.items()})
        torch.testing.assert_close(together.pred_masks[:, index], alone.pred_masks[:, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.iou_scores[:, index], alone.iou_scores[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.pred_masks[:, 0], together.pred_masks[:, 1], atol=1e-4)


def test_images_of_a_batch_equal_one_by_one(model, pixel_values):
    together = model(pixel_values, input_boxes=BOXES)
    for index in range(2):
        alone = model(pixel_values[index : index + 1], input_boxes=BOXES[:1])
        torch.testing.assert_close(together.pred_masks[index], alone.pred_masks[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.pred_masks[0], together.pred_masks[1], atol=1e-4)


def test_the_first_of_four_masks_is_the_single_one_and_the_other_three_are_the_multimask(model, pixel_values):
    every = []
    model.mask_decoder.iou_prediction_head.register_forward_hook(lambda module, args, output: every.append(output))
    single = model(pixel_values, input_boxes=BOXES).iou_scores
    multiple = model(pixel_values, input_boxes=BOXES, multimask_output=True).iou_scores
    assert torch.equal(single, every[0][..., :1])
    assert torch.equal(multiple, every[1][..., 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_once_and_decoding_equals_forward(model, pixel_values, kind):
    image_embeddings = model.get_image_embeddings(pixel_values)
    assert image_embeddings.shape == (2, model.config.vision_config.output_channels, 32, 32)
    expected = model(pixel_values, **prompts_of(kind))
    decoded = model(image_embeddings=image_embeddings, **prompts_of(kind))
    assert torch.equal(decoded.pred_masks, expected.pred_masks)
    assert torch.equal(decoded.iou_scores, expected.iou_scores)
    assert decoded.fusion_weights is None
    pred_masks, iou_scores = model.decode(image_embeddings, **prompts_of(kind))
    assert torch.equal(pred_masks, expected.pred_masks)
    assert torch.equal(iou_scores, expected.iou_scores)


def test_gradients_flow_through_the_image_embeddings(model, pixel_values, labels):
    pixel_values.requires_grad_()
    image_embeddings = model.get_image_embeddings(pixel_values)
    model(image_embeddings=image_embeddings, input_boxes=BOXES, labels=labels).loss.backward()
    assert pixel_values.grad.abs().max() > 0
    assert model.vit_branch.layers[GLOBAL[0]].adapter.down.weight.grad.abs().max() > 0
    assert model.cnn_branch.adapter.linear.weight.grad.abs().max() > 0


def test_a_padded_point_changes_nothing_but_its_token(model, pixel_values):
    """Points labelled -10 carry no place: wherever they lie, the result is the same."""
    labels = POINT_LABELS.clone()
    labels[..., 1] = -10
    moved = POINTS.clone()
    moved[:, :, 1] = 200
    first = model(pixel_values, input_points=POINTS, input_labels=labels).pred_masks
    assert torch.equal(model(pixel_values, input_points=moved, input_labels=labels).pred_masks, first)


def test_without_return_dict_a_tuple_of_what_is_there(model, pixel_values, labels):
    output = model(pixel_values, input_boxes=BOXES)
    as_tuple = model(pixel_values, input_boxes=BOXES, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 3
    for value, expected in zip(as_tuple, (output.pred_masks, output.iou_scores, output.fusion_weights), strict=True):
        assert torch.equal(value, expected)
    with_loss = model(pixel_values, input_boxes=BOXES, labels=labels, return_dict=False)
    assert len(with_loss) == 5  # the loss comes first, as transformers' Trainer expects it
    assert with_loss[0].ndim == 0 and isinstance(with_loss[1], dict)


def test_evaluation_is_deterministic_and_training_draws(model, pixel_values):
    first, second = (model(pixel_values, input_boxes=BOXES).pred_masks for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    first, second = (model(pixel_values, input_boxes=BOXES).pred_masks for _ in range(2))
    assert not torch.equal(first, second)


# --- loss, Eq. (8) ---------------------------------------------------------------------------------------------------


def test_every_term_has_its_name_its_value_and_its_weight(model, pixel_values, labels):
    config = model.config
    config.lambda_c, config.lambda_v, config.lambda_a, config.lambda_iou = 0.5, 0.25, 2.0, 3.0
    output = model(pixel_values, input_boxes=BOXES, labels=labels)
    fused, _ = model.fuse(pixel_values)
    mask_logits = F.interpolate(output.pred_masks[:, :, 0], (256, 256), mode="bilinear")
    logits = (fused.vit_logits, fused.cnn_logits)
    expected = {
        "bce": binary_cross_entropy(mask_logits, labels),
        "dice": dice_loss(mask_logits, labels),
        "kl_c": kl_to_standard_normal(fused.cnn.mean, fused.cnn.log_var),
        "kl_v": kl_to_standard_normal(fused.vit.mean, fused.vit.log_var),
        "kl_a": sum(kl_to_standard_normal(each.mean, each.log_var) for each in logits) / 2,
        "iou": iou_error(output.iou_scores[:, :, 0], mask_logits, labels),
    }
    assert output.loss_dict.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(output.loss_dict[name], value)
        assert value > 0
    weights = {"bce": 1.0, "dice": 1.0, "kl_c": 0.5, "kl_v": 0.25, "kl_a": 2.0, "iou": 3.0}
    total = sum(weights[name] * value for name, value in expected.items())
    torch.testing.assert_close(output.loss, total)


@pytest.mark.parametrize(
    ("kwargs", "names"),
    [
        ({}, {"bce", "dice", "kl_c", "kl_v", "kl_a"}),
        ({"lambda_iou": 0.5}, {"bce", "dice", "kl_c", "kl_v", "kl_a", "iou"}),
        ({"vaf_config": {"attention": "deterministic"}}, {"bce", "dice", "kl_c", "kl_v"}),
        ({"cnn_branch": "none", "fusion": "none"}, {"bce", "dice"}),
        ({"fusion": "cross_branch"}, {"bce", "dice"}),
    ],
)
def test_terms_exist_where_their_part_exists(kwargs, names, pixel_values, labels):
    output = build(**kwargs)(pixel_values, input_boxes=BOXES, labels=labels)
    assert output.loss_dict.keys() == names
    assert torch.isfinite(output.loss)


def test_embeddings_given_by_the_caller_have_no_kl(model, pixel_values, labels):
    image_embeddings = model.get_image_embeddings(pixel_values)
    output = model(image_embeddings=image_embeddings, input_boxes=BOXES, labels=labels)
    assert output.loss_dict.keys() == {"bce", "dice"}
    torch.testing.assert_close(output.loss, output.loss_dict["bce"] + output.loss_dict["dice"])


def test_labels_may_have_any_size(model, pixel_values, labels):
    full = model(pixel_values, input_boxes=BOXES, labels=labels).loss_dict["dice"]
    half = model(pixel_values, input_boxes=BOXES, labels=labels[..., ::2, ::2]).loss_dict["dice"]
    torch.testing.assert_close(half, full, rtol=0.02, atol=0)


# --- what learns -----------------------------------------------------------------------------------------------------


def part_of(name: str) -> str:
    """The documented part that a parameter belongs to."""
    if name.startswith("vit_branch."):
        for part in ("input_adapter", "position_adapter", ".adapter.", "rel_pos", "cross_branch"):
            if part in name:
                windowed = name.startswith("vit_branch.layers.") and int(name.split(".")[2]) not in GLOBAL
                return "vit_branch.windowed" if windowed else f"vit_branch.{part.strip('.')}"
        return "vit_branch.sam"
    if name.startswith("cnn_branch."):
        return "cnn_branch.backbone" if name.startswith("cnn_branch.backbone.") else "cnn_branch.learnt"
    return name.split(".")[0]


VIT_PARTS = {f"vit_branch.{part}" for part in ("input_adapter", "position_adapter", "adapter", "rel_pos")}
CCSAM_PARTS = VIT_PARTS | {"cnn_branch.learnt", "fusion"}
SAMUS = {"cnn_branch": "samus", "fusion": "cross_branch", "cnn_config": {"samus_channels": 8}}
SAMUS_PARTS = VIT_PARTS | {"vit_branch.cross_branch", "cnn_branch.learnt"}

# Learnable, and without effect on the loss of one box prompt:
WITHOUT_EFFECT = (
    "mask_decoder.iou_prediction_head.",  # feeds no loss without lambda_iou
    "mask_decoder.output_hypernetworks_mlps.1.",  # masks of multimask_output only
    "mask_decoder.output_hypernetworks_mlps.2.",
    "mask_decoder.output_hypernetworks_mlps.3.",
)
PROMPTS_NOT_GIVEN = (
    "prompt_encoder.point_embed.0.",  # outside points
    "prompt_encoder.point_embed.1.",  # inside points
    "prompt_encoder.not_a_point_embed.",  # pads points that come without a box
    "prompt_encoder.mask_embed.",
)


def train_steps(model: CCSamModel, pixel_values, labels, steps: int = 2) -> set[str]:
    """Train and return the names of the state's tensors, buffers too, that have moved."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = model(pixel_values, input_boxes=BOXES, labels=labels).loss
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize(
    ("kwargs", "parts"),
    [
        ({"train_mask_decoder": True}, CCSAM_PARTS | {"mask_decoder"}),
        ({"train_mask_decoder": False}, CCSAM_PARTS),
        ({**SAMUS, "train_mask_decoder": False}, SAMUS_PARTS),
        ({**SAMUS, "train_mask_decoder": True}, SAMUS_PARTS | {"mask_decoder"}),
        ({"cnn_branch": "none", "fusion": "none"}, VIT_PARTS | {"mask_decoder"}),
    ],
    ids=["ccsam", "ccsam, frozen decoder", "samus", "samus, learning decoder", "no cnn"],
)
def test_exactly_the_declared_parts_learn(kwargs, parts, pixel_values, labels):
    model = build(**kwargs).train()
    declared = {name for name, _ in model.named_parameters() if part_of(name) in parts}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == declared
    moved = train_steps(model, pixel_values, labels)
    assert moved == {name for name in declared if not name.startswith(WITHOUT_EFFECT)}


def test_freeze_all_lets_everything_learn_but_the_gaussian_matrix(model, pixel_values, labels):
    model.freeze("all").train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"prompt_encoder.shared_embedding.positional_embedding"}
    moved = train_steps(model, pixel_values, labels)
    unmoved = {name for name in model.state_dict() if name not in moved} - frozen
    assert unmoved == {name for name in model.state_dict() if name.startswith(WITHOUT_EFFECT + PROMPTS_NOT_GIVEN)}


def test_freeze_none_lets_nothing_learn(model, pixel_values, labels):
    model.freeze("none").train()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert train_steps(model, pixel_values, labels) == set()


def test_freeze_returns_the_model_and_can_be_undone(tiny_model):
    declared = {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    assert tiny_model.freeze("all").freeze("none").freeze() is tiny_model
    assert {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad} == declared
    assert not tiny_model.training


def test_freeze_refuses_another_word(tiny_model):
    with pytest.raises(ValueError, match="trainable='decoder' is not one of 'declared', 'all', 'none'"):
        tiny_model.freeze("decoder")


def test_every_learnable_parameter_gets_a_gradient_or_has_a_reason(pixel_values, labels):
    model = build(lambda_iou=1.0).freeze("all").train()
    for kind in KINDS[1:]:
        model(pixel_values, **prompts_of(kind), labels=labels).loss.backward()
    silent = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    }
    # with the IoU term and every kind of prompt only the masks that multimask_output would show are left
    assert silent == {name for name, _ in model.named_parameters() if name.startswith(WITHOUT_EFFECT[1:])}


# --- posterior sampling ----------------------------------------------------------------------------------------------


def widen(model: CCSamModel, log_var: float) -> CCSamModel:
    """The same model with every log-variance at `log_var`."""
    heads = (model.fusion.vit_head, model.fusion.cnn_head, model.fusion.attention_head)
    for head in heads:
        head.log_var_range = (log_var - 1e-3, log_var)
    return model


def test_samples_are_reproducible_and_leave_the_prediction_alone(model, pixel_values):
    widen(model, 0.0)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(pixel_values, input_boxes=BOXES, num_samples=3))
    plain = model(pixel_values, input_boxes=BOXES)
    for output in outputs:
        assert output.mask_probability.shape == output.mask_uncertainty.shape == (2, 3, 1, 128, 128)
        assert 0 <= output.mask_probability.min() and output.mask_probability.max() <= 1
        assert 0 <= output.mask_uncertainty.min() and output.mask_uncertainty.max() <= 0.5
        assert output.mask_uncertainty.mean() > 0
        assert torch.equal(output.pred_masks, plain.pred_masks)
        assert torch.equal(output.iou_scores, plain.iou_scores)
    assert torch.equal(outputs[0].mask_probability, outputs[1].mask_probability)
    assert torch.equal(outputs[0].mask_uncertainty, outputs[1].mask_uncertainty)
    assert not torch.equal(outputs[0].mask_probability, outputs[2].mask_probability)


def test_mean_and_deviation_are_those_of_the_draws(model, pixel_values):
    widen(model, 0.0)
    decoded = []
    decode = model.decode
    model.decode = lambda *args, **kwargs: decoded.append(decode(*args, **kwargs)) or decoded[-1]
    output = model(pixel_values, input_boxes=BOXES, num_samples=4)
    draws = torch.stack([masks for masks, _ in decoded[1:]]).sigmoid()
    assert len(draws) == 4
    mean = draws.sum(dim=0) / 4
    torch.testing.assert_close(output.mask_probability, mean)
    torch.testing.assert_close(output.mask_uncertainty, ((draws - mean).square().sum(dim=0) / 4).sqrt())


def test_sampling_runs_the_encoders_once(model, pixel_values):
    calls = []
    for name in ("vit_branch", "cnn_branch", "fusion.vit_encoder", "mask_decoder"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    model(pixel_values, input_boxes=BOXES, num_samples=5, multimask_output=True)
    counts = {name: calls.count(name) for name in set(calls)}
    assert counts == {"vit_branch": 1, "cnn_branch": 1, "fusion.vit_encoder": 1, "mask_decoder": 6}


def test_a_posterior_without_width_has_no_uncertainty_and_a_wider_one_more(model, pixel_values):
    sure = widen(model, -80.0)(pixel_values, input_boxes=BOXES, num_samples=3)
    torch.testing.assert_close(sure.mask_uncertainty, torch.zeros_like(sure.mask_uncertainty), rtol=0, atol=1e-6)
    torch.testing.assert_close(sure.mask_probability, sure.pred_masks.sigmoid())
    narrow = widen(model, -4.0)(pixel_values, input_boxes=BOXES, num_samples=6).mask_uncertainty.mean()
    wide = widen(model, 1.0)(pixel_values, input_boxes=BOXES, num_samples=6).mask_uncertainty.mean()
    assert 0 < narrow < wide


def test_the_uncertainty_of_a_blurred_boundary_is_higher_than_inside():
    model = CCSamModel.from_pretrained(ccsam_hf.TINY).eval()
    at_boundary, inside = [], []
    for seed in (2_000_003_000 + offset for offset in (0, 2, 4, 5)):  # held out, and large enough to have an inside
        case = simulate("breast lesion", seed=seed)
        depth = distance_transform_edt(case.mask) + distance_transform_edt(~case.mask)  # pixels to the boundary
        band, interior = depth <= 5, case.mask & (depth > 10)
        image = case.image.astype("float32") / 255
        image[band] = gaussian_filter(image, sigma=5)[band]
        rows, columns = case.mask.nonzero()
        boxes = torch.tensor([[[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]], dtype=torch.float32)
        with torch.no_grad():
            pixel_values = torch.from_numpy(image).expand(1, 3, -1, -1)
            uncertainty = model(pixel_values, input_boxes=boxes, num_samples=16).mask_uncertainty[:, 0]
        uncertainty = F.interpolate(uncertainty, case.mask.shape, mode="bilinear")[0, 0].numpy()
        at_boundary.append(uncertainty[band].mean())
        assert interior.any()
        inside.append(uncertainty[interior].mean())
    assert sum(at_boundary) > sum(inside)


# --- refusals --------------------------------------------------------------------------------------------------------

IMAGE = torch.zeros(2, 3, 256, 256)
MAP = "image_embeddings"
REFUSED = [
    ({}, "none of pixel_values, image_embeddings, encoded given; exactly one is needed"),
    (
        {"pixel_values": IMAGE, MAP: torch.zeros(2, 64, 32, 32)},
        "pixel_values and image_embeddings of pixel_values, image_embeddings, encoded given; exactly one is needed",
    ),
    (
        {"pixel_values": IMAGE[0]},
        "pixel_values has shape (3, 256, 256); expected (batch_size, 3, 256, 256): CCSamProcessor resizes an image",
    ),
    ({"pixel_values": IMAGE[:, :1]}, "pixel_values has shape (2, 1, 256, 256); expected (batch_size, 3, 256, 256)"),
    ({"pixel_values": IMAGE[..., :200]}, "pixel_values has shape (2, 3, 256, 200)"),
    ({MAP: torch.zeros(2, 7, 32, 32)}, "image_embeddings has shape (2, 7, 32, 32); expected (batch_size, "),
    ({MAP: torch.zeros(2, 32, 32)}, "32, 32), as get_image_embeddings returns it"),
    (
        {"pixel_values": IMAGE, "input_points": POINTS},
        "input_points and input_labels belong together: give both or neither",
    ),
    (
        {"pixel_values": IMAGE, "input_labels": POINT_LABELS},
        "input_points and input_labels belong together: give both or neither",
    ),
    (
        {"pixel_values": IMAGE, "input_points": POINTS[:, 0], "input_labels": POINT_LABELS},
        "input_points has shape (2, 2, 2); expected (batch_size, num_prompts, num_points, 2) with batch_size 2",
    ),
    (
        {"pixel_values": IMAGE, "input_points": torch.zeros(2, 3, 2, 3), "input_labels": POINT_LABELS},
        "input_points has shape (2, 3, 2, 3); expected (batch_size, num_prompts, num_points, 2)",
    ),
    (
        {"pixel_values": IMAGE, "input_points": POINTS, "input_labels": POINT_LABELS[:, 0]},
        "input_labels has shape (2, 2); expected (batch_size, num_prompts, num_points) with batch_size 2",
    ),
    (
        {"pixel_values": IMAGE, "input_points": POINTS, "input_labels": POINT_LABELS[..., :1]},
        "input_labels has shape (2, 3, 1); expected one label for each point of input_points: (2, 3, 2)",
    ),
    (
        {"pixel_values": IMAGE, "input_boxes": BOXES[0]},
        "input_boxes has shape (3, 4); expected (batch_size, num_prompts, 4): x0 y0 x1 y1 with batch_size 2",
    ),
    ({"pixel_values": IMAGE, "input_boxes": BOXES[:1]}, "input_boxes has shape (1, 3, 4); expected"),
    (
        {"pixel_values": IMAGE, "input_boxes": BOXES[:, :0]},
        "input_boxes has shape (2, 0, 4): no prompt in it; leave it out or add one",
    ),
    (
        {"pixel_values": IMAGE, "input_masks": torch.zeros(2, 3, 256, 256)},
        "input_masks has shape (2, 3, 256, 256); expected (batch_size, num_prompts, 128, 128) with batch_size 2",
    ),
    (
        {
            "pixel_values": IMAGE,
            "input_boxes": BOXES[:, :2],
            "input_points": POINTS,
            "input_labels": POINT_LABELS,
        },
        "num_prompts differs between the prompts: {'input_points': 3, 'input_labels': 3, 'input_boxes': 2}",
    ),
    (
        {"pixel_values": IMAGE, "input_boxes": BOXES, "labels": torch.zeros(2, 256, 256)},
        "labels has shape (2, 256, 256); expected (batch_size, num_prompts, height, width) with the first two (2, 3)",
    ),
    (
        {"pixel_values": IMAGE, "input_boxes": BOXES, "labels": torch.zeros(2, 1, 256, 256)},
        "labels has shape (2, 1, 256, 256)",
    ),
    (
        {"pixel_values": IMAGE, "input_boxes": BOXES, "labels": torch.zeros(2, 3, 8, 8), "multimask_output": True},
        "the loss is that of one mask a prompt: give labels with multimask_output=False",
    ),
    (
        {"pixel_values": IMAGE, "input_boxes": BOXES, "num_samples": 1},
        "num_samples=1; a standard deviation needs at least 2 draws",
    ),
    ({"pixel_values": IMAGE, "num_samples": 0}, "num_samples=0; a standard deviation needs at least 2 draws"),
]


@pytest.mark.parametrize(("kwargs", "message"), REFUSED, ids=[case[1][:50] for case in REFUSED])
def test_forward_refuses_what_does_not_fit(tiny_model_original, kwargs, message):
    with pytest.raises(ValueError) as caught:
        tiny_model_original(**kwargs)
    assert message in str(caught.value)


def test_samples_need_an_image_and_a_variational_fusion(tiny_model):
    image_embeddings = tiny_model.get_image_embeddings(IMAGE)
    with pytest.raises(
        ValueError, match="num_samples needs pixel_values or encoded: image_embeddings carry no distribution"
    ):
        tiny_model(image_embeddings=image_embeddings, num_samples=4)
    samus = build(**SAMUS)
    with pytest.raises(ValueError, match="draws from the variational fusion; fusion='cross_branch' has none"):
        samus(IMAGE, num_samples=4)


def test_get_image_embeddings_refuses_another_size(tiny_model):
    with pytest.raises(ValueError, match=r"pixel_values has shape \(1, 3, 128, 128\); expected"):
        tiny_model.get_image_embeddings(torch.zeros(1, 3, 128, 128))


# --- full size -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_default_runs_and_learns_at_full_size():
    model = CCSamModel(CCSamConfig()).eval()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(sizes.values()) == 128_466_992
    assert sum(sizes[name] for name in learnt) == 15_346_596

    pixel_values = torch.rand(1, 3, 256, 256)
    boxes = torch.tensor([[[60.0, 70, 180, 190]]])
    with torch.no_grad():
        output = model(pixel_values, input_boxes=boxes)
    assert output.pred_masks.shape == (1, 1, 1, 128, 128)
    assert output.iou_scores.shape == (1, 1, 1)
    assert torch.isfinite(output.pred_masks).all()

    shaken(model).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels = torch.zeros(1, 1, 256, 256)
    labels[..., 70:190, 60:180] = 1
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(pixel_values, input_boxes=boxes, labels=labels).loss.backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved <= learnt
    expected = {name for name in learnt if not name.startswith(WITHOUT_EFFECT)}
    assert {module_of(name) for name in moved} == {module_of(name) for name in expected}


def module_of(name: str) -> str:
    """A parameter's module, two names deep: fine enough to see every adapter and every head."""
    return ".".join(name.split(".")[:3])


@pytest.mark.slow
def test_samus_has_the_parameter_counts_of_the_official_code():
    model = CCSamModel(CCSamConfig.samus())
    assert sum(parameter.numel() for parameter in model.parameters()) == 133_323_824
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 39_653_120

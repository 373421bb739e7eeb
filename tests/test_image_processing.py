"""Any common image becomes pixel_values in [0, 1], masks go back to the image's size, and bad images are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from ccsam_hf.image_processing_ccsam import CCSamImageProcessor


@pytest.fixture
def processor() -> CCSamImageProcessor:
    return CCSamImageProcessor()


@pytest.fixture
def grey(rng) -> np.ndarray:
    return rng.integers(0, 256, (200, 300), dtype=np.uint8)


def test_shapes_types_and_range(processor, grey, rng):
    out = processor([grey, rng.integers(0, 256, (90, 40, 3), dtype=np.uint8)])
    assert out["pixel_values"].shape == (2, 3, 256, 256)
    assert out["pixel_values"].dtype == torch.float32
    assert out["pixel_values"].min() >= 0 and out["pixel_values"].max() <= 1
    assert out["original_sizes"].tolist() == [[200, 300], [90, 40]]


def test_an_image_of_the_input_size_is_only_scaled(processor, rng):
    image = rng.integers(0, 256, (256, 256), dtype=np.uint8)
    expected = torch.from_numpy(image) / 255
    assert torch.equal(processor(image)["pixel_values"], expected.expand(1, 3, -1, -1))


def test_the_resize_is_bilinear_with_averaging_as_pils(processor, grey):
    expected = np.asarray(Image.fromarray(grey).resize((256, 256), Image.Resampling.BILINEAR))
    difference = processor(grey)["pixel_values"][0, 0] * 255 - torch.from_numpy(expected.astype(np.float32))
    assert difference.abs().max() < 1  # PIL rounds to whole grey levels, once an axis
    assert difference.mean().abs() < 0.02
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (512, 512))  # shrunk 4 times, without aliasing grey
    assert (processor(stripes)["pixel_values"] - 0.5).abs().max() < 0.05


@pytest.mark.parametrize(
    "convert",
    [
        Image.fromarray,
        lambda a: Image.fromarray(a).convert("RGB"),
        lambda a: Image.fromarray(a).convert("RGBA"),
        lambda a: Image.fromarray(a).convert("LA"),
        lambda a: Image.fromarray(a.astype(np.uint16) * 257),
        lambda a: Image.fromarray(a.astype(np.int32) * 257, mode=None),
        lambda a: Image.fromarray(a.astype(np.float32) / 255),
        lambda a: a[..., None],
        lambda a: np.stack([a] * 3, -1),
        lambda a: np.stack([a] * 4, -1),
        lambda a: np.stack([a] * 3),
        lambda a: a.astype(np.uint16) * 257,
        lambda a: (a.astype(np.uint16) * 257).astype(">u2"),
        lambda a: a.astype(np.float64) / 255,
        lambda a: a[None],
        lambda a: a[None, ..., None],
        torch.from_numpy,
        lambda a: torch.from_numpy(a)[None],
        lambda a: torch.from_numpy(a).expand(3, -1, -1),
        lambda a: torch.from_numpy(a)[..., None],
        lambda a: torch.from_numpy(a) / 255,
        lambda a: [a],
    ],
)
def test_every_accepted_form_of_one_image_gives_the_same_values(processor, grey, convert):
    expected = processor(grey)
    out = processor(convert(grey))
    torch.testing.assert_close(out["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-6)
    assert out["original_sizes"].tolist() == [[200, 300]]


def test_colour_becomes_grey_unless_asked_otherwise(processor):
    red = np.zeros((50, 60, 3), dtype=np.uint8)
    red[..., 0] = 255
    torch.testing.assert_close(processor(red)["pixel_values"], torch.full((1, 3, 256, 256), 0.299))
    kept = processor(red, do_convert_grayscale=False)["pixel_values"]
    assert kept[0].amax((1, 2)).tolist() == [1, 0, 0]


def test_a_palette_image_counts_by_its_colours(processor, grey):
    palette = Image.fromarray(grey).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    torch.testing.assert_close(processor(palette)["pixel_values"], processor(palette.convert("RGB"))["pixel_values"])


def test_normalisation_is_a_setting(processor, grey):
    plain = processor(grey)["pixel_values"]
    out = processor(grey, do_normalize=True, image_mean=[0.2, 0.2, 0.2], image_std=[0.1, 0.2, 0.4])["pixel_values"]
    for channel, std in enumerate((0.1, 0.2, 0.4)):
        torch.testing.assert_close(out[:, channel], (plain[:, channel] - 0.2) / std)


def test_a_stack_is_a_batch(processor, rng):
    stack = rng.random((4, 20, 30, 3), dtype=np.float32)
    listed = processor(list(stack))["pixel_values"]
    assert torch.equal(processor(stack)["pixel_values"], listed)
    assert torch.equal(processor(torch.from_numpy(stack).permute(0, 3, 1, 2))["pixel_values"], listed)


def test_an_image_of_one_row_or_one_pixel_is_an_image(processor):
    row = np.linspace(0, 1, 300, dtype=np.float32)[None]
    values = processor(row)["pixel_values"][0, 0]
    assert torch.equal(values, values[:1].expand(256, -1))
    assert (values.diff(dim=1) > 0).all()
    assert torch.equal(processor(np.full((1, 1), 51, np.uint8))["pixel_values"], torch.full((1, 3, 256, 256), 0.2))
    assert processor(torch.zeros(3, 1, 3))["original_sizes"].tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([], ValueError, "no image was given"),
        (np.zeros((0, 20), np.uint8), ValueError, "no pixels"),
        (np.zeros((20, 0, 3), np.uint8), ValueError, "no pixels"),
        (np.zeros((0, 0), np.float32), ValueError, "no pixels"),
        (Image.new("L", (0, 5)), ValueError, "no pixels"),
        (np.zeros(20, np.uint8), ValueError, r"shape \(20,\); expected \(height, width\)"),
        (np.zeros((20, 30, 5), np.uint8), ValueError, "1, 3 or 4 channels"),
        (np.zeros((7, 20, 30), np.uint8), ValueError, "as a list"),
        (torch.zeros(2, 2, 3, 20, 30), ValueError, "shape"),
        (np.zeros((20, 30), np.int64), TypeError, "int64; expected uint8"),
        (np.zeros((20, 30), np.complex64), TypeError, "complex64"),
        (np.array([["a"]]), TypeError, "expected uint8"),
        (torch.zeros(20, 30, dtype=torch.int32), TypeError, "int32; expected uint8"),
        (np.full((20, 30), np.nan), ValueError, "NaN or infinity"),
        (torch.full((20, 30), torch.inf), ValueError, "NaN or infinity"),
        (np.full((20, 30), 200.0), ValueError, "divide by 255"),
        (np.full((20, 30), -0.5), ValueError, r"expected \[0, 1\]"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), ValueError, "expected 16-bit values"),
        ("case.png", TypeError, "open files first"),
        (None, TypeError, "NoneType; expected a PIL image"),
        ([[1, 2], [3, 4]], TypeError, "type list; expected a PIL image"),
    ],
)
def test_what_is_no_image_is_refused(processor, image, error, message):
    with pytest.raises(error, match=message):
        processor(image)


def test_twelve_bits_in_sixteen_are_warned_of(processor, caplog, monkeypatch):
    warnings = []
    monkeypatch.setattr("ccsam_hf.image_processing_ccsam.logger.warning", warnings.append)
    processor(np.full((20, 30), 4095, np.uint16))
    assert len(warnings) == 1 and "scale 12-bit data" in warnings[0]
    processor(np.full((20, 30), 65535, np.uint16))
    assert len(warnings) == 1


def test_labels_are_binary_and_nearest(processor):
    mask = np.zeros((4, 8), np.uint8)
    mask[1:3, 2:6] = 255
    labels = processor(np.zeros((4, 8), np.uint8), segmentation_maps=mask)["labels"]
    expected = torch.zeros(1, 1, 256, 256)
    expected[..., 64:192, 64:192] = 1
    assert torch.equal(labels, expected)
    for same in (Image.fromarray(mask), mask > 0, torch.from_numpy(mask), mask[None].astype(np.float32)):
        assert torch.equal(processor(np.zeros((4, 8), np.uint8), segmentation_maps=same)["labels"], expected)


def test_labels_of_a_batch_with_several_objects(processor, rng):
    maps = [rng.random((2, *size)) > 0.5 for size in ((20, 30), (256, 256))]
    labels = processor([np.zeros(m.shape[1:], np.uint8) for m in maps], segmentation_maps=maps)["labels"]
    assert labels.shape == (2, 2, 256, 256) and labels.dtype == torch.float32
    assert torch.equal(labels[1], torch.from_numpy(maps[1]).float())


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([np.zeros((20, 30), bool)], "1 and images 2"),
        ([np.zeros((20, 30), bool), np.zeros((30, 20), bool)], r"\(1, 30, 20\); expected \(num_objects, 20, 30\)"),
        ([np.zeros((20, 30), bool), np.zeros((2, 20, 30), bool)], r"\[1, 2\] objects"),
        ([np.zeros((20, 30), bool), np.full((20, 30), np.nan)], "NaN"),
    ],
)
def test_masks_that_do_not_fit_are_refused(processor, maps, message):
    with pytest.raises(ValueError, match=message):
        processor([np.zeros((20, 30), np.uint8)] * 2, segmentation_maps=maps)


def test_masks_return_to_the_size_of_each_image(processor):
    logits = torch.full((2, 1, 3, 128, 128), -4.0)
    logits[:, :, :, 32:64, 64:96] = 4.0
    sizes = torch.tensor([[200, 320], [64, 128]])
    masks = processor.post_process_masks(logits, sizes)
    assert [tuple(mask.shape) for mask in masks] == [(1, 3, 200, 320), (1, 3, 64, 128)]
    assert masks[0].dtype == torch.bool
    expected = torch.zeros(200, 320, dtype=torch.bool)
    expected[50:100, 160:240] = True
    assert torch.equal(masks[0][0, 0], expected)
    values = processor.post_process_masks(logits, sizes, binarize=False)[0]
    assert values.dtype == torch.float32 and values[0, 0, 75, 200] == 4.0
    assert not processor.post_process_masks(logits, sizes, mask_threshold=5.0)[0].any()


def test_post_processing_refuses_shapes_that_do_not_fit(processor):
    with pytest.raises(ValueError, match="2 images and original_sizes 1"):
        processor.post_process_masks(torch.zeros(2, 1, 1, 8, 8), [(20, 30)])
    with pytest.raises(ValueError, match="5 axes"):
        processor.post_process_masks(torch.zeros(1, 1, 8, 8), [(20, 30)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 256}}, "size must hold height and width"),
        ({"resample": 5}, "resample=5 is not one of"),
        ({"image_mean": [0.5]}, "3 channels"),
        ({"image_std": [0.5, 0.0, 0.5]}, "above zero"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CCSamImageProcessor(**settings)


def test_a_setting_that_does_not_exist_is_named(monkeypatch):
    warnings = []
    monkeypatch.setattr("ccsam_hf.image_processing_ccsam.logger.warning", warnings.append)
    CCSamImageProcessor(do_normalise=True)
    assert "do_normalise" in warnings[0]
    with pytest.raises(TypeError, match="do_normalise"):
        CCSamImageProcessor()(np.zeros((4, 4), np.uint8), do_normalise=True)


def test_settings_survive_save_and_load(tmp_path, grey):
    changed = CCSamImageProcessor(size={"height": 64, "width": 96}, do_normalize=True, do_convert_grayscale=False)
    changed.save_pretrained(tmp_path)
    for loaded in (CCSamImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is CCSamImageProcessor
        assert loaded.to_dict() == changed.to_dict()
        assert torch.equal(loaded(grey)["pixel_values"], changed(grey)["pixel_values"])

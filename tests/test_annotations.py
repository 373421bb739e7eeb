"""Annotations give back every mask pixel for pixel, by decoders that were written for the tests alone."""

import json
import sys
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ccsam_hf.data.readers import coco, read_cases
from ccsam_hf.formats.annotations import AnnotatedImage, label_studio_config, to_coco, to_cvat, to_label_studio

pytest.importorskip("pycocotools", reason="COCO needs the extra `data`")

SIZES = {"a.png": (48, 61), "sub/b ü.png": (33, 40), "empty.png": (20, 30), "d.png": (300, 410)}


@pytest.fixture
def images(rng) -> list[AnnotatedImage]:
    """Masks of noise, of a block at the right edge, of nothing, of everything, and of the last pixel alone."""

    def named(name: str, *objects) -> AnnotatedImage:
        return AnnotatedImage(name, *SIZES[name], objects)

    noise, block = {}, {}
    for name, (height, width) in SIZES.items():
        noise[name] = rng.random((height, width)) < 0.3
        block[name] = np.zeros((height, width), dtype=bool)
        block[name][height // 4 :, width // 3 :] = True
    last = np.zeros(SIZES["d.png"], dtype=bool)
    last[-1, -1] = True
    return [
        named("a.png", ("thyroid nodule", noise["a.png"], 0.9), ("breast lesion", block["a.png"], 0.71234)),
        named("sub/b ü.png", ("breast lesion", noise["sub/b ü.png"], 0.5)),
        named("empty.png", ("left atrium", np.zeros(SIZES["empty.png"], dtype=bool), 0.0)),
        named("d.png", ("breast lesion", ~np.zeros_like(last), 1.01), ("thyroid nodule", last, 0.2)),
    ]


def truth(images) -> list[tuple[str, str, np.ndarray]]:
    return [(image.file_name, label, mask) for image in images for label, mask, _ in image.objects if mask.any()]


def assert_same(found, expected):
    assert [(name, label) for name, label, _ in found] == [(name, label) for name, label, _ in expected]
    for (name, label, mask), (_, _, other) in zip(found, expected, strict=True):
        assert mask.shape == other.shape and np.array_equal(mask, other), (name, label)


# --- COCO ------------------------------------------------------------------------------------------------------------


def test_coco_gives_back_every_mask(images):
    content = json.loads(json.dumps(to_coco(images)))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    labels = {category["id"]: category["name"] for category in content["categories"]}
    assert labels == {1: "breast lesion", 2: "left atrium", 3: "thyroid nodule"} and len(names) == 4
    found = []
    for annotation in content["annotations"]:
        runs = coco.run_lengths(annotation["segmentation"]["counts"])
        height, width = annotation["segmentation"]["size"]
        mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
        found.append((names[annotation["image_id"]], labels[annotation["category_id"]], mask))
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box and annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
    assert_same(found, truth(images))
    assert [annotation["attributes"]["score"] for annotation in content["annotations"]] == [
        0.9,
        0.71234,
        0.5,
        1.01,
        0.2,
    ]
    assert "Not a medical device" in content["info"]["description"]


def test_coco_is_what_pycocotools_loads(images, tmp_path, capsys):
    from pycocotools.coco import COCO

    (tmp_path / "annotations.json").write_text(json.dumps(to_coco(images)))
    loaded = COCO(str(tmp_path / "annotations.json"))
    masks = [loaded.annToMask(annotation) for annotation in loaded.loadAnns(loaded.getAnnIds())]
    assert all(np.array_equal(mask, other) for mask, (_, _, other) in zip(masks, truth(images), strict=True))


def test_this_package_reads_its_own_coco_back(images, tmp_path):
    named = [image for image in images if image.file_name != "empty.png"]
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for image in named:
        Image.new("L", (image.width, image.height)).save(tmp_path / "images" / image.file_name)
    (tmp_path / "annotations_coco.json").write_text(json.dumps(to_coco(named)))
    cases = {(f"{case.name}.png", case.target): case.mask for case in read_cases(tmp_path, "coco")}
    expected = {(name, label): mask for name, label, mask in truth(images)}
    assert cases.keys() == expected.keys()
    assert all(np.array_equal(cases[key], mask) for key, mask in expected.items())


def test_an_image_where_nothing_was_found_is_read_back_as_empty(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    nothing = AnnotatedImage("a.png", 20, 30, [("left atrium", np.zeros((20, 30), dtype=bool), 0.0)])
    (tmp_path / "annotations.json").write_text(json.dumps(to_coco([nothing])))
    (case,) = read_cases(tmp_path, "coco")
    assert case.target == "left atrium" and case.mask.shape == (20, 30) and not case.mask.any()


def test_coco_without_pycocotools_names_the_extra(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r'in COCO needs pycocotools: pip install "ccsam-hf\[data\]"'):
        to_coco(images)


# --- Label Studio ----------------------------------------------------------------------------------------------------


def unpacked(content: list[int], size: tuple[int, int]) -> np.ndarray:
    """Alpha of Label Studio's runs over an RGBA picture, read bit by bit."""
    bits = iter(np.unpackbits(np.array(content, dtype=np.uint8)).tolist())

    def number(count: int) -> int:
        return int("".join(str(next(bits)) for _ in range(count)), 2)

    total, value_bits = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, length = number(1), number(sizes[number(2)]) + 1
        values += [number(value_bits)] * length if is_run else [number(value_bits) for _ in range(length)]
    assert len(values) == total and len(list(bits)) < 8
    channels = np.array(values).reshape(*size, 4)
    assert np.array_equal(channels, np.repeat(channels[..., 3:], 4, axis=2))
    return channels[..., 3]


def test_label_studio_gives_back_every_mask(images):
    tasks = json.loads(json.dumps(to_label_studio(images)))
    found = []
    for task, image in zip(tasks, images, strict=True):
        address, name = task["data"]["image"].split("?d=")
        assert address == "/data/local-files/" and unquote(name) == image.file_name
        for prediction in task["predictions"]:
            for region in prediction["result"]:
                size = region["original_height"], region["original_width"]
                assert (region["type"], region["value"]["format"], region["image_rotation"]) == (
                    "brushlabels",
                    "rle",
                    0,
                )
                alpha = unpacked(region["value"]["rle"], size)
                assert set(np.unique(alpha)) <= {0, 255}
                found.append((unquote(name), *region["value"]["brushlabels"], alpha == 255))
    assert_same(found, truth(images))


def test_label_studio_predictions_say_whose_and_how_sure(images):
    first, second, empty, last = to_label_studio(images, prefix="https://example.org/us/")
    assert second["data"]["image"] == "https://example.org/us/sub/b%20%C3%BC.png"
    assert empty["predictions"] == []  # a task to be labelled by hand
    (prediction,) = first["predictions"]
    assert prediction["model_version"].startswith("ccsam-hf ") and prediction["score"] == 0.71234
    assert len({region["id"] for region in prediction["result"]}) == 2
    assert last["predictions"][0]["score"] == 0.2


def test_the_labelling_interface_fits_the_tasks(images):
    view = ElementTree.fromstring(label_studio_config(["thyroid nodule", 'a "b" & <c>', "thyroid nodule"]))
    picture, brushes = view
    (task, *_) = to_label_studio(images)
    region = task["predictions"][0]["result"][0]
    assert picture.get("value") == "$image" and "image" in task["data"]
    assert (picture.get("name"), brushes.get("name")) == (region["to_name"], region["from_name"])
    assert brushes.tag.lower() == region["type"] and brushes.get("toName") == picture.get("name")
    assert [label.get("value") for label in brushes] == ['a "b" & <c>', "thyroid nodule"]
    assert len({label.get("background") for label in brushes}) == 2
    with pytest.raises(ValueError, match="expected at least one"):
        label_studio_config([])


# --- CVAT ------------------------------------------------------------------------------------------------------------


def test_cvat_gives_back_every_mask(images):
    root = ElementTree.fromstring(to_cvat(images).encode())
    assert root.find("version").text == "1.1"
    listed = [label.find("name").text for label in root.find("meta/task/labels")]
    assert listed == ["breast lesion", "left atrium", "thyroid nodule"]
    elements = root.findall("image")
    assert [int(element.get("id")) for element in elements] == [0, 1, 2, 3]
    found = []
    for element in elements:
        size = int(element.get("height")), int(element.get("width"))
        assert size == SIZES[element.get("name")]
        for shape in element.findall("mask"):
            left, top, width, height = (int(shape.get(key)) for key in ("left", "top", "width", "height"))
            lengths = [int(length) for length in shape.get("rle").split(",")]
            inside = [bit for i, length in enumerate(lengths) for bit in [i % 2] * length]
            mask = np.zeros(size, dtype=bool)
            mask[top : top + height, left : left + width] = np.reshape(inside, (height, width))
            found.append((element.get("name"), shape.get("label"), mask))
            assert shape.get("source") == "auto" and shape.get("occluded") == "0"
    assert_same(found, truth(images))
    scores = [attribute.text for attribute in root.iter("attribute") if attribute.get("name") == "score"]
    assert scores == ["0.9000", "0.7123", "0.5000", "1.0100", "0.2000"]


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [to_coco, to_label_studio, to_cvat])
def test_a_name_that_comes_twice_is_refused(images, write):
    with pytest.raises(ValueError, match=r"two images are called a\.png"):
        write([images[0], images[0]])


@pytest.mark.parametrize("write", [to_coco, to_label_studio, to_cvat])
def test_images_may_come_one_by_one(images, write):
    assert write(iter(images)) == write(images)


def test_a_mask_of_another_size_or_type_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 2\); expected bool and \(2, 3\)"):
        AnnotatedImage("a.png", 2, 3, [("cyst", np.ones((3, 2), dtype=bool), 1.0)])
    with pytest.raises(ValueError, match="type uint8"):
        AnnotatedImage("a.png", 2, 3, [("cyst", np.ones((2, 3), dtype=np.uint8), 1.0)])

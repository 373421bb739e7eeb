"""Accepted masks of many images -> files that labelling tools read: COCO, Label Studio and CVAT, pixel for pixel.

An image stands in every file, also where nothing was found in it; an object with an empty mask adds its label to the
list of labels and nothing else. For research. Not a medical device.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from .. import __version__
from ..checks import import_extra
from ..visualization import color_of

ANNOTATIONS = ("coco", "label-studio", "cvat")
LOCAL_FILES = "/data/local-files/?d="  # Label Studio's address of files below LOCAL_FILES_DOCUMENT_ROOT
RESEARCH_USE = "For research. Not a medical device."
MODEL_VERSION = f"ccsam-hf {__version__}"

LENGTH_BITS = (3, 4, 8, 16)  # sizes of a run's length in Label Studio's format, which its own files use
VALUE_BITS = 8


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and what was accepted in it.

    Args:
        file_name: path of the image below the folder that the labelling tool knows, with "/".
        height, width: of the image in pixels.
        objects: for each its label, mask (height, width) bool, and score; an empty mask is a label that was looked
            for and not found.
    """

    file_name: str
    height: int
    width: int
    objects: Sequence[tuple[str, np.ndarray, float]]

    def __post_init__(self):
        for label, mask, _ in self.objects:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.shape != (self.height, self.width):
                raise ValueError(
                    f"the mask of {label!r} in {self.file_name} has type {mask.dtype} and shape {mask.shape}; "
                    f"expected bool and {(self.height, self.width)}, the size of the image"
                )

    @property
    def found(self) -> list[tuple[str, np.ndarray, float]]:
        """The objects whose mask is not empty."""
        return [(label, np.asarray(mask), float(score)) for label, mask, score in self.objects if np.any(mask)]


def to_coco(images: Iterable[AnnotatedImage]) -> dict[str, Any]:
    """Instances in COCO's json format, which pycocotools, CVAT, FiftyOne and the layout "coco" of this package read.

    Each mask is one annotation with compressed run lengths and iscrowd 0. Polygons would not give back the same
    pixels, and iscrowd 1 would make evaluators ignore the object. Label Studio's own importer of COCO reads polygons
    alone: use `to_label_studio` there.

    Returns:
        Content of the json file; ids count from 1, categories in alphabetical order. "bbox" is x, y, width, height in
        pixels, "area" the number of pixels, "attributes" holds the score.

    Raises:
        ImportError: pycocotools is absent.
        ValueError: a file name stands twice.
    """
    coding = coco_masks()
    listed, annotations = [], []
    labels: set[str] = set()
    for image_id, image in enumerate(unique(images), start=1):
        listed.append({"id": image_id, "file_name": image.file_name, "height": image.height, "width": image.width})
        labels |= {label for label, _, _ in image.objects}
        for label, mask, score in image.found:
            encoded = coding.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,  # its number is known when all labels are
                    "segmentation": {"size": [image.height, image.width], "counts": encoded["counts"].decode()},
                    "area": int(coding.area(encoded)),
                    "bbox": coding.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                    "attributes": {"score": score},
                }
            )
    numbers = {label: number for number, label in enumerate(sorted(labels), start=1)}
    for annotation in annotations:
        annotation["category_id"] = numbers[annotation["category_id"]]
    return {
        "info": {"description": f"Masks of CC-SAM. {RESEARCH_USE}", "version": __version__},
        "images": listed,
        "annotations": annotations,
        "categories": [{"id": number, "name": label, "supercategory": ""} for label, number in numbers.items()],
    }


def coco_masks() -> Any:
    """The module of pycocotools that encodes masks; ImportError that says how it is installed."""
    return import_extra("pycocotools.mask", "data", "writing annotations in COCO")


def to_label_studio(images: Iterable[AnnotatedImage], prefix: str = LOCAL_FILES) -> list[dict[str, Any]]:
    """Tasks of Label Studio, in which the masks are predictions that a person accepts or corrects.

    Args:
        images: see `AnnotatedImage`.
        prefix: stands before each file name in "image": an address, or that of Label Studio's local files.

    Returns:
        Content of the json file to import into a project with the labelling interface of `label_studio_config`. Masks
        are brush regions in Label Studio's run lengths; the score of a prediction is that of its least sure object. An
        image without objects is a task without prediction.

    Raises:
        ValueError: a file name stands twice.
    """
    tasks = []
    for image in unique(images):
        regions = [
            {
                "id": f"object-{number}",
                "from_name": "label",
                "to_name": "image",
                "type": "brushlabels",
                "original_width": image.width,
                "original_height": image.height,
                "image_rotation": 0,
                "score": score,
                "value": {"format": "rle", "rle": label_studio_runs(mask), "brushlabels": [label]},
            }
            for number, (label, mask, score) in enumerate(image.found, start=1)
        ]
        score = min((region["score"] for region in regions), default=None)
        predictions = [{"model_version": MODEL_VERSION, "score": score, "result": regions}] if regions else []
        tasks.append({"data": {"image": prefix + quote(image.file_name)}, "predictions": predictions})
    return tasks


def label_studio_config(labels: Iterable[str]) -> str:
    """The labelling interface that the tasks of `to_label_studio` fit: a brush with a colour for each label.

    Args:
        labels: at least one; repeated ones count once.

    Returns:
        XML for the project's settings.

    Raises:
        ValueError: there is no label.
    """
    labels = sorted(set(labels))
    if not labels:
        raise ValueError("no label came; expected at least one: Label Studio refuses a brush without labels")
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true", zoomControl="true")
    brushes = ElementTree.SubElement(view, "BrushLabels", name="label", toName="image")
    for number, label in enumerate(labels):
        ElementTree.SubElement(
            brushes, "Label", value=label, background="#{:02x}{:02x}{:02x}".format(*color_of(number))
        )
    return xml_text(view)


def to_cvat(images: Iterable[AnnotatedImage]) -> str:
    """Masks in the XML of "CVAT for images 1.1".

    CVAT takes labels from the task: make it with those that <meta> lists. A score arrives where its label has a text
    attribute "score".

    Returns:
        Content of the XML file.

    Raises:
        ValueError: a file name stands twice.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    meta = ElementTree.SubElement(root, "meta")
    labels: set[str] = set()
    for number, image in enumerate(unique(images)):
        size = {"width": str(image.width), "height": str(image.height)}
        element = ElementTree.SubElement(root, "image", id=str(number), name=image.file_name, **size)
        labels |= {label for label, _, _ in image.objects}
        for label, mask, score in image.found:
            about = {"label": label, "source": "auto", "occluded": "0", "z_order": "0"}
            shape = ElementTree.SubElement(element, "mask", **about, **cvat_mask(mask))
            ElementTree.SubElement(shape, "attribute", name="score").text = f"{score:.4f}"
    described = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
    for label in sorted(labels):
        ElementTree.SubElement(ElementTree.SubElement(described, "label"), "name").text = label
    ElementTree.SubElement(meta, "source").text = f"{MODEL_VERSION}. {RESEARCH_USE}"
    return xml_text(root)


def cvat_mask(mask: np.ndarray) -> dict[str, str]:
    """A mask that is not empty as attributes of CVAT: its box, and the runs in it row by row, background first."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0], columns[0]
    inside = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    lengths, values = runs(inside.ravel())
    lengths = [0, *lengths] if values[0] else lengths
    box = {"left": left, "top": top, "width": inside.shape[1], "height": inside.shape[0]}
    return {"rle": ", ".join(map(str, lengths)), **{name: str(value) for name, value in box.items()}}


def label_studio_runs(mask: np.ndarray) -> list[int]:
    """A mask (H, W) bool as the bytes of Label Studio's run lengths.

    Source: the format that label-studio-sdk reads in `converter/brush.py`, a packing of bits, highest first: 32 bits
    for the number of values, 5 for the size of a value less 1, four times 4 for the sizes of a length less 1; then for
    each run a 1, 2 bits for which of the four sizes it uses, its length less 1, and its value. The values are those of
    an RGBA picture; the mask stands in all four channels as 0 or 255.
    """
    bits = [f"{mask.size * 4:032b}", f"{VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    longest = 2 ** LENGTH_BITS[-1]
    for length, value in zip(*runs(mask.ravel()), strict=True):
        remaining = length * 4
        while remaining:
            part = min(remaining, longest)
            which = next(i for i, size in enumerate(LENGTH_BITS) if part <= 2**size)
            bits.append(f"1{which:02b}{part - 1:0{LENGTH_BITS[which]}b}{255 * value:0{VALUE_BITS}b}")
            remaining -= part
    packed = np.packbits(np.frombuffer("".join(bits).encode(), dtype=np.uint8) - ord("0"))
    return packed.tolist()


def runs(values: np.ndarray) -> tuple[list[int], list[int]]:
    """Lengths and values (0 or 1) of the runs in a bool array (n,) with at least one value."""
    starts = np.flatnonzero(np.diff(values, prepend=~values[0]))
    return np.diff(starts, append=len(values)).tolist(), values[starts].astype(int).tolist()


def unique(images: Iterable[AnnotatedImage]) -> Iterator[AnnotatedImage]:
    """The images one by one; ValueError where a file name comes a second time."""
    seen: set[str] = set()
    for image in images:
        if image.file_name in seen:
            raise ValueError(f"two images are called {image.file_name}; expected each file name once")
        seen.add(image.file_name)
        yield image


def xml_text(root: ElementTree.Element) -> str:
    """An XML document, indented."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


__all__ = ["ANNOTATIONS", "AnnotatedImage", "label_studio_config", "to_coco", "to_cvat", "to_label_studio"]

"""The command `segment`: images, or folders of them, and a prompt -> masks, overlays, measurements and annotations."""

import argparse
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image

from ..data.cases import IMAGE_EXTENSIONS
from ..decoded import check_threshold
from ..descriptions import split_targets, to_phrase
from ..files import replace_file
from ..formats.annotations import (
    AnnotatedImage,
    coco_masks,
    label_studio_config,
    to_coco,
    to_cvat,
    to_label_studio,
)
from ..formats.dicom_headers import dicom_bytes
from ..formats.dicom_seg import masks_dicom_seg
from ..formats.mask_files import UNNAMED, check_formats, mask_png, png_bytes, results_json
from ..formats.nifti import masks_nifti
from ..formats.secondary_capture import secondary_capture
from ..image_files import is_dicom, is_dicom_without_image, read_image, stem_of
from ..measurements import check_spacing
from ..objects import count_parts
from ..pipeline_ccsam import CCSamPipeline
from ..pixel_spacing import PixelSpacing
from ..results import SegmentationResult
from ..visualization import heatmap, overlay, to_rgb


@dataclass(frozen=True)
class ImagePath:
    """An image to segment.

    Attributes:
        path: of its file.
        name: its path below the folder that was given, with "/"; the file's name where it was given itself.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Accepted:
    """What was found in an image, small enough to be kept until all images are done.

    Attributes:
        name: of the picture that labelling tools show.
        size: (height, width).
        objects: for each its label, PNG mask and score.
    """

    name: str
    size: tuple[int, int]
    objects: list[tuple[str, bytes, float]]


def segment(arguments: argparse.Namespace) -> None:
    """Write masks, overlay and JSON of every image; all input is checked before the first is segmented."""
    check_spacing(arguments.spacing)
    if arguments.threshold is not None:
        check_threshold(arguments.threshold)
    check_formats(arguments.format)
    if "coco" in arguments.annotations:
        coco_masks()
    images, others = list_images(arguments.image, arguments.output)
    check_files([image.path for image in images], arguments.output)
    prompts, grounding = prompts_of(arguments), grounding_of(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    machine = {"device": arguments.device, "dtype": arguments.dtype}
    given = {name: value for name, value in machine.items() if value is not None}
    pipe = CCSamPipeline.from_pretrained(arguments.model, arguments.grounder, **given)
    for image in images:
        check_input(pipe, image.path, arguments.frame, prompts, arguments.format)
    for other in others:
        print(f"{other}: no image, passed over", file=sys.stderr)
    accepted = [segment_image(pipe, image, arguments, prompts, grounding) for image in images]
    if arguments.annotations:
        files = annotation_files(accepted, arguments.annotations, arguments.image_prefix)
        write_together(arguments.output, files)
        without = [image.file_name for image in annotated(accepted) if not image.found]
        print(f"{len(accepted)} image(s), {len(without)} without objects, in {', '.join(files)}")
        for name in without:
            print(f"without objects: {name}")


def segment_image(
    pipe: CCSamPipeline,
    image_path: ImagePath,
    arguments: argparse.Namespace,
    prompts: dict[str, list],
    grounding: dict[str, Any],
) -> Accepted:
    """Write the files of one image and say what was found in it."""
    path = image_path.path
    image, spacing_of_file = read_image(path, arguments.frame)
    spacing_mm = arguments.spacing or spacing_of_file
    results = pipe(
        image,
        **prompts,
        **grounding,
        num_samples=arguments.num_samples,
        spacing_mm=spacing_mm,
        threshold=arguments.threshold,
        keep=arguments.keep,
    )
    files = segment_files(stem_of(path), image, results, prompts)
    names = mask_names(stem_of(path), len(results))
    objects = [
        (result.label or UNNAMED, files[name], result.score) for result, name in zip(results, names, strict=True)
    ]
    if "nifti" in arguments.format:
        files[f"{stem_of(path)}_masks.nii.gz"] = masks_nifti([result.mask for result in results], spacing_mm)
    if "dicom-seg" in arguments.format:
        files |= dicom_files(path, arguments.frame or 0, image, results, spacing_mm)
    name = image_path.name
    if arguments.annotations and not is_plain(path, arguments.frame):
        name = f"{stem_of(path)}_image.png"
        files[name] = png_bytes(image if image.mode == "L" else to_rgb(image))
    write_together(arguments.output, files)
    for result in results:
        if result.reason is not None:
            print(f"{path}: {result.reason}")
        if (parts := count_parts(result.mask)) > 1:
            print(f"{path}: the mask of {result.label or UNNAMED!r} is in {parts} parts; --keep largest keeps one")
    found = sum(result.box is not None for result in results)
    print(f"{path}: {found} object(s) in {arguments.output / stem_of(path)}.json")
    return Accepted(name, (image.height, image.width), objects)


def list_images(paths: Sequence[Path], output: Path) -> tuple[list[ImagePath], list[Path]]:
    """The images among files and in folders, and the files in folders that are none; hidden files do not count.

    Raises:
        ValueError: a folder without an image, or one that holds the output, which a second call would read.
    """
    images, others = [], []
    for given in paths:
        if not given.is_dir():
            images.append(ImagePath(given, given.name))
            continue
        if output.resolve().is_relative_to(given.resolve()):
            raise ValueError(f"--output {output} lies in {given}, whose images are segmented; expected another folder")
        names = sorted(path.relative_to(given) for path in given.rglob("*") if path.is_file())
        shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        found = [ImagePath(given / name, name.as_posix()) for name in shown if is_image(given / name)]
        if not found:
            raise ValueError(f"{given} holds no image; expected PNG, JPEG, TIFF, BMP or DICOM files in it or below")
        images += found
        others += [given / name for name in shown if not is_image(given / name)]
    return images, others


def is_image(path: Path) -> bool:
    """Whether a file is taken for an image: by its extension, or as DICOM that holds one."""
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return True
    return is_dicom(path) and path.stem != "DICOMDIR" and not is_dicom_without_image(path)


def is_plain(path: Path, frame: int | None) -> bool:
    """Whether labelling tools show a file as it is read here: its first frame, of 8 bits, not turned by EXIF."""
    if frame or is_dicom(path):
        return False
    with Image.open(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return image.format in ("PNG", "JPEG", "BMP") and not image.mode.startswith("I") and not turned


def dicom_files(
    path: Path,
    frame: int,
    image: Image.Image,
    results: list[SegmentationResult],
    spacing_mm: tuple[float, float] | PixelSpacing | None,
) -> dict[str, bytes]:
    """The DICOM Segmentation of an image, and the image as a Secondary Capture where it is no DICOM file."""
    masks, labels = [result.mask for result in results], [result.label for result in results]
    if is_dicom(path):
        return {f"{stem_of(path)}_seg.dcm": masks_dicom_seg(masks, labels, path, frame)}
    capture = secondary_capture(image, spacing_mm, name=stem_of(path))
    return {
        f"{stem_of(path)}_seg.dcm": masks_dicom_seg(masks, labels, capture),
        f"{stem_of(path)}_image.dcm": dicom_bytes(capture),
    }


def annotation_files(accepted: Sequence[Accepted], kinds: Sequence[str], prefix: str) -> dict[str, bytes]:
    """Names and contents of the files for labelling tools."""
    files = {}
    if "coco" in kinds:
        files["annotations_coco.json"] = (json.dumps(to_coco(annotated(accepted))) + "\n").encode()
    if "label-studio" in kinds:
        tasks = to_label_studio(annotated(accepted), prefix)
        files["annotations_label_studio.json"] = (json.dumps(tasks) + "\n").encode()
        labels = [label for image in accepted for label, _, _ in image.objects]
        files["label_config.xml"] = label_studio_config(labels).encode()
    if "cvat" in kinds:
        files["annotations_cvat.xml"] = to_cvat(annotated(accepted)).encode()
    return files


def annotated(accepted: Sequence[Accepted]) -> Iterator[AnnotatedImage]:
    """The images with their masks, decoded one image at a time."""
    for image in accepted:
        decoded = [(label, np.asarray(Image.open(io.BytesIO(png))) > 0, score) for label, png, score in image.objects]
        yield AnnotatedImage(image.name, *image.size, decoded)


def check_files(paths: Sequence[Path], output: Path) -> None:
    """Raise ValueError for two images whose results would have one name, or an output that is a file."""
    by_stem: dict[str, Path] = {}
    for path in paths:
        if stem_of(path) in by_stem:
            raise ValueError(
                f"{by_stem[stem_of(path)]} and {path} would both write {stem_of(path)}_mask.png; expected different "
                "file names: run the command once for each, with an --output of its own"
            )
        by_stem[stem_of(path)] = path
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; expected a folder, new or existing")


def prompts_of(arguments: argparse.Namespace) -> dict[str, list]:
    """The prompt options as arguments of the pipeline.

    Raises:
        ValueError: no prompt, a text that is none or stands beside other prompts, or points beside several boxes.
    """
    prompts = {}
    if arguments.text:
        if arguments.box or arguments.point:
            raise ValueError("--text came with --box or --point; expected one or the other: a text finds its own box")
        prompts["text"] = split_targets(arguments.text)
        for text in prompts["text"]:
            to_phrase(text)
    if arguments.box:
        prompts["boxes"] = arguments.box
    if arguments.point:
        prompts["points"] = [[[x, y] for x, y, _ in arguments.point]]
        prompts["labels"] = [[label for _, _, label in arguments.point]]
    if not prompts:
        raise ValueError(
            "no prompt was given; expected --text T, or --box X0 Y0 X1 Y1 or --point X Y LABEL in pixels of the image"
        )
    if len(arguments.box or []) > 1 and arguments.point:
        raise ValueError(
            f"{len(arguments.box)} boxes came with points; all points mark one object: give at most one --box "
            "beside them"
        )
    return prompts


def grounding_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that belong to texts, as arguments of the pipeline; ValueError where they come without a text."""
    options = {
        "grounder": arguments.grounder,
        "form": arguments.form,
        "box_threshold": arguments.box_threshold,
        "every_instance": arguments.every_instance or None,
        "fallback": arguments.fallback,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if given and not arguments.text:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{names} came without --text, which alone uses it")
    given.pop("grounder", None)
    return given


def check_input(
    pipe: CCSamPipeline, path: Path, frame: int | None, prompts: dict[str, list], formats: Sequence[str]
) -> None:
    """Raise ValueError, with the file's name, for an image or a prompt that cannot be used, or not in a format."""
    image, _ = read_image(path, frame)
    named = {"boxes": "input_boxes", "points": "input_points", "labels": "input_labels"}
    try:
        pipe.processor(image, **{named[name]: value for name, value in prompts.items() if name in named})
        if "dicom-seg" in formats and is_dicom(path):
            masks_dicom_seg(np.zeros((1, image.height, image.width), dtype=bool), [None], path, frame or 0)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def segment_files(
    stem: str, image: Image.Image, results: list[SegmentationResult], prompts: dict[str, list]
) -> dict[str, bytes]:
    """Names and contents of the files that belong to one image."""
    names = mask_names(stem, len(results))
    masks = [result.mask for result in results]
    files = {name: mask_png(mask) for name, mask in zip(names, masks, strict=True)}
    boxes = [result.box for result in results] if "text" in prompts else prompts.get("boxes")
    drawn = overlay(image, masks, boxes, prompts.get("points"), prompts.get("labels"))
    files[f"{stem}_overlay.png"] = png_bytes(drawn)
    if results[0].uncertainty is not None:
        files[f"{stem}_uncertainty.png"] = png_bytes(heatmap(image, np.max([r.uncertainty for r in results], axis=0)))
    files[f"{stem}.json"] = (json.dumps(results_json(results, names), indent=2) + "\n").encode()
    return files


def mask_names(stem: str, count: int) -> list[str]:
    """File names of the masks of one image."""
    return [f"{stem}_mask.png"] if count == 1 else [f"{stem}_mask_{i}.png" for i in range(count)]


def write_together(directory: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, made where it is missing: first all under other names, then all are renamed."""
    with ExitStack() as stack:
        for name, content in files.items():
            stack.enter_context(replace_file(directory / name)).write_bytes(content)

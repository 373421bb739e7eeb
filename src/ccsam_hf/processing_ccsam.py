"""Image + boxes or points in the image's own pixels -> model inputs (CCSamProcessor).

Names and shapes are those of transformers' SAM. Departures: prompts may be lists, arrays or tensors; every ragged
batch is padded; coordinates are float32; prompts that cannot be meant as pixels of the image are refused.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import ImageInput

from .geometry import check_boxes, check_points, rescale_boxes, rescale_points

PAD_VALUE = -10  # SAM's: a point with this label has no effect
PROMPT_LABELS = (0, 1, -1, PAD_VALUE)


class CCSamProcessor(ProcessorMixin):
    """Turn images with prompts into the inputs of [`CCSamModel`], and its masks back to the images' own size.

    Nesting of prompts, from the outside in, for B images with P objects of N points:

    | argument | full nesting | with one image also |
    |---|---|---|
    | `input_boxes` | (B, P, 4) | (P, 4); (4,) one box |
    | `input_points` | (B, P, N, 2) | (P, N, 2); (N, 2) points of one object; (2,) one point |
    | `input_labels` | (B, P, N) | (P, N); (N,); a number: always `input_points` without its last axis |

    P may differ between images and N between objects: short ones are padded with -10 (coordinates and labels). A
    padded point has no effect. A padded object gives a mask without meaning: drop those whose box or whose labels are
    all -10. With boxes and points each object has both.

    Args:
        image_processor: [`CCSamImageProcessor`].
    """

    def __init__(self, image_processor):
        super().__init__(image_processor)

    def push_to_hub(self, repo_id: str, *, private: bool | None = True, **kwargs) -> str:
        """As in transformers, but a new repository is private unless `private=False`."""
        return super().push_to_hub(repo_id, private=private, **kwargs)

    def __call__(
        self,
        images: ImageInput,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        segmentation_maps: ImageInput | None = None,
        text: Any = None,
        **kwargs,
    ) -> BatchFeature:
        """Prepare one image or a batch, with its prompts.

        Args:
            images: see [`CCSamImageProcessor`].
            input_points: (x, y) pixels of the original image, 0 <= x < width and 0 <= y < height.
            input_labels: 1 for a point inside the object, 0 outside; -1 and -10 mark points to ignore. Left out, every
                point is inside.
            input_boxes: x0, y0, x1, y1 pixels of the original image, 0 <= x0 < x1 <= width, 0 <= y0 < y1 <= height;
                edges, so x1 and y1 are exclusive.
            segmentation_maps: masks for training, see `CCSamImageProcessor.preprocess`.
            text: not for the processor, see Raises.
            kwargs: settings of the image processor for this call; `return_tensors` is "pt" (default) or "np".

        Returns:
            pixel_values (B, 3, 256, 256), original_sizes (B, 2) and, where given, input_points (B, P, N, 2),
            input_labels (B, P, N) int64, input_boxes (B, P, 4), labels (B, P, 256, 256). Coordinates are float32
            pixels of the 256x256 input.

        Raises:
            TypeError: something that is no image or no number.
            ValueError: images, prompts or shapes that are not accepted, or a text.
        """
        refuse_text(text)
        return_tensors = kwargs.pop("return_tensors", "pt")
        encoding = self.image_processor(images, segmentation_maps=segmentation_maps, return_tensors="pt", **kwargs)
        image_sizes = [tuple(size) for size in encoding["original_sizes"].tolist()]
        input_size = tuple(encoding["pixel_values"].shape[-2:])
        encoding.update(prepare_prompts(image_sizes, input_size, input_points, input_labels, input_boxes))
        return BatchFeature(dict(encoding), tensor_type=return_tensors)

    def post_process_masks(self, *args, **kwargs) -> list[Tensor]:
        """Masks at the size of each image: `CCSamImageProcessor.post_process_masks`."""
        return self.image_processor.post_process_masks(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` returns for the model, and the sizes that `post_process_masks` needs."""
        return ["pixel_values", "input_points", "input_labels", "input_boxes", "labels", "original_sizes"]


def refuse_text(text: Any) -> None:
    """Raise ValueError where a text prompt is given."""
    if text is not None:
        raise ValueError(
            f"text={text!r} was given; the processor takes boxes (x0, y0, x1, y1) and points (x, y) with labels, in "
            "pixels of the image: CCSamPipeline and TextGrounder find the box of a text"
        )


def prepare_prompts(
    image_sizes: list[tuple[int, int]],
    input_size: tuple[int, int],
    input_points: Any = None,
    input_labels: Any = None,
    input_boxes: Any = None,
) -> dict[str, Tensor]:
    """Check prompts, pad them and move them to the input frame; `CCSamProcessor` states nesting, ranges and errors.

    Args:
        image_sizes: (height, width) of each image.
        input_size: (height, width) of the model input.
        input_points, input_labels, input_boxes: as `CCSamProcessor.__call__` takes them.

    Returns:
        Those of input_points, input_labels and input_boxes that were given.
    """
    prompts = {}
    if input_labels is not None and input_points is None:
        raise ValueError("input_labels came without input_points; a label belongs to a point: give both")
    if input_points is not None:
        points = nest(input_points, 4, "input_points", "(x, y)", len(image_sizes))
        labels = nest_labels(input_labels, points, depth(to_lists(input_points, "input_points")), len(image_sizes))
        prompts["input_points"], prompts["input_labels"] = pad_points(points, labels, image_sizes, input_size)
    if input_boxes is not None:
        boxes = nest(input_boxes, 3, "input_boxes", "(x0, y0, x1, y1)", len(image_sizes))
        prompts["input_boxes"] = pad_boxes(boxes, image_sizes, input_size)
    if input_points is not None and input_boxes is not None:
        counts = [len(objects) for objects in points], [len(objects) for objects in boxes]
        if counts[0] != counts[1]:
            raise ValueError(
                f"the images have {counts[0]} objects in input_points and {counts[1]} in input_boxes; expected a "
                "box and points for each object: (num_prompts, num_points, 2) beside (num_prompts, 4)"
            )
    return prompts


def pad_points(
    points: list, labels: list, image_sizes: list[tuple[int, int]], input_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Nested points and labels as (B, P, N, 2) float32 in the input frame and (B, P, N) int64."""
    num_prompts = max(len(objects) for objects in points)
    num_points = max(len(object_points) for objects in points for object_points in objects)
    padded_points = torch.full((len(points), num_prompts, num_points, 2), float(PAD_VALUE))
    padded_labels = torch.full((len(points), num_prompts, num_points), PAD_VALUE)
    for i, image_size in enumerate(image_sizes):
        for j, (object_points, object_labels) in enumerate(zip(points[i], labels[i], strict=True)):
            xy, is_inside = torch.tensor(object_points), torch.tensor(object_labels)
            real = is_inside >= 0
            check_points(xy[real], image_size)
            padded_labels[i, j, : len(xy)] = is_inside.long()
            padded_points[i, j, : len(xy)][real] = rescale_points(xy[real], image_size, input_size)
    return padded_points, padded_labels


def pad_boxes(boxes: list, image_sizes: list[tuple[int, int]], input_size: tuple[int, int]) -> Tensor:
    """Nested boxes as (B, P, 4) float32 in the input frame."""
    padded_boxes = torch.full((len(boxes), max(len(objects) for objects in boxes), 4), float(PAD_VALUE))
    for i, image_size in enumerate(image_sizes):
        boxes_xyxy_image = torch.tensor(boxes[i])
        check_boxes(boxes_xyxy_image, image_size)
        padded_boxes[i, : len(boxes[i])] = rescale_boxes(boxes_xyxy_image, image_size, input_size)
    return padded_boxes


def nest(value: Any, full_depth: int, name: str, item: str, num_images: int) -> list:
    """Bring a prompt to its full nesting, image first, and check the innermost length.

    Raises:
        TypeError: something that is no number.
        ValueError: an empty or uneven nesting, a wrong number of axes or values, or another number of images.
    """
    nested = to_lists(value, name)
    axes = "(batch_size, num_prompts, num_points, 2)" if full_depth == 4 else "(batch_size, num_prompts, 4)"
    given = depth(nested)
    if not 1 <= given <= full_depth:
        raise ValueError(f"{name} has {given} levels of nesting; expected {axes}, or fewer levels for one image")
    if given < full_depth and num_images > 1:
        raise ValueError(
            f"{name} has {given} levels of nesting for {num_images} images; expected {axes}: one list an image"
        )
    for _ in range(full_depth - given):
        nested = [nested]
    if len(nested) != num_images:
        raise ValueError(
            f"{name} holds prompts of {len(nested)} images, but {num_images} came; expected {axes} with batch_size "
            f"{num_images}"
        )
    length = item.count(",") + 1
    for numbers in innermost(nested):
        if len(numbers) != length:
            raise ValueError(f"{name} holds {tuple(numbers)} with {len(numbers)} values; expected {item}: {axes}")
    return nested


def nest_labels(input_labels: Any, points: list, points_depth: int, num_images: int) -> list:
    """Labels in the nesting (B, P, N) of their points; without labels every point is inside."""
    if input_labels is None:
        return [[[1.0] * len(object_points) for object_points in objects] for objects in points]
    labels = to_lists(input_labels, "input_labels")
    if depth(labels) != points_depth - 1:
        raise ValueError(
            f"input_labels has {depth(labels)} levels of nesting; expected {points_depth - 1}, those of input_points "
            "without the coordinates: one label for each point"
        )
    for _ in range(4 - points_depth):
        labels = [labels]
    expected = [[len(object_points) for object_points in objects] for objects in points]
    found = [[len(object_labels) for object_labels in objects] for objects in labels]
    if found != expected:
        raise ValueError(
            f"input_labels holds {found} labels (image, object) and input_points {expected} points; expected one "
            "label for each point"
        )
    wrong = [value for numbers in innermost(labels) for value in numbers if value not in PROMPT_LABELS]
    if wrong:
        raise ValueError(
            f"input_labels holds {wrong[0]:g}; expected 1 (inside the object) or 0 (outside), -1 or {PAD_VALUE} for a "
            "point to ignore"
        )
    return labels


def to_lists(value: Any, name: str) -> Any:
    """Tensors, arrays, tuples and numbers as nested lists of floats.

    Raises:
        TypeError: something that is no number.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy() if value.dtype != torch.bfloat16 else value.float().cpu().numpy()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_lists(item, name) for item in value]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(
            f"{name} holds {value!r} of type {type(value).__name__}; expected numbers in nested lists, an array or "
            "a tensor"
        )
    return float(value)


def depth(nested: Any) -> int:
    """Levels of nesting; ValueError where a list is empty or its items are nested unevenly."""
    if not isinstance(nested, list):
        return 0
    depths = {depth(item) for item in nested}
    if len(depths) != 1:
        problem = "an empty list" if not depths else "numbers and lists side by side"
        raise ValueError(
            f"a prompt holds {problem}; expected every object to be nested alike and to have at least one box or "
            "point: leave the argument out where there is no prompt"
        )
    return 1 + depths.pop()


def innermost(nested: list) -> list[list[float]]:
    """The lists of numbers at the bottom of a nesting."""
    if not isinstance(nested[0], list):
        return [nested]
    return [numbers for item in nested for numbers in innermost(item)]


CCSamProcessor.register_for_auto_class()

__all__ = ["CCSamProcessor"]

"""Image -> pixel_values, masks -> labels, and low-resolution mask logits -> masks at the image's own size.

Source: SAMUS, `utils/data_us.py`: images are read as grey, resized to 256x256 without keeping the aspect, bilinear,
masks nearest, and scaled to [0, 1] without further normalisation. SAMUS resizes PIL images, whose bilinear filter
averages when it shrinks; `antialias=True` is that filter, here without PIL's rounding to whole grey levels. Without it
speckle would fold into false texture.
"""

from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import ImageInput, PILImageResampling
from transformers.utils import TensorType, logging

from .geometry import resize_maps, resize_masks, resize_smoothly

logger = logging.get_logger(__name__)

ACCEPTED_TYPES = "uint8, uint16, bool, or float with values in [0, 1]"
ACCEPTED_IMAGES = "a PIL image, a numpy array or a torch tensor, or a list of them"
CHANNEL_COUNTS = (1, 3, 4)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL and OpenCV turn colour to grey
LIBRARY_KEYS = {"auto_map", "image_processor_type", "processor_class"}  # what transformers itself saves and passes
INTERPOLATION = {
    PILImageResampling.NEAREST: InterpolationMode.NEAREST_EXACT,
    PILImageResampling.BILINEAR: InterpolationMode.BILINEAR,
    PILImageResampling.BICUBIC: InterpolationMode.BICUBIC,
}


class CCSamImageProcessorKwargs(TypedDict, total=False):
    """Settings of [`CCSamImageProcessor`]; each can be given at construction or for one call.

    Args:
        size: {"height", "width"} of the model input.
        resample: PIL's number of the filter for images: 0 nearest, 2 bilinear, 3 bicubic.
        do_convert_grayscale: turn colour to grey (ITU-R BT.601) and copy it to 3 channels, so that a coloured overlay
            or a tinted map looks to the model like the grey images of its training. Off, colour stays colour.
        do_normalize: subtract `image_mean` and divide by `image_std`, three values each, on values in [0, 1]. Off by
            default: the model trains on [0, 1], and its CNN branch normalises for itself.
        return_tensors: "pt" (default) or "np".
    """

    size: dict[str, int] | None
    resample: int | None
    do_convert_grayscale: bool | None
    do_normalize: bool | None
    image_mean: list[float] | tuple[float, ...] | None
    image_std: list[float] | tuple[float, ...] | None
    return_tensors: str | TensorType | None


class CCSamImageProcessor(TorchvisionBackend):
    """Turn images of any size and common type into the model's input, and the model's masks back.

    Accepted images: PIL images of any mode; numpy arrays (H, W), (H, W, 1 | 3 | 4) or (1 | 3 | 4, H, W); torch tensors
    (H, W) or (1 | 3 | 4, H, W) or channels last; lists of these, and stacks with one more axis in front. Where both
    ends of a shape could be channels, a numpy array has them last and a tensor first. A fourth channel is alpha and is
    dropped. Integers are divided by the largest value of their type (255, 65535; 12-bit data must be scaled before),
    floats must lie in [0, 1].

    Args:
        kwargs: see [`CCSamImageProcessorKwargs`].
    """

    valid_kwargs = CCSamImageProcessorKwargs
    model_input_names = ["pixel_values"]
    size = {"height": 256, "width": 256}
    resample = PILImageResampling.BILINEAR
    do_convert_grayscale = True
    do_normalize = False
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        unknown = sorted(set(kwargs) - set(self.valid_kwargs.__annotations__) - LIBRARY_KEYS)
        if unknown:
            logger.warning(f"CCSamImageProcessor has no setting {', '.join(unknown)}: it changes nothing")
        check_settings(self.input_size, self.resample, self.image_mean, self.image_std)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of `pixel_values`."""
        return self.size.height, self.size.width

    def preprocess(self, images: ImageInput, segmentation_maps: ImageInput | None = None, **kwargs) -> BatchFeature:
        """Prepare images, and for training their masks.

        Args:
            images: one image, or a list of B images of any sizes.
            segmentation_maps: for each image a mask (H0, W0), or (P, H0, W0) for P objects, of its image's own size;
                any value above zero is inside. One PIL image or one array serves one image.
            kwargs: settings for this call, see [`CCSamImageProcessorKwargs`].

        Returns:
            pixel_values (B, 3, 256, 256) float32 in [0, 1] (before normalisation), original_sizes (B, 2) int64, height
            and width, and with `segmentation_maps` labels (B, P, 256, 256) float32 in {0, 1}.

        Raises:
            TypeError: something that is no image, or an array of a type that is not accepted.
            ValueError: no image, no pixels, NaN or infinity, floats outside [0, 1], shapes that do not fit.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None,
        size: dict,
        resample: int,
        do_convert_grayscale: bool,
        do_normalize: bool,
        image_mean: tuple[float, ...],
        image_std: tuple[float, ...],
        return_tensors: str | TensorType | None,
        **kwargs,
    ) -> BatchFeature:
        input_size = size.height, size.width
        check_settings(input_size, resample, image_mean, image_std)
        image_list = [to_unit_image(image) for image in as_list(images)]
        original_sizes = [tuple(image.shape[-2:]) for image in image_list]
        pixel_values = []
        for image in image_list:
            image = to_three_channels(image, do_convert_grayscale)
            image = tvF.resize(image, input_size, interpolation=INTERPOLATION[resample], antialias=True).clamp(0, 1)
            pixel_values.append(tvF.normalize(image, image_mean, image_std) if do_normalize else image)
        data = {"pixel_values": torch.stack(pixel_values), "original_sizes": torch.tensor(original_sizes)}
        if segmentation_maps is not None:
            data["labels"] = make_labels(segmentation_maps, original_sizes, input_size)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def post_process_masks(
        self,
        pred_masks: Tensor | list[Tensor],
        original_sizes: Tensor | list[tuple[int, int]],
        mask_threshold: float = 0.0,
        binarize: bool = True,
        smooth: bool = False,
    ) -> list[Tensor]:
        """Bring the model's masks to the size of each image, in one bilinear step, and threshold them there.

        Args:
            pred_masks: (B, P, M, h, w) logits; with `binarize=False` probabilities too.
            original_sizes: (B, 2), height and width of each image.
            mask_threshold: logits above it are inside; 0 is probability one half.
            binarize: False returns the resized values.
            smooth: for logits, `geometry.resize_smoothly` in place of the bilinear step, as the pipeline does it.

        Returns:
            B tensors (P, M, H0, W0), bool or float32.

        Raises:
            ValueError: shapes that do not fit.
        """
        sizes = [tuple(int(side) for side in size) for size in original_sizes]
        if len(pred_masks) != len(sizes):
            raise ValueError(
                f"pred_masks holds {len(pred_masks)} images and original_sizes {len(sizes)}; expected one for each"
            )
        masks = []
        for mask_logits, size in zip(pred_masks, sizes, strict=True):
            if mask_logits.ndim != 4:
                raise ValueError(
                    f"pred_masks of an image has shape {tuple(mask_logits.shape)}; expected (num_prompts, num_masks, "
                    "height, width), so pred_masks as the model returns it has 5 axes"
                )
            resized = resize_smoothly(mask_logits, size) if smooth else resize_maps(mask_logits, size)
            masks.append(resized > mask_threshold if binarize else resized)
        return masks


def check_settings(
    input_size: tuple[int | None, int | None],
    resample: int,
    image_mean: tuple[float, ...],
    image_std: tuple[float, ...],
) -> None:
    """Raise ValueError for settings that no image could be prepared with."""
    if not all(input_size):
        raise ValueError("size must hold height and width in pixels: {'height': 256, 'width': 256}")
    if resample not in INTERPOLATION:
        raise ValueError(
            f"resample={resample} is not one of {sorted(map(int, INTERPOLATION))}: nearest, bilinear, bicubic"
        )
    for name, values in (("image_mean", image_mean), ("image_std", image_std)):
        if len(values) != 3:
            raise ValueError(f"{name}={values} must hold one value for each of 3 channels")
    if min(image_std) <= 0:
        raise ValueError(f"image_std={image_std} must be above zero")


def as_list(images: ImageInput) -> list[Image.Image | np.ndarray | Tensor]:
    """One image, a stack or a list of images as a list.

    Raises:
        TypeError: something that is no image.
        ValueError: an empty list.
    """
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, (list, tuple)):
        images = [images]
    if len(images) == 0:
        raise ValueError(f"no image was given; expected {ACCEPTED_IMAGES}")
    for image in images:
        if not isinstance(image, (Image.Image, np.ndarray, Tensor)):
            hint = ": open files first, with PIL or ccsam_hf.image_files" if isinstance(image, (str, bytes)) else ""
            raise TypeError(f"an image is of type {type(image).__name__}; expected {ACCEPTED_IMAGES}{hint}")
    return list(images)


def to_unit_image(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """One image as float32 in [0, 1], (1 | 3, H0, W0); see [`CCSamImageProcessor`] for what is accepted."""
    channels_last = not isinstance(image, Tensor)
    if isinstance(image, Image.Image):
        image = pil_to_array(image)
    if image.ndim not in (2, 3):
        raise ValueError(
            f"an image has shape {tuple(image.shape)}; expected (height, width) or three axes with 1, 3 or 4 channels"
        )
    if 0 in image.shape:
        raise ValueError(f"an image has shape {tuple(image.shape)}, so it has no pixels; expected at least one")
    values = to_unit_range(image)
    values = values[None] if values.ndim == 2 else channels_first(values, channels_last)
    return values[:3] if len(values) == 4 else values


def pil_to_array(image: Image.Image) -> np.ndarray:
    """Pixels of a PIL image of any mode: (H, W) for grey, bool, 16-bit and float modes, (H, W, 3) for the others."""
    if image.mode in ("1", "L", "F", "RGB") or image.mode.startswith("I;16"):
        return np.asarray(image)
    if image.mode == "I":
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(
                f"a 32-bit PIL image has values {values.min()} to {values.max()}; expected 16-bit values, 0 to 65535"
            )
        return values.astype(np.uint16)
    return np.asarray(image.convert("L" if image.mode == "LA" else "RGB"))


def to_unit_range(image: np.ndarray | Tensor) -> Tensor:
    """Values as float32 in [0, 1]: integers over the largest value of their type, floats as they are.

    Raises:
        TypeError: another type.
        ValueError: NaN, infinity or floats outside [0, 1].
    """
    if isinstance(image, np.ndarray):
        if image.dtype.kind not in "buf" or image.dtype.itemsize > 8:
            raise TypeError(f"an image has type {image.dtype}; expected {ACCEPTED_TYPES}")
        native = image.dtype.newbyteorder("=")  # TIFF files may be big-endian, which torch does not take
        image = torch.from_numpy(np.array(image, dtype=native))
    if image.dtype == torch.bool:
        return image.float()
    if image.dtype in (torch.uint8, torch.uint16):
        values = image.float()
        if image.dtype == torch.uint16 and values.max() < 4096:
            logger.warning(
                f"a 16-bit image has no value above {int(values.max())}, so it will look nearly black: scale 12-bit "
                "data to the 16-bit range first"
            )
        return values / torch.iinfo(image.dtype).max
    if not image.is_floating_point():
        raise TypeError(f"an image has type {str(image.dtype).removeprefix('torch.')}; expected {ACCEPTED_TYPES}")
    values = image.float()
    if not bool(values.isfinite().all()):
        raise ValueError("an image holds NaN or infinity; expected finite values in [0, 1]: replace them first")
    low, high = values.min().item(), values.max().item()
    if low < -1e-5 or high > 1 + 1e-5:  # the margin is for the rounding of earlier steps
        hint = ": divide by 255 or pass uint8" if low >= 0 and high <= 255 else ""
        raise ValueError(f"a float image has values {low:.4g} to {high:.4g}; expected [0, 1]{hint}")
    return values


def channels_first(image: Tensor, prefer_last: bool) -> Tensor:
    """Move the channel axis of a three-dimensional image, the one of length 1, 3 or 4, to the front."""
    first, last = image.shape[0] in CHANNEL_COUNTS, image.shape[-1] in CHANNEL_COUNTS
    if not first and not last:
        raise ValueError(
            f"an image has shape {tuple(image.shape)}; expected 1, 3 or 4 channels on the first or the last axis: "
            "pass several grey images as a list"
        )
    return image.movedim(-1, 0) if last and (prefer_last or not first) else image


def to_three_channels(image: Tensor, do_convert_grayscale: bool) -> Tensor:
    """(1 | 3, H, W) to (3, H, W): grey copied three times, or with `do_convert_grayscale=False` colour as it is."""
    if len(image) == 3 and do_convert_grayscale:
        image = torch.tensordot(image.new_tensor(LUMA), image, dims=1)[None]
    return image.expand(3, -1, -1)


def make_labels(
    segmentation_maps: ImageInput, original_sizes: list[tuple[int, int]], input_size: tuple[int, int]
) -> Tensor:
    """Binary labels (B, P, height, width) float32 from the masks of B images; see `CCSamImageProcessor.preprocess`.

    Raises:
        TypeError: something that is no mask.
        ValueError: a mask of another size than its image, NaN, or numbers of objects that differ.
    """
    maps = as_list(segmentation_maps)
    if len(maps) != len(original_sizes):
        raise ValueError(
            f"segmentation_maps holds {len(maps)} and images {len(original_sizes)}; expected one map an image: "
            "several objects of one image are one array (num_objects, height, width)"
        )
    binary = [to_binary_masks(item, size) for item, size in zip(maps, original_sizes, strict=True)]
    counts = [len(item) for item in binary]
    if len(set(counts)) > 1:
        raise ValueError(
            f"segmentation_maps hold {counts} objects; expected the same number for each image of a batch, because "
            "the loss has no padding: split the batch"
        )
    return torch.cat([resize_masks(item[None], input_size) for item in binary])


def to_binary_masks(segmentation_map: Image.Image | np.ndarray | Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of one image as (P, H0, W0) bool; everything above zero is inside."""
    if isinstance(segmentation_map, Image.Image):
        image = segmentation_map
        segmentation_map = np.asarray(image.convert("L") if len(image.getbands()) > 1 else image)
    values = segmentation_map[None] if segmentation_map.ndim == 2 else segmentation_map
    if values.ndim != 3 or tuple(values.shape[-2:]) != tuple(size) or len(values) == 0:
        raise ValueError(
            f"a segmentation map has shape {tuple(values.shape)}; expected (num_objects, {size[0]}, {size[1]}) or "
            f"({size[0]}, {size[1]}): the size of its image"
        )
    binary = torch.as_tensor(values > 0)
    if bool((values != values).any()):
        raise ValueError("a segmentation map holds NaN; expected zero outside and above zero inside")
    return binary


CCSamImageProcessor.register_for_auto_class()

__all__ = ["CCSamImageProcessor", "CCSamImageProcessorKwargs"]

"""Random changes of an image, its masks and boxes going along, for training (`Augmentation`).

Source: SAMUS, `utils/data_us.py`, `JointTransform2D`, with the probabilities that its `train.py` sets. In its order:

| step | drawn from | SAMUS trains with it |
|---|---|---|
| gamma | exponent 1 / g, g in [1, 2.4]: brighter | half of the time |
| flip | left and right exchanged | never |
| rotation | -30 to 30 degrees about the middle | half of the time |
| scale | 1 to 1.3 times as large, cropped to the old size at a random place | half of the time |
| noise | Gaussian, standard deviation 3 to 14 of 255 grey levels | never |
| contrast | factor 0.8 to 2 about the mean | half of the time |

The flip stays off because in views of the heart left and right tell the chambers apart.

Departures: SAMUS changes the image at its own size and resizes then; here it is resized to the model's input first,
which saves most of the time and turns it by the same angle (`pixel_aspect`), but enlarges what has already lost its
finest detail. Rotation and scale are one bilinear step; SAMUS rotates with nearest pixels. g is not held to steps of
0.1, and grey levels are not rounded. What SAMUS can do and never trains with beside flip and noise (a crop before the
rest, colour jitter, a shear of the image without its mask, affine) is left out.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tvF

ATTEMPTS = 5


@dataclass(frozen=True)
class Augmentation:
    """The settings of the changes, and the call that makes them. By default they are what SAMUS trains with.

    Attributes:
        gamma, flip, rotation, scale, noise, contrast: probabilities of the steps.
        gamma_range: of g, above 0: grey values in [0, 1] are raised to 1 / g.
        max_degrees: of the rotation, either way.
        scale_range: of the enlargement, at least 1.
        noise_range: of the standard deviation, for grey values in [0, 1].
        contrast_range: of the factor.

    Raises:
        ValueError: a probability outside [0, 1], or a range that is reversed or out of bounds.
    """

    gamma: float = 0.5
    flip: float = 0.0
    rotation: float = 0.5
    scale: float = 0.5
    noise: float = 0.0
    contrast: float = 0.5
    gamma_range: tuple[float, float] = (1.0, 2.4)
    max_degrees: float = 30.0
    scale_range: tuple[float, float] = (1.0, 1.3)
    noise_range: tuple[float, float] = (3 / 255, 14 / 255)
    contrast_range: tuple[float, float] = (0.8, 2.0)

    def __post_init__(self):
        for name in ("gamma", "flip", "rotation", "scale", "noise", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a probability, 0 to 1")
        for name, least in (("gamma_range", 0.01), ("scale_range", 1), ("noise_range", 0), ("contrast_range", 0)):
            low, high = getattr(self, name)
            if not least <= low <= high < math.inf:
                raise ValueError(f"{name} is {low, high}; expected (low, high) with {least} <= low <= high")
        if not 0 <= self.max_degrees <= 180:
            raise ValueError(f"max_degrees is {self.max_degrees}; expected 0 to 180")

    def __call__(
        self,
        image: tv_tensors.Image,
        mask: tv_tensors.Mask,
        boxes: tv_tensors.BoundingBoxes | None = None,
        *,
        rng: np.random.Generator,
        pixel_aspect: float = 1.0,
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask, tv_tensors.BoundingBoxes | None]:
        """Change an image with its masks and boxes. `rng` alone decides; torch's global generator is left as it is.

        A rotation and scale by which a mask loses its last pixel are drawn anew, five times in all; then the sample
        is returned unchanged. A mask that comes without a pixel has none to lose.

        Args:
            image: (1 | 3, H, W) uint8, or float in [0, 1].
            mask: (N, H, W), zero outside the objects.
            boxes: (M, 4), any format. A turned box becomes the upright one around it, clipped to the frame: it is
                looser than the tight box of the moved mask.
            rng: source of the draw.
            pixel_aspect: width of a pixel over its height, both in pixels of the image before it was resized to this
                frame, so W0 * H / (H0 * W); angles are those before the resize.

        Returns:
            The image as float32 in [0, 1], the mask and the boxes in their own types.

        Raises:
            TypeError: something that is not torchvision's type for it, such as a plain tensor.
            ValueError: image, mask and boxes of different frames.
        """
        check_frame(image, mask, boxes)
        image = tvF.to_dtype(image, torch.float32, scale=True)
        size = tuple(image.shape[-2:])
        for _ in range(ATTEMPTS):
            is_flipped, coefficients = self.draw_geometry(size, pixel_aspect, rng)
            moved_mask = move(mask, is_flipped, coefficients)
            if not bool((has_pixels(mask) & ~has_pixels(moved_mask)).any()):
                break
        else:
            return image, mask, boxes

        if rng.random() < self.gamma:
            image = tvF.adjust_gamma(image, 1 / rng.uniform(*self.gamma_range))
        image = move(image, is_flipped, coefficients)
        if rng.random() < self.noise:
            noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(*self.noise_range)
            image = tv_tensors.wrap((image + torch.from_numpy(noise)).clamp(0, 1), like=image)
        if rng.random() < self.contrast:
            image = change_contrast(image, rng.uniform(*self.contrast_range))
        return image, moved_mask, None if boxes is None else move(boxes, is_flipped, coefficients)

    def draw_geometry(
        self, size: tuple[int, int], pixel_aspect: float, rng: np.random.Generator
    ) -> tuple[bool, list[float] | None]:
        """Whether to flip, and the coefficients of rotation and scale, None where neither is drawn."""
        is_flipped = rng.random() < self.flip
        degrees = rng.uniform(-self.max_degrees, self.max_degrees) if rng.random() < self.rotation else 0.0
        scale = rng.uniform(*self.scale_range) if rng.random() < self.scale else 1.0
        if degrees == 0 and scale == 1:
            return is_flipped, None
        # From the middle of the first pixel to that of the last: beyond, black would bleed into the outermost ones.
        x, y = ((1 - 1 / scale) * (0.5 + rng.random() * (side - 1)) for side in size[::-1])
        return is_flipped, rotate_and_crop(size, degrees, scale, (x, y), pixel_aspect)


def change_contrast(image: tv_tensors.Image, factor: float) -> tv_tensors.Image:
    """Do what torchvision's `adjust_contrast` does, with a mean that does not depend on the number of threads.

    Workers of a loader have one thread and the main process several; their samples are to be equal to the bit.
    """
    grey = tvF.rgb_to_grayscale(image) if image.shape[0] == 3 else image
    mean = float(np.mean(grey.numpy(), dtype=np.float64))
    return tv_tensors.wrap((factor * image + (1 - factor) * mean).clamp(0, 1), like=image)


def rotate_and_crop(
    size: tuple[int, int], degrees: float, scale: float, corner: tuple[float, float], pixel_aspect: float
) -> list[float]:
    """Where the content of each place of the new frame lies in the old one, as torchvision's `perspective` takes it.

    Args:
        size: (height, width) of both frames.
        degrees: of a rotation about the middle, counter-clockwise.
        scale: how many times as large the crop is drawn.
        corner: (x, y) of the crop's upper left corner in the rotated frame.
        pixel_aspect: see `Augmentation.__call__`.

    Returns:
        Eight coefficients: old x, from new x, new y and 1, old y likewise, and two zeros.
    """
    height, width = size
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x_of_x, x_of_y = cos, -sin / pixel_aspect
    y_of_x, y_of_y = sin * pixel_aspect, cos
    x, y = corner[0] - width / 2, corner[1] - height / 2
    return [
        x_of_x / scale,
        x_of_y / scale,
        x_of_x * x + x_of_y * y + width / 2,
        y_of_x / scale,
        y_of_y / scale,
        y_of_x * x + y_of_y * y + height / 2,
        0.0,
        0.0,
    ]


def move(value: torch.Tensor, is_flipped: bool, coefficients: list[float] | None) -> torch.Tensor:
    """An image (bilinear), mask (nearest) or boxes after flip, rotation and scale; what comes in from outside is 0."""
    if is_flipped:
        value = tvF.horizontal_flip(value)
    return value if coefficients is None else tvF.perspective(value, None, None, coefficients=coefficients)


def has_pixels(mask: torch.Tensor) -> torch.Tensor:
    """(N,) bool of a mask (N, H, W)."""
    return mask.flatten(1).any(1)


def check_frame(image, mask, boxes) -> None:
    """Raise TypeError for what is not torchvision's own type, ValueError where sizes differ."""
    expected = {"image": (image, tv_tensors.Image), "mask": (mask, tv_tensors.Mask)}
    if boxes is not None:
        expected["boxes"] = (boxes, tv_tensors.BoundingBoxes)
    for name, (value, kind) in expected.items():
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} is of type {type(value).__name__}; expected torchvision.tv_tensors.{kind.__name__}, which "
                "tells how it moves: wrap it"
            )
    sizes = [tuple(image.shape[-2:]), tuple(mask.shape[-2:])] + ([] if boxes is None else [tuple(boxes.canvas_size)])
    if image.ndim != 3 or mask.ndim != 3 or len(set(sizes)) > 1:
        raise ValueError(
            f"image has shape {tuple(image.shape)}, mask {tuple(mask.shape)} and the frames are {sizes}; expected "
            "(1 | 3, height, width), (N, height, width) and one (height, width) for all"
        )


SAMUS_AUGMENTATION = Augmentation()
NO_AUGMENTATION = Augmentation(gamma=0, rotation=0, scale=0, contrast=0)


@dataclass(frozen=True)
class UltrasoundAugmentation:
    """Changes of grey values that scanners and operators make, for images (H, W) float32 in [0, 1].

    Brightness and contrast curves, an error of the time-gain compensation, haze near the probe, shadows, speckle that
    multiplies, electronic noise, blur and compression-like quantisation; each in a share of the images. usaugment and
    MONAI were looked at: the first brings four of these changes on albumentations, which needs a mask of the scan, the
    second its general transforms; here all are a few array operations a step.

    Attributes:
        share: probability of each change.
    """

    share: float = 0.35

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The changed image, (H, W) float32 in [0, 1]; black background stays black."""
        height, width = image.shape
        depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        if rng.random() < 2 * self.share:
            image = image ** np.float32(np.exp(rng.uniform(-0.6, 0.6)))
        if rng.random() < 2 * self.share:
            mean = image.mean()
            image = (image - mean) * np.float32(rng.uniform(0.6, 1.5)) + mean * np.float32(rng.uniform(0.7, 1.4))
        if rng.random() < self.share:  # time-gain compensation
            image = image * np.exp(rng.normal(0, 0.5) * (depth - 0.5) + rng.normal(0, 0.3) * np.sin(6 * depth))
        if rng.random() < self.share / 2:  # haze near the probe
            haze = np.exp(-(((depth - rng.uniform(0.05, 0.4)) / rng.uniform(0.05, 0.2)) ** 2))
            image = image + np.float32(rng.uniform(0.05, 0.25)) * haze * (image > 0.02)
        if rng.random() < self.share / 2:  # an acoustic shadow
            across = np.arange(width, dtype=np.float32)[None]
            centre, spread, top = rng.uniform(0, width), rng.uniform(0.03, 0.15) * width, rng.uniform(0, 0.7)
            shadow = np.exp(-(((across - centre) / spread) ** 2)) * np.clip((depth - top) * 8, 0, 1)
            image = image * (1 - np.float32(rng.uniform(0.3, 0.9)) * shadow)
        if rng.random() < self.share:  # speckle
            grain = ndimage.gaussian_filter(
                rng.standard_normal(image.shape, dtype=np.float32), (rng.uniform(0.4, 1.2), rng.uniform(0.4, 2.0))
            )
            image = image * (1 + np.float32(rng.uniform(0.05, 0.3)) * grain / (grain.std() + 1e-6))
        if rng.random() < self.share / 2:
            image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.04))
        if rng.random() < self.share:
            image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.5))
        return np.clip(image, 0, 1).astype(np.float32)

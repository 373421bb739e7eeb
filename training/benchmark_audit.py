"""Precision and recall of the audit on planted defects, and its time, on simulated images.

    python training/benchmark_audit.py --output audit.json

Copies of images are planted into other splits: as they are, mirrored, cropped by up to 5 % a side, recompressed,
brighter or darker, resized, written upon, and several of it at once. Masks and files are damaged in further images.
Beside the audit stands the plain way to find duplicates: perceptual hashes (ImageHash's `phash`) of the image and of
its mirror images, at the distance that suits these very images best.

Burnt-in marks are measured apart, on images that are simulated once without marks and once with a text or calipers.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from ccsam_hf.data.audit import AuditReport, audit_cases
from ccsam_hf.data.audit.burnt_in import stroke_pixels
from ccsam_hf.data.cases import SPLITS, Case, ImageFile, MaskFiles
from ccsam_hf.data.simulator import TARGETS, scenes, simulate

SIZES = ((192, 192), (256, 256))
SHARES = (0.7, 0.1, 0.2)  # of the splits
DUPLICATE_KINDS = ("leaking duplicate", "leaking near duplicate", "duplicate", "near duplicate")
DAMAGED_OF_KIND = 15
MARKED_IMAGES = 300
MIN_MARK_PIXELS = 20  # a text that lies outside of the image is no mark

Pair = tuple[str, str]


# --- what is done to a copy: image (H, W) uint8, random generator -> image -------------------------------------------


def same(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Nothing."""
    return image


def mirror(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def turn_over(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Up to down."""
    return np.ascontiguousarray(image[::-1])


def crop(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Up to 5 % off each side, each by itself."""
    height, width = image.shape
    top, bottom, left, right = np.rint(rng.uniform(0, 0.05, 4) * [height, height, width, width]).astype(int)
    return image[top : height - bottom, left : width - right]


def recompress(image: np.ndarray, rng: Generator) -> np.ndarray:
    """JPEG of quality 20 to 80."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(20, 81)))
    return np.asarray(Image.open(buffer))


def brighten(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Another gamma, contrast and brightness; drawn again where half the contrast or more would be lost."""
    while True:
        gamma, contrast, offset = rng.uniform(0.65, 1.5), rng.uniform(0.75, 1.3), rng.uniform(-0.1, 0.15)
        values = np.clip((image / 255) ** gamma * contrast + offset, 0, 1)
        if values.std() > 0.5 * (image / 255).std():
            return np.rint(values * 255).astype(np.uint8)


def resize(image: np.ndarray, rng: Generator) -> np.ndarray:
    """By a factor of 0.5 to 1.6."""
    factor = rng.uniform(0.5, 1.6)
    size = [round(side * factor) for side in image.shape[::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def write_upon(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Two texts and the calipers of a diameter."""
    picture = Image.fromarray(image)
    draw, size = ImageDraw.Draw(picture), np.array(picture.size)
    font = ImageFont.load_default(max(8, round(0.06 * min(image.shape))))
    for word in rng.choice(["RIGHT BREAST", "LT 3 H", "RAD", "AXILLA", "THYROID"], 2):
        draw.text(tuple(rng.uniform(0, 0.8, 2) * size), str(word), fill=255, font=font)
    ends = rng.uniform(0.2, 0.8, (2, 2)) * size
    for x, y in ends:
        draw.line((x - 4, y, x + 4, y), fill=255)
        draw.line((x, y - 4, x, y + 4), fill=255)
    draw.point([tuple(place) for place in np.linspace(*ends, 30)], fill=255)
    return np.asarray(picture)


def several(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Mirrored, cropped, brightened, resized and recompressed."""
    for change in (mirror, crop, brighten, resize, recompress):
        image = change(image, rng)
    return image


CHANGES: dict[str, Callable[[np.ndarray, Generator], np.ndarray]] = {
    "copy": same,
    "mirrored left to right": mirror,
    "mirrored up to down": turn_over,
    "cropped by up to 5 % a side": crop,
    "recompressed": recompress,
    "brightness and contrast": brighten,
    "resized": resize,
    "text and calipers": write_upon,
    "several at once": several,
}


# --- what is done to a mask or a file --------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    """Keep the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def change_mask(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write a changed mask in place of a mask."""
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def tiny(mask: np.ndarray) -> np.ndarray:
    """Three pixels."""
    small = np.zeros_like(mask)
    small[len(mask) // 2, :3] = 255
    return small


def smear(mask: np.ndarray) -> np.ndarray:
    """Resized with interpolation, and back."""
    small = Image.fromarray(mask).resize((mask.shape[1] // 2, mask.shape[0] // 2), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(mask.shape[::-1], Image.Resampling.BILINEAR))


DAMAGES: dict[str, Callable[[Path, Path], None]] = {  # image file, mask file
    "unreadable image": lambda image, mask: truncate(image),
    "unreadable mask": lambda image, mask: truncate(mask),
    "mask of another size": lambda image, mask: change_mask(mask, lambda values: values[:-8]),
    "empty mask": lambda image, mask: change_mask(mask, np.zeros_like),
    "full mask": lambda image, mask: change_mask(mask, lambda values: np.full_like(values, 255)),
    "tiny mask": lambda image, mask: change_mask(mask, tiny),
    "smeared mask": lambda image, mask: change_mask(mask, smear),
}


def build(directory: Path, count: int, planted: int, seed: int) -> tuple[list[Case], dict[Pair, str], dict[str, str]]:
    """Write `count` images, `planted` of them copies of others.

    Returns:
        The cases; pair of names -> what was done to the copy; name -> how its mask or file is damaged.
    """
    rng = np.random.default_rng(seed)
    originals = count - planted
    cases, pairs, damaged = [], {}, {}
    order = rng.permutation(originals)
    sources = dict(zip(order[:planted].tolist(), range(planted), strict=True))
    damages = [kind for kind in DAMAGES for _ in range(DAMAGED_OF_KIND)]
    kinds = dict(zip(order[planted : planted + len(damages)].tolist(), damages, strict=True))
    for i in tqdm(range(originals), desc="simulate", unit="image"):
        scene = simulate(TARGETS[i % len(TARGETS)], seed * 1_000_000 + i, SIZES[i % len(SIZES)])
        case = write(directory, f"{i:05d}", scene.target, scene.image, scene.mask, str(rng.choice(SPLITS, p=SHARES)))
        cases.append(case)
        if i in sources:
            change = list(CHANGES)[sources[i] % len(CHANGES)]
            image = CHANGES[change](scene.image, rng)
            mask = np.asarray(Image.fromarray(scene.mask).resize(image.shape[::-1]))
            split = str(rng.choice([split for split in SPLITS if split != case.split]))
            cases.append(write(directory, f"{i:05d} again", scene.target, image, mask, split))
            pairs[case.name, cases[-1].name] = change
        if i in kinds:
            damaged[case.name] = kinds[i]
            DAMAGES[kinds[i]](case.image_source.path, case.mask_source.paths[0])
    return cases, pairs, damaged


def write(directory: Path, name: str, target: str, image: np.ndarray, mask: np.ndarray, split: str) -> Case:
    """Write an image and its mask."""
    image_path, mask_path = directory / f"{name}.png", directory / f"{name}_mask.png"
    Image.fromarray(image).save(image_path)
    Image.fromarray(mask.astype(np.uint8) * 255).save(mask_path)
    return Case(name, target, ImageFile(image_path), MaskFiles((mask_path,)), "simulated", split=split)


# --- scores ----------------------------------------------------------------------------------------------------------


def scores(planted: set, reported: set) -> dict[str, float | int | None]:
    """Counts, precision and recall; None where nothing was reported or planted."""
    found = len(planted & reported)
    return {
        "planted": len(planted),
        "found": found,
        "reported": len(reported),
        "recall": round(found / len(planted), 4) if planted else None,
        "precision": round(found / len(reported), 4) if reported else None,
    }


def scores_of(report: AuditReport, pairs: dict[Pair, str], damaged: dict[str, str]) -> dict:
    """Scores of the audit: duplicates as pairs of images, damage as images."""
    reported = {
        pair
        for finding in report.findings
        if finding.kind in DUPLICATE_KINDS
        for pair in combinations(sorted(name for _, name in finding.images), 2)
    }
    of_kind = {kind: {pair for pair in pairs if pairs[pair] == kind} for kind in CHANGES}
    unplanned = sorted(reported - set(pairs))
    return {
        "duplicates": scores(set(pairs), reported),
        "found by kind": {
            kind: {"planted": len(planted), "found": len(planted & reported)} for kind, planted in of_kind.items()
        },
        "reported but not planted": unplanned[:20],
        "damage": {
            kind: scores(
                {name for name, planted in damaged.items() if planted == kind},
                {finding.images[0][1] for finding in report.findings if finding.kind == kind},
            )
            for kind in DAMAGES
        },
    }


def scores_of_hashes(cases: list[Case], pairs: dict[Pair, str]) -> dict:
    """Scores of perceptual hashes, of the image and of its mirror images, at the distance with the highest F1."""
    import imagehash

    def signs(image: np.ndarray) -> np.ndarray:
        return np.where(imagehash.phash(Image.fromarray(np.ascontiguousarray(image))).hash.ravel(), 1, -1)

    images = [case.image for case in cases]
    plain = np.array([signs(image) for image in images], dtype=np.float32)  # (images, 64)
    distance = np.full((len(images), len(images)), 64.0)
    for rows, columns in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        view = np.array([signs(image[::rows, ::columns]) for image in images], dtype=np.float32)
        np.minimum(distance, (64 - view @ plain.T) / 2, out=distance)
    is_planted = np.zeros(distance.shape, dtype=bool)
    place = {case.name: i for i, case in enumerate(cases)}
    for pair in pairs:
        is_planted[tuple(sorted(place[name] for name in pair))] = True
    above = np.triu_indices(len(images), 1)
    distance, is_planted = distance[above], is_planted[above]
    results = []
    for limit in range(0, 31, 2):
        found, reported = int((is_planted & (distance <= limit)).sum()), int((distance <= limit).sum())
        f1 = 2 * found / (len(pairs) + reported)
        scored = {"recall": round(found / len(pairs), 4), "precision": round(found / max(reported, 1), 4)}
        results.append({"distance": limit, "f1": round(f1, 4), **scored})
    return max(results, key=lambda result: result["f1"])


def scores_of_marks(seed: int) -> dict:
    """Scores of `stroke_pixels` on images without marks, with a text, and with calipers."""
    drawn = {"text": scenes.text, "calipers": scenes.calipers}
    found = {"none": [], **{kind: [] for kind in drawn}}
    for i in tqdm(range(MARKED_IMAGES), desc="marks", unit="image"):
        target, size = TARGETS[i % len(TARGETS)], SIZES[i % len(SIZES)]
        for kind, detections in found.items():
            changed = []

            def burn_in(image, mask, words, rng, kind=kind, changed=changed):
                picture = Image.fromarray(image)
                draw, unit = ImageDraw.Draw(picture), min(image.shape) / 256
                if kind == "text":
                    scenes.text(draw, str(rng.choice(words)), picture.size, unit, rng)
                elif kind == "calipers":
                    scenes.calipers(draw, mask, unit, rng)
                changed.append(int((np.asarray(picture) != image).sum()))
                return np.asarray(picture)

            with mock.patch.object(scenes, "burn_in", burn_in):
                image = simulate(target, seed * 1_000_000 + 500_000 + i, size).image
            if kind == "none" or changed[0] >= MIN_MARK_PIXELS:
                detections.append(bool(stroke_pixels(image).any()))
    return {
        kind: {"images": len(flags), "share found": round(float(np.mean(flags)), 4)} for kind, flags in found.items()
    }


def main() -> None:
    """Print the scores and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--count", type=int, default=2000, help="images, the planted ones among them")
    parser.add_argument("--planted", type=int, default=250, help="copies, in equal shares of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not 0 < arguments.planted <= (arguments.count - len(DAMAGES) * DAMAGED_OF_KIND) / 2:
        parser.error(f"--planted {arguments.planted} of --count {arguments.count}: too many to have a source each")
    with tempfile.TemporaryDirectory() as directory:
        cases, pairs, damaged = build(Path(directory), arguments.count, arguments.planted, arguments.seed)
        start, start_of_work = time.perf_counter(), time.process_time()
        report = audit_cases(cases, progress=True)
        seconds, seconds_of_work = time.perf_counter() - start, time.process_time() - start_of_work
        readable = [case for case in cases if damaged.get(case.name) != "unreadable image"]
        result = {
            "images": len(cases),
            "seed": arguments.seed,
            **scores_of(report, pairs, damaged),
            "perceptual hashes instead": scores_of_hashes(readable, pairs),
            "images with marks found": scores_of_marks(arguments.seed),
            "ms per image": round(1000 * seconds / len(cases), 2),
            "ms of processor per image": round(1000 * seconds_of_work / len(cases), 2),
        }
    text = json.dumps(result, indent=1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""What a run trains and validates on, as hashes that are compared where it goes on (`identify_samples`)."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..data.samples import SampleMaker
from ..files import write_json
from ..identity import describe_differences, hash_cases
from .inputs import SimulatedSamples
from .mixture import MixedSamples

DATA_FILE = "data.json"


def identify_samples(training: Any, validation: Any) -> dict[str, dict[str, Any]]:
    """Number and SHA-256 of the samples of both splits: images, masks, names and which split they are in."""
    parts = {"training": training, "validation": validation}
    return {name: {"samples": len(part), "sha256": hash_samples(part)} for name, part in parts.items()}


def hash_samples(samples: SampleMaker | MixedSamples) -> str:
    """SHA-256 of what samples are made from; how they are drawn and changed is the run's configuration."""
    digest = hashlib.sha256()
    if isinstance(samples, SimulatedSamples):
        update(digest, [samples.count, samples.first_seed, samples.targets, samples.probabilities.tolist()])
    elif isinstance(samples, MixedSamples):
        for name, images in samples.sources.items():
            for image in images:
                update(digest, [name, image.targets, image.pixels.tobytes(), image.objects.tobytes()])
    elif hasattr(samples.source, "column_names"):
        update(digest, samples.indices.tolist())
        for batch in samples.source.with_format("arrow").iter(256):
            update(digest, batch.to_pylist())
    else:
        return hash_cases([samples.source[index] for index in samples.indices])
    return digest.hexdigest()


def update(digest: Any, value: Any) -> None:
    """Add a value of lists, dicts, bytes and plain values, each with its length."""
    if isinstance(value, bytes):
        digest.update(f"{len(value)} ".encode() + value)
    elif isinstance(value, dict):
        update(digest, [part for item in value.items() for part in item])
    elif isinstance(value, list):
        digest.update(f"[{len(value)} ".encode())
        for each in value:
            update(digest, each)
    else:
        digest.update((json.dumps(value, default=str) + "\n").encode())


def check_data(output_dir: Path, data: dict[str, Any], is_main_process: bool) -> None:
    """Write down what a new run is trained on; refuse to go on with another one.

    A run of an older version has no such file: it goes on, with what is there now.

    Raises:
        FileExistsError: images, masks or splits are not those that the run began with.
    """
    path = output_dir / DATA_FILE
    if path.is_file():
        differences = describe_differences(json.loads(path.read_text(encoding="utf-8")), data)
        if differences:
            raise FileExistsError(
                f"{output_dir} holds a run on other images, masks or splits ({differences}): bring them back, or "
                "choose another output_dir to train on these"
            )
    elif is_main_process:
        write_json(path, data)

"""Time and memory of one text prompt at full size: Grounding DINO (Swin-T, BERT-base) and CC-SAM (ViT-B), on the CPU.

    python training/benchmark_text_prompt.py

Random weights: they cost what trained ones cost. Stages are timed within each run; medians are printed as shares of
the whole, since machines differ. Peak memory is that of a process with each model alone, and with both.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)

from ccsam_hf import CCSamConfig, CCSamImageProcessor, CCSamModel, CCSamPipeline, CCSamProcessor, TextGrounder
from ccsam_hf.data.simulator import simulate

TEXT = "left ventricle"


def full_size_grounder() -> TextGrounder:
    """Grounding DINO as published (Swin-T, 6 + 6 layers, 900 queries, BERT-base), random weights, 800 pixel input."""
    config = GroundingDinoConfig(disable_custom_kernels=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *TEXT.split()]
    fillers = [f"word{index}" for index in range(config.text_config.vocab_size - len(words))]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words + fillers)})
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor(), tokenizer)
    return TextGrounder(GroundingDinoForObjectDetection(config), processor)


def timed(stages: dict[str, float], name: str, function: Callable) -> Callable:
    """The function, adding the seconds of each call to a stage."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        stages[name] = stages.get(name, 0.0) + time.perf_counter() - start
        return result

    return wrapper


def stage_times(runs: int) -> list[dict[str, float]]:
    """Seconds of every stage in each run; the first run warms up and is left out."""
    grounder = full_size_grounder()
    model = CCSamModel(CCSamConfig())
    pipe = CCSamPipeline(model, CCSamProcessor(CCSamImageProcessor()), grounder)
    image = simulate(TEXT, 0, (600, 800)).image
    stages: dict[str, float] = {}
    detector = grounder.model.model
    watched = {
        "Grounding DINO: image processor": (grounder, "prepare_image"),
        "Grounding DINO: text encoder": (detector.text_backbone, "forward"),
        "Grounding DINO: Swin backbone": (detector.backbone, "forward"),
        "Grounding DINO: encoder": (detector.encoder, "forward"),
        "Grounding DINO: decoder": (detector.decoder, "forward"),
        "CC-SAM: image encoder": (model, "get_image_embeddings"),
        "CC-SAM: prompt encoder and mask decoder": (model, "decode"),
    }
    for name, (owner, method) in watched.items():
        setattr(owner, method, timed(stages, name, getattr(owner, method)))
    measured = []
    for _ in range(runs + 1):
        stages.clear()
        start = time.perf_counter()
        pipe(image, text=TEXT, fallback="best_box")
        measured.append({**stages, "whole": time.perf_counter() - start})
    return measured[1:]


def peak_memory_mib(what: str) -> float:
    """Peak memory of this process after one run of a model alone or of both."""
    image = simulate(TEXT, 0, (600, 800)).image
    if what == "grounder":
        full_size_grounder()(image, TEXT)
    else:
        model = CCSamModel(CCSamConfig())
        grounder = full_size_grounder() if what == "both" else None
        pipe = CCSamPipeline(model, CCSamProcessor(CCSamImageProcessor()), grounder)
        prompt = {"boxes": [[200, 200, 500, 400]]} if grounder is None else {"text": TEXT, "fallback": "best_box"}
        pipe(image, **prompt)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-of", choices=("grounder", "ccsam", "both"), help="only print the peak memory")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.memory_of:
        print(peak_memory_mib(arguments.memory_of))
        return
    memory = {
        what: float(subprocess.check_output([sys.executable, __file__, "--memory-of", what], text=True).split()[-1])
        for what in ("ccsam", "grounder", "both")
    }
    times = stage_times(arguments.runs)
    whole = statistics.median(run["whole"] for run in times)
    shares = {name: round(statistics.median(run[name] / run["whole"] for run in times), 4) for name in times[0]}
    shares["rest"] = round(1 - sum(share for name, share in shares.items() if name != "whole"), 4)
    report = {
        "share_of_time": shares,
        "whole_seconds": round(whole, 2),
        "threads": torch.get_num_threads(),
        "peak_memory_share": {name: round(value / memory["both"], 3) for name, value in memory.items()},
        "peak_memory_mib": {name: round(value) for name, value in memory.items()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

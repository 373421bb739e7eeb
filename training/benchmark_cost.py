"""What one image with one box costs: SAM at 1024x1024, SAMUS, CC-SAM and ccsam-tiny; fp32, random weights, batch 1.

    python training/benchmark_cost.py --output results/cost.json

Random weights cost what trained ones cost. Every model keeps the attention it loads with by default. Memory is that of
a process with one model in it, at three points: after the imports, with the model, after an image; on a CPU of the
whole process by Linux's own account, on a GPU of the tensors. Operations are counted from shapes alone, see `counted`.
For the times all models live in one process and take their turns, so that whatever else the machine does slows all of
them: in every round each encodes an image, which is what a new image costs, and decodes a box on that embedding, which
is what one more prompt costs. Reading, resizing and enlarging masks are left out. Ratios to SAM are taken within a
round, and medians over the rounds are printed, as a table in Markdown.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, PreTrainedModel, SamConfig

from ccsam_hf import CCSamConfig
from ccsam_hf.files import write_json

REFERENCE = "SAM"
MODELS = {
    REFERENCE: SamConfig,  # ViT-B at 1024x1024 by default
    "SAMUS": CCSamConfig.samus,
    "CC-SAM": CCSamConfig.vit_b,
    "ccsam-tiny": CCSamConfig.tiny,
}
ROWS = (  # heading, column, unit, digits behind the point
    ("parameters, M", "parameters", 1e6, 1),
    ("of them learn, M", "trainable_parameters", 1e6, 1),
    ("GFLOPs", "gflops", 1, 1),
    ("of them encoder", "gflops_encoder", 1, 1),
    ("of them decoder", "gflops_decoder", 1, 2),
    ("GMACs", "gmacs", 1, 1),
    ("GFLOPs with the attention that runs", "gflops_as_run", 1, 1),
    ("peak memory, MiB", "peak_mib", 1, 0),
    ("of it imports, MiB", "imports_mib", 1, 0),
    ("with the model, before an image, MiB", "loaded_mib", 1, 0),
    ("encoding an image, s", "encode_seconds", 1, 3),
    ("decoding a box, s", "decode_seconds", 1, 4),
    ("images a second", "images_per_second", 1, 2),
)
NOTES = (
    "SAM is ViT-B at 1024x1024; MedSAM is the same network with other weights, at the same cost.",
    "What learns is what a new model lets learn: all of SAM; of the others what `CCSamModel.freeze` declares. The "
    "released ccsam-tiny had no frozen part.",
    "GFLOPs count a multiplication and an addition as two; GMACs, half of that, are what many papers print as GFLOPs. "
    "Counted are convolutions and matrix products, with attention written out; normalization, activations, softmax, "
    "pooling, resizing and added biases are not. The fused attention of SAMUS and CC-SAM in this package carries the "
    "relative positions as further channels, which is not counted.",
    "SAMUS and CC-SAM in this package do not project the padding of their windows. SAM does, which is 30.3 of its "
    "GFLOPs, and so does the released SAMUS, for 27.9 GFLOPs more than here.",
)


def build(name: str, attention: str | None = None) -> PreTrainedModel:
    """A model for inference; `attention` None is the implementation it loads with."""
    torch.manual_seed(0)
    return AutoModel.from_config(MODELS[name](), attn_implementation=attention).eval()


def inputs_of(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Noise (1, 3, H, W) and a box (1, 1, 4) in the middle; values do not change what an image costs."""
    side = model.config.vision_config.image_size
    box = torch.tensor([[[0.3, 0.25, 0.7, 0.8]]], device=model.device) * side
    return torch.rand(1, 3, side, side, device=model.device), box


def decode(model: PreTrainedModel, embedding: Tensor, box: Tensor) -> Tensor:
    """Mask logits of a box on the embedding of an image, (1, 1, 1, 4h, 4w)."""
    return model(image_embeddings=embedding, input_boxes=box, multimask_output=False).pred_masks


def gflops(model: PreTrainedModel) -> tuple[float, float]:
    """Of encoding an image and of decoding a box; an attention that the counter does not know runs as products."""
    image, box = inputs_of(model)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as encoder:
            embedding = model.get_image_embeddings(image)
        with FlopCounterMode(display=False) as decoder:
            decode(model, embedding, box)
    return encoder.get_total_flops() / 1e9, decoder.get_total_flops() / 1e9


def counted(name: str) -> dict[str, float]:
    """Parameters and operations of a model, from tensors without values: the same on every machine.

    torch's counter gives two operations for a multiplication with its addition, in convolutions and matrix products,
    and nothing for all else. On a CPU that is fused attention too: SAM's encoder would have 371 GMACs instead of 486.
    So attention is counted written out; "gflops_as_run" is of the one that a model loads with, as products.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(name, "eager")
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        encoder, decoder = gflops(model.requires_grad_(False))  # torch's counter hooks onto what has a gradient
        as_run = gflops(build(name).requires_grad_(False))
    return {
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, learns in sizes if learns),
        "gflops": encoder + decoder,
        "gflops_encoder": encoder,
        "gflops_decoder": decoder,
        "gmacs": (encoder + decoder) / 2,
        "gflops_as_run": sum(as_run),
    }


def peak_mib(device: str) -> float:
    """Peak memory so far: on a GPU of its tensors, else of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def memory(name: str, device: str) -> dict[str, float]:
    """Peaks of this process, which must be a new one, step by step."""
    peaks = {"imports_mib": peak_mib(device)}
    model = build(name).to(device)
    peaks["loaded_mib"] = peak_mib(device)
    image, box = inputs_of(model)
    with torch.inference_mode():
        decode(model, model.get_image_embeddings(image), box)
    return {**peaks, "peak_mib": peak_mib(device)}


def memory_of_process(name: str, device: str, threads: int) -> dict[str, float]:
    """`memory` in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, "--device", device, "--threads", str(threads)]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def now(device: str) -> float:
    """Seconds on a clock, once a GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def seconds_of_rounds(
    models: dict[str, PreTrainedModel], device: str, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each model for an image and for a box, in turn; a first round warms up and is left out."""
    seconds = {name: {"encode": [], "decode": []} for name in models}
    for index in range(rounds + 1):
        for name, model in models.items():
            image, box = inputs_of(model)
            start = now(device)
            embedding = model.get_image_embeddings(image)
            encoded = now(device)
            decode(model, embedding, box)
            decoded = now(device)
            if index:
                seconds[name]["encode"].append(encoded - start)
                seconds[name]["decode"].append(decoded - encoded)
    return seconds


def timed(seconds: dict[str, list[float]], of: dict[str, list[float]]) -> dict:
    """Medians of a model's seconds, and under "of_sam" the medians of the ratios to SAM within each round."""
    columns, ratios = {}, {}
    whole, whole_of = (
        {**each, "image": [sum(pair) for pair in zip(*each.values(), strict=True)]} for each in (seconds, of)
    )
    for stage, values in whole.items():
        columns[f"{stage}_seconds"] = statistics.median(values)
        pairs = zip(values, whole_of[stage], strict=True)
        ratios[f"{stage}_seconds"] = statistics.median(own / other for own, other in pairs)
    columns["images_per_second"] = 1 / columns["image_seconds"]
    ratios["images_per_second"] = 1 / ratios["image_seconds"]
    return {**columns, "of_sam": ratios, "seconds": seconds}


def measured(device: str, threads: int, rounds: int) -> dict[str, dict]:
    """All columns of all models."""
    sizes = {name: {**counted(name), **memory_of_process(name, device, threads)} for name in MODELS}
    models = {name: build(name).to(device) for name in MODELS}
    seconds = seconds_of_rounds(models, device, rounds)
    rows = {}
    for name, columns in sizes.items():
        times = timed(seconds[name], seconds[REFERENCE])
        ratios = {key: value / sizes[REFERENCE][key] for key, value in columns.items() if key != "imports_mib"}
        rows[name] = {"image_size": models[name].config.vision_config.image_size, **columns, **times}
        rows[name]["of_sam"] = {**ratios, **times["of_sam"]}
    return rows


def table(models: dict[str, dict]) -> str:
    """The columns of every model side by side, with the ratios to SAM, and notes."""
    heads = [f"{name}, {row['image_size']}x{row['image_size']}" for name, row in models.items()]
    lines = [["", *heads], ["---"] * (len(heads) + 1)]
    for heading, column, unit, digits in ROWS:
        cells = []
        for name, row in models.items():
            ratio = None if name == REFERENCE else row["of_sam"].get(column)
            bracket = "" if ratio is None else f" ({ratio:.3g})"
            cells.append(f"{row[column] / unit:,.{digits}f}{bracket}")
        lines.append([heading, *cells])
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*rows, "", "In brackets: of SAM.", "", *(f"- {note}" for note in NOTES)])


def main() -> None:
    """Print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("cost.json"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU; all by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory-of", choices=MODELS, help="only print its peak memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(memory(arguments.memory_of, arguments.device)))
        return
    load = os.getloadavg()
    models = measured(arguments.device, arguments.threads, arguments.rounds)
    print(table(models))
    cpu = f"{platform.processor() or platform.machine()} CPU, {arguments.threads} threads"
    report = {
        "command": f"python training/benchmark_cost.py {' '.join(sys.argv[1:])}",
        "models": models,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else cpu,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "load_average_before": load,
        "versions": {name: version(name) for name in ("ccsam-hf", "torch", "transformers")},
        "notes": NOTES,
    }
    write_json(arguments.output, report)


if __name__ == "__main__":
    main()

"""How long a prompt takes in the demo, and what many users at once do to it; prints JSON.

    python demo/benchmark.py --users 20 --seconds 300

Starts the demo in a process of its own. First one user: a box on an image that is encoded already, and on a new one.
Then the users, each a client with a simulated image of its own, prompt by box, points and text in turn as fast as they
are answered. Each mask is compared with what the pipeline gives for that user's image: another user's would differ.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import psutil
from gradio_client import Client, handle_file
from PIL import Image

from ccsam_hf import DEFAULT, CCSamPipeline
from ccsam_hf.data.simulator import TARGETS, simulate
from ccsam_hf.geometry import boxes_from_masks

FIRST_SEED = 2_000_000_000
ROUNDS = 9  # of the single user
MEMORY_EVERY_S = 5.0
AFTER_AN_ERROR_S = 1.0


@contextmanager
def served() -> Iterator[tuple[str, psutil.Process]]:
    """The demo's address and process; RuntimeError where it ends before it serves."""
    app = Path(__file__).with_name("app.py")
    command = [sys.executable, "-u", str(app), "--host", "127.0.0.1"]  # -u: the address is not held back
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = next((line for line in process.stdout if "http://" in line), None)
            if line is None:
                raise RuntimeError(f"{app} ended before it served; what it said stands above")
            yield line.split()[-1], psutil.Process(process.pid)
        finally:
            process.terminate()


def requests_of(pipe: CCSamPipeline, target: str, seed: int, folder: Path) -> tuple[Path, list[tuple[dict, list]]]:
    """A user's image, and for each request the masks that the pipeline gives."""
    import torch

    case = simulate(target, seed)
    path = folder / f"{seed}.png"
    Image.fromarray(case.image).save(path)
    box = boxes_from_masks(torch.from_numpy(case.mask)).tolist()
    y, x = np.argwhere(case.mask)[case.mask.sum() // 2].tolist()
    asked = [
        ({"boxes": [box]}, {"boxes": [box]}),
        ({"points": [[x, y]]}, {"points": [[x, y]]}),
        ({"text": target}, {"text": target}),
    ]
    return path, [(request, [result.mask for result in pipe(path, **prompts)]) for request, prompts in asked]


def ask(client: Client, image: Path, request: dict, expected: list[np.ndarray]) -> tuple[float, bool]:
    """Seconds until the masks are here, and whether they are those of this image."""
    started = time.perf_counter()
    files, _ = client.predict(image=handle_file(image), **request, api_name="/segment")
    taken = time.perf_counter() - started
    masks = [np.asarray(Image.open(path)) == 255 for path in files]
    return taken, len(masks) == len(expected) and all(map(np.array_equal, masks, expected))


def connected(url: str, folder: Path) -> Client:
    """A client with a session of its own; what it downloads goes with the folder."""
    return Client(url, verbose=False, download_files=mkdtemp(dir=folder))


def single_user(url: str, users: list, folder: Path) -> dict[str, Any]:
    """Medians of a box on an image that is encoded already and on a new one, in turns."""
    client, times = connected(url, folder), {"new image": [], "cached image": []}
    for number in range(ROUNDS + 1):
        image, ((request, expected), *_) = users[number % 2]
        for name in times:
            taken, _ = ask(client, image, request, expected)
            if number:  # the first round warms up
                times[name].append(taken)
    seconds = {name: median(values) for name, values in times.items()}
    return {"seconds": seconds, "ratio": seconds["new image"] / seconds["cached image"]}


def one_of_many(client: Client, image: Path, requests: list, until: float) -> dict[str, Any]:
    """What one user saw until a moment of `time.monotonic`."""
    seen: dict[str, Any] = {"seconds": [], "mix_ups": 0, "errors": []}
    for request, expected in cycle(requests):
        if time.monotonic() >= until:
            break
        try:
            taken, is_own = ask(client, image, request, expected)
        except Exception as error:  # whatever it is, it is counted and told
            seen["errors"].append(f"{type(error).__name__}: {error}")
            time.sleep(AFTER_AN_ERROR_S)
            continue
        seen["seconds"].append(taken)
        seen["mix_ups"] += not is_own
    return seen


def many_users(url: str, process: psutil.Process, users: list, folder: Path, duration: float) -> dict[str, Any]:
    """All users at once; time counts from when all are connected."""
    clients = [connected(url, folder) for _ in users]
    until, memory = time.monotonic() + duration, []
    with ThreadPoolExecutor(len(users)) as pool:
        running = [
            pool.submit(one_of_many, client, image, requests, until)
            for client, (image, requests) in zip(clients, users, strict=True)
        ]
        while not all(each.done() for each in running):
            memory.append(process.memory_info().rss / 2**20)
            time.sleep(MEMORY_EVERY_S)
    seen = [each.result() for each in running]
    taken = [seconds for each in seen for seconds in each["seconds"]]
    third = max(len(memory) // 3, 1)
    return {
        "users": len(users),
        "seconds": duration,
        "answers": len(taken),
        "errors": [error for each in seen for error in each["errors"]],
        "mix_ups": sum(each["mix_ups"] for each in seen),
        "fewest answers of a user": min(len(each["seconds"]) for each in seen),
        "latency_s": {f"p{share}": float(np.percentile(taken, share)) for share in (50, 95, 100) if taken},
        "server_memory_MiB": {
            "first third": median(memory[:third]),
            "second third": median(memory[third : 2 * third] or memory),
            "last third": median(memory[-third:]),
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=300)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped either way, the server is too
    pipe = CCSamPipeline.from_pretrained(DEFAULT)
    with TemporaryDirectory() as directory, served() as (url, process):
        folder = Path(directory)
        users = [
            requests_of(pipe, TARGETS[i % len(TARGETS)], FIRST_SEED + i, folder)
            for i in range(max(arguments.users, 2))
        ]
        measured = {"single user": single_user(url, users, folder)}
        measured["many users"] = many_users(url, process, users[: arguments.users], folder, arguments.seconds)
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()

"""Train without a whole data set, then measure on it: does the model follow its prompt on organs it never saw?

    python training/leave_out.py --root DATA --output runs/left_out --set CCA HC18 BUSI CAMUS --max_steps 600

DATA holds the sets of training/configs/small.yaml, which is the run but for the set that is left out and its length.
The training of a set goes on where it was stopped. Prints one line for each set, target and prompt, with the blind
baseline beside it, and writes all of them to left_out.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from ccsam_hf.data.readers import read_cases
from ccsam_hf.data.splits import Splits
from ccsam_hf.evaluation.harness import evaluate_cases
from ccsam_hf.evaluation.segmenters import CCSamSegmenter
from ccsam_hf.evaluation.statistics import BASELINES, summarize
from ccsam_hf.training.loop import train
from ccsam_hf.training.run_config import RunConfig, read_config

CONFIG = Path(__file__).parent / "configs" / "small.yaml"
PROMPTS = ("box", "point")


def train_without(left_out: str, run: RunConfig, output: Path, max_steps: int) -> Path:
    """The checkpoint of a run whose sources lack a set."""
    sources = {name: source for name, source in run.sources.items() if name != left_out}
    if len(sources) == len(run.sources):
        raise ValueError(f"{left_out!r} is no source of {CONFIG.name}; expected one of {', '.join(run.sources)}")
    train(replace(run, sources=sources, output_dir=str(output), max_steps=max_steps, eval_every=max_steps))
    return output / "last"


def measure(checkpoint: Path, name: str, run: RunConfig) -> dict[str, dict]:
    """Summary by prompt of the test part of a set."""
    cases = Splits.load(run.splits).apply(read_cases(Path(run.root) / name, run.sources[name]["layout"]))
    cases = [case for case in cases if case.split == "test" and case.mask.any()]
    segmenter = CCSamSegmenter.load(checkpoint)
    return {prompt: summarize(evaluate_cases(segmenter, cases, [prompt])) for prompt in PROMPTS}


def main() -> None:
    """Train and measure, one set after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="directory of the data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/left_out"))
    parser.add_argument("--set", nargs="+", default=["CCA", "HC18", "BUSI", "CAMUS"])
    parser.add_argument("--max_steps", type=int, default=600)
    arguments = parser.parse_args()
    run = read_config(RunConfig, ["--config", str(CONFIG), "--root", str(arguments.root)])
    results = {}
    for name in arguments.set:
        checkpoint = train_without(name, run, arguments.output / name, arguments.max_steps)
        results[name] = measure(checkpoint, name, run)
        for prompt, summary in results[name].items():
            baseline = summary["baseline"][BASELINES[prompt]]["dice"]["mean"]
            for target in (key for key, entry in summary.items() if isinstance(entry, dict) and "dice" in entry):
                dice = summary[target]["dice"]
                low, high = dice["ci95"]
                print(
                    f"without {name}: {target}, {prompt}: Dice {dice['mean']:.1f} [{low:.1f}, {high:.1f}], "
                    f"n={summary[target]['n']}, {BASELINES[prompt]} {baseline:.1f}"
                )
        (arguments.output / "left_out.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

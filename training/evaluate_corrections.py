"""How much clicks on what a mask got wrong improve it: Dice after the first click and after each correction.

    python training/evaluate_corrections.py --model src/ccsam_hf/assets/ccsam-tiny --data sim

The first click is SAMUS's fixed one; each further click lies deepest inside the wrong pixels of the mask before it.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from ccsam_hf import TINY
from ccsam_hf.data.cases import Case
from ccsam_hf.data.prompts import Prompt, fixed_click
from ccsam_hf.data.readers import LAYOUTS
from ccsam_hf.evaluation.data_sets import read_data
from ccsam_hf.evaluation.metrics import dice
from ccsam_hf.evaluation.protocol import true_mask
from ccsam_hf.evaluation.segmenters import Segmenter, load_segmenter


def dice_by_clicks(segmenter: Segmenter, case: Case, corrections: int) -> list[float]:
    """Dice in percent after the first click and after each correction; a mask without an error stays as it is."""
    truth, encoded = true_mask(case), segmenter.encode(case.image)
    points, labels, scores = [fixed_click(truth)], [1], []
    for _ in range(corrections + 1):
        prompt = Prompt(points=np.array(points, dtype=np.float32), labels=np.array(labels, dtype=np.int64))
        mask = segmenter.segment(encoded, prompt, case.target).mask
        scores.append(100 * dice(mask, truth))
        wrong = mask != truth
        if not wrong.any():
            return scores + [100.0] * (corrections + 1 - len(scores))
        depth = distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        points.append((column, row))
        labels.append(int(truth[row, column]))
    return scores


def main(texts: Sequence[str] | None = None) -> None:
    """Print the means over the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=TINY, help="as in ccsam-hf evaluate; the bundled ccsam-tiny if left out")
    parser.add_argument("--data", required=True)
    parser.add_argument("--layout", choices=LAYOUTS, default="folder")
    parser.add_argument("--corrections", type=int, default=3)
    arguments = parser.parse_args(texts)
    data, _ = read_data(arguments.data, arguments.data, arguments.layout)
    segmenter = load_segmenter(arguments.model)
    scores = [dice_by_clicks(segmenter, case, arguments.corrections) for case in data.cases]
    print(f"{len(scores)} cases, Dice by number of clicks: {np.mean(scores, axis=0).round(1).tolist()}")


if __name__ == "__main__":
    main()

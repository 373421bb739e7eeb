"""Train the text grounder on boxes derived from masks: see `ccsam_hf.training.grounding_loop`.

    accelerate launch training/train_grounder.py --config training/configs/tiny_grounder.yaml

Every field of `GrounderRun` can stand in the YAML file or on the command line.
"""

import sys

from ccsam_hf.training.grounding_loop import train_grounder
from ccsam_hf.training.grounding_run import GrounderRun
from ccsam_hf.training.run_config import read_config

if __name__ == "__main__":
    train_grounder(read_config(GrounderRun, sys.argv[1:]))

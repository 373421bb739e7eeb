"""Train CC-SAM: `accelerate launch training/train.py --config FILE`; `ccsam_hf.training.loop` holds the life of a run.

Every field of `ccsam_hf.training.run_config.RunConfig` can stand in the YAML file and be overridden on the command
line. The same command goes on with a run that was stopped.
"""

import sys

from ccsam_hf.training.loop import train
from ccsam_hf.training.run_config import RunConfig, read_config

if __name__ == "__main__":
    train(read_config(RunConfig, sys.argv[1:]))

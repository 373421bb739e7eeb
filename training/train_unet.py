"""Train a U-Net to compare with: `accelerate launch training/train_unet.py --config FILE`, FILE as for CC-SAM.

`ccsam_hf.training.unet` holds the life of a run and says which fields have no meaning for it. The same command goes on
with a run that was stopped; `ccsam-hf evaluate --model unet:<output_dir>/best` measures it.
"""

import sys

from ccsam_hf.training.run_config import RunConfig, read_config
from ccsam_hf.training.unet import train_unet

if __name__ == "__main__":
    train_unet(read_config(RunConfig, sys.argv[1:]))

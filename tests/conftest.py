"""One thread for each test process: the same bits everywhere, and no fight for cores between the processes."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import torch

torch.set_num_threads(1)

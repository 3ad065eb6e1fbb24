"""Environment variables for tiny networks, set before PyTorch is imported."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks: threads only wait for each other
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads leave their core idle

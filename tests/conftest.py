"""One thread a process: tests run side by side, and results must not depend on the number of cores."""

import cv2
import torch

torch.set_num_threads(1)
cv2.setNumThreads(0)

from __future__ import annotations

import os

# Before torch is loaded: these models are so small that a second thread costs more than it does.
os.environ["OMP_NUM_THREADS"] = "1"

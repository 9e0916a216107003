"""Percentile bootstrap of a mean in numpy, on one thread: prints {"bootstrap_ms": ...}.

usage: python benchmarks/numpy_bootstrap.py [values] [resamples]
needs: numpy
"""
import json
import sys
import time

import numpy as np

n, resamples = (int(word) for word in (sys.argv[1:] + ["10000", "10000"][len(sys.argv) - 1 :])[:2])
rng = np.random.default_rng(1)
values = rng.random(n)
begun = time.perf_counter()
means = np.empty(resamples)
for r in range(resamples):
    means[r] = values[rng.integers(0, n, n)].mean()
np.quantile(means, [0.025, 0.975])
print(json.dumps({"bootstrap_ms": 1000 * (time.perf_counter() - begun)}))

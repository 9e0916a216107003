"""Writes what scipy, statsmodels and exact fractions say about the statistics of @attune/eval.

usage: python tools/golden/estimates.py packages/eval/test/statistics.golden.json
needs: numpy, scipy, statsmodels

{ versions, seed,
  t:           [{ values, confidence, low, high, se }]                       mean, Student t
  clustered:   [{ values, clusters, low, high, se }]                         OLS on a constant, cov_type "cluster", t
  wilson:      [{ hits, n, confidence, low, high }]
  wilsonCoverage: [{ n, p, coverage }]                                       sums of binomial probabilities
  draws:       [{ n, seed, first, second }]                                  eight indices of two resamples: sfc32, Lemire
  bootstrap:   [{ values, statistic, method, low, high, se }]                a million resamples
  permutation: [{ first, second, pValue }]                                   all sign patterns
  passAtK:     [{ samples, correct, k, value }]                              fractions of binomials
  bestOfN:     [{ scores, gold, n, max, atMax }]                             all subsets, fractions
  correlation: [{ first, second, confidence, pearson: { value, low, high }, spearman }]
}
"""
import itertools
import json
import math
import sys
from fractions import Fraction

import numpy as np
import scipy
import scipy.stats as st
import statsmodels
import statsmodels.api as sm

SEED = 20263
rng = np.random.default_rng(SEED)


def listed(array):
    return [float(v) for v in array]


def t_interval(values, confidence):
    se = st.sem(values)
    low, high = st.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=se)
    return {"values": listed(values), "confidence": confidence, "low": low, "high": high, "se": se}


def clustered(sizes):
    effects = rng.normal(size=len(sizes))
    values = np.round(np.concatenate([rng.normal(effect, 1, size) for effect, size in zip(effects, sizes)]), 6)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(values))
    values, groups = values[order], groups[order]
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    low, high = fit.conf_int(0.05)[0]
    return {"values": listed(values), "clusters": [f"c{g}" for g in groups], "low": low, "high": high, "se": fit.bse[0]}


def wilson(hits, n, confidence):
    ci = st.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return {"hits": hits, "n": n, "confidence": confidence, "low": ci.low, "high": ci.high}


def wilson_coverage(n, p):
    inside = 0.0
    for hits in range(n + 1):
        ci = st.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        inside += st.binom.pmf(hits, n, p) if ci.low <= p <= ci.high else 0
    return {"n": n, "p": p, "coverage": inside}


def sfc32(seed):
    a, b, c, counter = seed % 2**32, int(seed / 2**32) % 2**32, 0, 1
    while True:
        word = (a + b + counter) % 2**32
        counter = (counter + 1) % 2**32
        a, b, c = b ^ (b >> 9), (c + (c << 3)) % 2**32, ((c << 21 | c >> 11) + word) % 2**32
        yield word


def draws(n, seed):
    words = sfc32(seed)
    for _ in range(32):
        next(words)

    def resample():
        indices = []
        while len(indices) < n:
            word = next(words)
            for part, bits in ([(word % 2**16, 16), (word >> 16, 16)] if n <= 2**16 else [(word, 32)]):
                high, low = divmod(part * n, 2**bits)
                if low >= 2**bits % n:
                    indices.append(high)
        return indices[:8]

    return {"n": n, "seed": seed, "first": resample(), "second": resample()}


def bootstrap(values, statistic, method):
    functions = {"mean": np.mean, "sd": lambda x, axis=-1: np.std(x, ddof=1, axis=axis)}
    result = st.bootstrap(
        (values,), functions[statistic], n_resamples=1_000_000, batch=10_000, method=method, rng=np.random.default_rng(SEED)
    )
    ci = result.confidence_interval
    return {
        "values": listed(values), "statistic": statistic, "method": method,
        "low": ci.low, "high": ci.high, "se": result.standard_error,
    }


def permutation(first, second):
    result = st.permutation_test(
        (first, second), lambda x, y, axis=-1: np.mean(x - y, axis=axis),
        permutation_type="samples", n_resamples=np.inf, vectorized=True,
    )
    return {"first": listed(first), "second": listed(second), "pValue": float(result.pvalue)}


def pass_at_k(samples, correct, k):
    value = 1 - Fraction(math.comb(samples - correct, k), math.comb(samples, k))
    return {"samples": samples, "correct": correct, "k": k, "value": float(value)}


def best_of_n(scores, gold, n):
    best, at_best, count = Fraction(0), Fraction(0), 0
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        ties = [i for i in subset if scores[i] == top]
        best += Fraction(top)
        at_best += sum(Fraction(gold[i]) for i in ties) / len(ties)
        count += 1
    return {"scores": scores, "gold": gold, "n": n, "max": float(best / count), "atMax": float(at_best / count)}


def correlation(first, second, confidence):
    result = st.pearsonr(first, second)
    ci = result.confidence_interval(confidence)
    return {
        "first": listed(first), "second": listed(second), "confidence": confidence,
        "pearson": {"value": result.statistic, "low": ci.low, "high": ci.high},
        "spearman": st.spearmanr(first, second).statistic,
    }


skewed = np.round(rng.exponential(size=40), 6)
x = np.round(rng.normal(size=30), 3)
correct = rng.integers(0, 2, size=(2, 14))
golden = {
    "versions": {"numpy": np.__version__, "scipy": scipy.__version__, "statsmodels": statsmodels.__version__},
    "seed": SEED,
    "t": [t_interval(np.round(rng.normal(size=n), 6), c) for n in (2, 5, 30) for c in (0.9, 0.95, 0.99)],
    "clustered": [clustered([3] * 10), clustered([1, 2, 3, 4, 5, 20]), clustered([1] * 12)],
    "wilson": [wilson(h, n, c) for h, n in ((0, 10), (1, 10), (5, 10), (10, 10), (1, 50), (713, 1000)) for c in (0.9, 0.95)],
    "wilsonCoverage": [
        wilson_coverage(n, p)
        for n, p in ((10, 0.5), (20, 0.1), (50, 0.02), (50, 0.1), (50, 0.5), (100, 0.01), (100, 0.3), (500, 0.02), (500, 0.5), (1000, 0.7))
    ],
    "draws": [draws(n, seed) for n, seed in ((8, 0), (11, 1), (40_000, -7), (65_536, 2**40 + 3), (70_001, 12345))],
    "bootstrap": [bootstrap(skewed, s, m) for s in ("mean", "sd") for m in ("percentile", "BCa")],
    "permutation": [
        permutation(np.round(rng.normal(size=n), 6), np.round(rng.normal(-shift, size=n), 6))
        for n, shift in ((3, 0), (8, 0.5), (13, 1), (15, 0.5))
    ]
    + [permutation(correct[0], correct[1]), permutation(np.array([0.1, 0.7, 0.3, 0.9, 0.5, 1.0]), np.array([0.0, 0.4, 0.1, 0.9, 0.6, 0.2]))],
    "passAtK": [
        pass_at_k(*case)
        for case in (
            (1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 2, 4), (200, 1, 100), (200, 13, 10), (200, 199, 1), (1000, 3, 7),
            (100_000, 1, 1), (100_000, 17, 1000), (100_000, 40_000, 2), (100_000, 5, 50_000),
        )
    ],
    "bestOfN": [best_of_n([0.1, 0.4, 0.5, 0.9], [0.1, 0.4, 0.5, 0.9], 2)]
    + [best_of_n([0.5, 0.5, 0.25, 1.5, 1.5, 1.5, -2.0], [1.0, 3.0, 0.5, -1.0, 4.0, 8.0, 2.0], n) for n in range(1, 8)]
    + [best_of_n(listed(rng.normal(size=9)), listed(rng.normal(size=9)), n) for n in (1, 3, 8)],
    "correlation": [
        correlation(x, np.round(0.6 * x + rng.normal(size=30), 3), 0.95),
        correlation(np.round(x * 2) / 2, np.round(-x + rng.normal(size=30)), 0.9),
        correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]), 0.95),
    ],
}
with open(sys.argv[1], "w") as file:
    json.dump(golden, file)
    file.write("\n")

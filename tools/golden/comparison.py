"""Writes agreement coefficients, Bradley-Terry strengths and length-controlled win rates as Python's libraries have them.

usage: python tools/golden/comparison.py packages/eval/test/judging
needs: numpy, scikit-learn, statsmodels, krippendorff (as of pln-fing-udelar/fast-krippendorff 089bfbb)

Comparison.golden.json  { versions, kappa, alpha, strengths, logistic }
  kappa      [{ first, second, labels, none, linear, quadratic }]          sklearn.metrics.cohen_kappa_score
  alpha      [{ units: [[rating | null]], nominal, ordinal, interval }]    krippendorff.alpha
  strengths  [{ wins: [[count]], strengths }] mean 0                       statsmodels GLM, logit of a win on the difference of
                                                                            two indicators; the MM algorithm of Hunter 2004
                                                                            agrees to 1e-9, or the script stops
  logistic   [{ lengths: [[first, second]], wins, ridge, intercept, slope, rate }]
             ridge > 0: sklearn LogisticRegression(C=1/ridge); ridge 0: statsmodels GLM
"""
import json
import os
import sys

import krippendorff
import numpy as np
import sklearn
import statsmodels
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

out = sys.argv[1]
rng = np.random.default_rng(20240404)


def kappa(first, second, labels):
    scores = {
        name: cohen_kappa_score(first, second, labels=labels, weights=weights)
        for name, weights in (("none", None), ("linear", "linear"), ("quadratic", "quadratic"))
    }
    return {"first": first, "second": second, "labels": labels, **scores}


def ratings(n, k, agree):
    truth = rng.integers(1, k + 1, n)
    other = np.where(rng.random(n) < agree, truth, rng.integers(1, k + 1, n))
    return truth.tolist(), other.tolist()


kappas = [kappa(*ratings(60, 3, 0.6), [1, 2, 3]), kappa(*ratings(200, 7, 0.4), [1, 2, 3, 4, 5, 6, 7])]
# A label that only one rater uses, and one that nobody does.
kappas.append(kappa([1, 1, 2, 2, 4, 4, 2, 1], [1, 2, 2, 2, 2, 1, 2, 1], [1, 2, 3, 4]))
kappas.append(kappa(["a", "b", "tie", "a", "b", "a"], ["a", "b", "b", "a", "tie", "b"], ["a", "b", "tie"]))


def alpha(units):
    table = np.array([[np.nan if value is None else value for value in unit] for unit in units], dtype=float).T
    levels = ("nominal", "ordinal", "interval")
    return {"units": units, **{level: krippendorff.alpha(table, level_of_measurement=level) for level in levels}}


def units(n, raters, k, agree, missing):
    rows = []
    for _ in range(n):
        truth = rng.integers(1, k + 1)
        row = [int(truth if rng.random() < agree else rng.integers(1, k + 1)) for _ in range(raters)]
        rows.append([None if rng.random() < missing else value for value in row])
    return rows


alphas = [alpha(units(30, 2, 3, 0.7, 0)), alpha(units(50, 4, 5, 0.6, 0.3)), alpha(units(20, 5, 7, 0.2, 0.5))]
# Levels that are not whole and not evenly spaced.
alphas.append(alpha([[0.5, 0.5, 2], [2, 10, None], [10, 10, 10], [0.5, None, None], [2, 2, 0.5]]))


def glm(wins):
    wins = np.array(wins, dtype=float)
    k = len(wins)
    rows, shares, weights = [], [], []
    for i in range(k):
        for j in range(i + 1, k):
            games = wins[i, j] + wins[j, i]
            if games > 0:
                row = np.zeros(k)
                row[i], row[j] = 1, -1
                rows.append(row[1:])
                shares.append(wins[i, j] / games)
                weights.append(games)
    fit = sm.GLM(shares, np.array(rows), family=sm.families.Binomial(), var_weights=weights).fit(tol=1e-14, maxiter=200)
    strengths = np.concatenate([[0], fit.params])
    return strengths - strengths.mean()


def mm(wins):
    wins = np.array(wins, dtype=float)
    games = wins + wins.T
    params = np.ones(len(wins))
    for _ in range(200_000):
        before = params
        params = wins.sum(axis=1) / (games / (params[:, None] + params[None, :])).sum(axis=1)
        params = params / np.exp(np.log(params).mean())
        if np.abs(np.log(params) - np.log(before)).max() < 1e-14:
            break
    return np.log(params)


def strengths(wins):
    one, other = glm(wins), mm(wins)
    assert np.abs(one - other).max() < 1e-9, (one, other)
    return {"wins": wins, "strengths": one.tolist()}


tables = [
    [[0, 7], [3, 0]],
    [[0, 12, 9.5, 20], [8, 0, 11, 14.5], [10.5, 9, 0, 13], [4, 5.5, 7, 0]],
    # Not every pair met, and strengths are far apart.
    [[0, 30, 0, 0, 0], [1, 0, 25, 0, 0], [0, 2, 0, 40, 3], [0, 0, 1, 0, 19.5], [0, 0, 0, 0.5, 0]],
]


def logistic(n, theta, phi, ties, ridge):
    lengths = rng.integers(20, 400, (n, 2))
    difference = (lengths[:, 0] - lengths[:, 1]).astype(float)
    x = np.tanh(difference / difference.std(ddof=1))
    wins = (rng.random(n) < 1 / (1 + np.exp(-theta - phi * x))).astype(float)
    wins[rng.random(n) < ties] = 0.5
    design = np.stack([np.ones(n), x], axis=1)
    if ridge > 0:
        model = LogisticRegression(C=1 / ridge, fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        model.fit(np.concatenate([design, design]), [1] * n + [0] * n, sample_weight=np.concatenate([wins, 1 - wins]))
        intercept, slope = model.coef_[0]
    else:
        fit = sm.GLM(wins, design, family=sm.families.Binomial()).fit(tol=1e-14, maxiter=200)
        intercept, slope = fit.params
    return {
        "lengths": lengths.tolist(),
        "wins": wins.tolist(),
        "ridge": ridge,
        "intercept": intercept,
        "slope": slope,
        "rate": 1 / (1 + np.exp(-intercept)),
    }


golden = {
    "versions": {"scikit-learn": sklearn.__version__, "statsmodels": statsmodels.__version__, "numpy": np.__version__},
    "kappa": kappas,
    "alpha": alphas,
    "strengths": [strengths(table) for table in tables],
    "logistic": [
        logistic(80, 0.3, 1.2, 0.1, 0.01),
        logistic(120, -0.8, -0.5, 0, 1),
        logistic(60, 0.1, 2, 0.2, 0),
        # Nearly all won: the ridge matters.
        logistic(25, 6, 0, 0, 0.01),
    ],
}
with open(os.path.join(out, "Comparison.golden.json"), "w") as file:
    json.dump(golden, file)
    file.write("\n")

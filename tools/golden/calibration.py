"""Reliability bins, expected calibration error and Brier score from scikit-learn and numpy, for @attune/eval.

    python tools/golden/calibration.py packages/eval/test/statistics/Calibration.golden.json
"""

import json
import sys

import numpy
import sklearn
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss


def expected_error(probabilities, outcomes, edges):
    places = numpy.searchsorted(edges[1:-1], probabilities)
    return sum(
        (places == bin).mean() * abs(probabilities[places == bin].mean() - outcomes[places == bin].mean())
        for bin in numpy.unique(places)
    )


def case(name, probabilities, outcomes, bins):
    result = {
        "name": name,
        "bins": bins,
        "probabilities": probabilities.tolist(),
        "outcomes": outcomes.tolist(),
        "brier": brier_score_loss(outcomes, probabilities),
    }
    for by, strategy in [("width", "uniform"), ("count", "quantile")]:
        observed, predicted = calibration_curve(outcomes, probabilities, n_bins=bins, strategy=strategy)
        levels = numpy.linspace(0, 1, bins + 1)
        edges = levels if by == "width" else numpy.percentile(probabilities, levels * 100)
        result[by] = {
            "predicted": predicted.tolist(),
            "observed": observed.tolist(),
            "expectedError": expected_error(probabilities, outcomes, edges),
        }
    return result


random = numpy.random.default_rng(7)
logits = random.normal(size=97) * 1.5
outcomes = (random.random(97) < 1 / (1 + numpy.exp(-logits))).astype(int)
probabilities = 1 / (1 + numpy.exp(-1.6 * logits))
cases = [
    case("overconfident", probabilities, outcomes, 10),
    case("on edges and tied", numpy.round(probabilities, 1), outcomes, 5),
    case("few and far", probabilities[:7], outcomes[:7], 10),
]
with open(sys.argv[1], "w") as file:
    json.dump({"sklearn": sklearn.__version__, "numpy": numpy.__version__, "cases": cases}, file, indent=1)
    file.write("\n")

"""Writes ROUGE of invented texts, as torchmetrics computes it.

usage: python tools/golden/rouge.py packages/eval/test/text/rouge.golden.json
needs: torchmetrics 1.9 (CPU is enough)

torchmetrics follows the package rouge_score: lower case, runs of a-z and 0-9, no stemmer. Two things are set as in rouge_score: sentences of
rougeLsum stand on lines of their own (torchmetrics would split them with nltk), and of several references each metric takes the one with the
highest F1 by itself (torchmetrics takes one for all metrics, so it is asked for one metric at a time).
{ versions, cases: [{ name, candidate, references, rouge1, rouge2, rougeL, rougeLsum: [precision, recall, f1] }] }
"""
import json
import random
import sys

import torchmetrics
from torchmetrics.functional.text import rouge

rouge._split_sentence = lambda text: [line for line in text.split("\n") if line]
KEYS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def case(name, candidate, *references):
    result = {"name": name, "candidate": candidate, "references": list(references)}
    for key in KEYS:
        values = rouge.rouge_score(candidate, [list(references)], rouge_keys=(key,), accumulate="best")
        result[key] = [float(f"{values[f'{key}_{part}'].item():.9g}") for part in ("precision", "recall", "fmeasure")]
    return result


generator = random.Random(20263)


def story(words, lines, vocabulary):
    tokens = [generator.choice(vocabulary) for _ in range(words)]
    cuts = sorted(generator.sample(range(1, words), lines - 1))
    return "\n".join(" ".join(tokens[a:b]) for a, b in zip([0, *cuts], [*cuts, words]))


few = ["sun", "sea", "sand"]
some = ["the", "crab", "walks", "sideways", "to", "a", "warm", "pool", "and", "sleeps"]

cases = [
    case("the same text", "A fox sleeps.", "A fox sleeps."),
    case("nothing shared", "A fox sleeps.", "Rain fell."),
    case("a part of the reference", "The fox sleeps", "The old fox sleeps under the tree"),
    case("longer than the reference", "The old fox sleeps under the tree", "The fox sleeps"),
    case("other order", "under the tree sleeps the fox", "the fox sleeps under the tree"),
    case("words as often as in both", "the the the the", "the fox and the tree"),
    case("case, digits and punctuation", "It's 3.50 euros -- CHEAP!", "its 3,50 Euros: cheap"),
    case("empty candidate", "", "A fox sleeps."),
    case("empty reference", "A fox sleeps.", ""),
    case("both empty", "", ""),
    case("punctuation alone", "?! ...", "A fox sleeps."),
    case("one word", "fox", "fox"),
    case("one word of two", "fox", "red fox"),
    case("accents separate", "Ein Füchslein schläft", "Ein Füchslein schlief"),
    case("no letters of the default tokens", "キツネは眠る", "キツネは眠る"),
    case("characters outside the basic plane", "fox 🦊 𝒜𝒷 sleeps", "fox sleeps 🦊"),
    case("letters that become a-z in lower case", "\u212aelvin \u0130stanbul", "kelvin istanbul"),
    case("lines in another order", "The tree is old.\nA fox sleeps under it.", "A fox sleeps under it.\nThe tree is old."),
    case("a line over two lines", "A fox sleeps\nunder the tree", "A fox sleeps under the tree"),
    case("empty lines", "\n\nA fox\n\nsleeps\n", "A fox\nsleeps"),
    case("a word shared by several lines", "the fox\nthe tree\nthe sky", "the fox and the tree"),
    case("ties among subsequences", "a b c a", "c a b c\na c b a"),
    case("two references", "the fox sleeps", "a cat runs far", "the fox runs"),
    case("another reference for each metric", "a b c d", "d c b a", "a b x y z"),
    case("equal references", "the fox", "the cat", "a fox"),
    *[case(f"few words {i}", story(20, 3, few), story(25, 4, few)) for i in range(6)],
    *[case(f"more words {i}", story(80, 5, some), story(60, 6, some), story(70, 4, some)) for i in range(4)],
    case("longer than a machine word", story(400, 8, some), story(300, 6, some)),
]

with open(sys.argv[1], "w") as file:
    versions = {"torchmetrics": torchmetrics.__version__}
    json.dump({"versions": versions, "seed": 20263, "cases": cases}, file, ensure_ascii=True)
    file.write("\n")

"""Writes the log-probs that transformers samples from, for given logits and settings.

usage: python tools/golden/sampling.py packages/core/test/onnx/sampling.golden.json
needs: torch, transformers (CPU is enough)

Processors run in the order of transformers' generate: repetition penalty, temperature, top-k, top-p; then log-softmax.
float64 arithmetic on float32 logits, rounded to float32 once; a token that cannot be drawn has "-Infinity".
{ versions, seed, cases: [{ name, repetitionPenalty, temperature, topK, topP, logits: { shape, data }, previous: [[ids]], logprobs: { shape, data } }] }
  previous     tokens that the repetition penalty counts, per row (prompt and completion so far)
  topK 0 and topP 1 mean "off"; ties at the k-th logit are all kept, as transformers does
"""
import json
import sys

import torch
import transformers
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

SEED = 20262
B, V = 3, 24
generator = torch.Generator().manual_seed(SEED)


def number(value):
    return "-Infinity" if value == float("-inf") else float(f"{value:.9g}")


def stored(tensor):
    return {"shape": list(tensor.shape), "data": [number(v) for v in tensor.float().flatten().tolist()]}


def case(name, *, repetition_penalty=1.0, temperature=1.0, top_k=0, top_p=1.0, logits=None, previous=None):
    logits = torch.randn((B, V), generator=generator, dtype=torch.float32) * 1.2 if logits is None else logits
    previous = torch.randint(0, V, (logits.shape[0], 5), generator=generator) if previous is None else previous
    processors = LogitsProcessorList()
    if repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))
    if temperature != 1:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k > 0:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    logprobs = torch.log_softmax(processors(previous, logits.double()), -1)
    return {"name": name, "repetitionPenalty": repetition_penalty, "temperature": temperature, "topK": top_k, "topP": top_p,
            "logits": stored(logits), "previous": previous.tolist(), "logprobs": stored(logprobs)}


cases = [
    case("nothing"),
    case("temperature below 1", temperature=0.7),
    case("temperature above 1", temperature=1.5),
    case("top-k 5", top_k=5),
    case("top-k 1", top_k=1),
    case("top-k larger than the vocabulary", top_k=100),
    case("top-k with ties at the boundary", top_k=2, logits=torch.tensor([[1.0, 3, 2, 2, 0, 2]])),
    case("top-p 0.9", top_p=0.9),
    case("top-p 0.5", top_p=0.5),
    case("top-p so small that one token is left", top_p=0.01),
    case("repetition penalty above 1", repetition_penalty=1.3),
    case("repetition penalty below 1", repetition_penalty=0.8),
    case("repetition penalty with repeated ids", repetition_penalty=1.5, previous=torch.tensor([[2, 2, 2], [0, 1, 0], [5, 5, 6]])),
    case("temperature, top-k, top-p", temperature=0.8, top_k=8, top_p=0.8),
    case("hot top-p after top-k", temperature=2.0, top_k=12, top_p=0.9),
    case("all four", repetition_penalty=1.2, temperature=0.9, top_k=10, top_p=0.95),
]
json.dump({"versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "seed": SEED, "cases": cases},
          open(sys.argv[1], "w"), separators=(",", ":"))

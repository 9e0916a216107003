"""Writes what PyTorch computes for the losses of PPO, PPO-ptx and reward models through a tiny llama with a scalar head.

usage: python tools/golden/ppo_loss.py packages/rlhf/test/ppo-loss.golden.json
needs: torch, transformers (CPU is enough)

float64, but for what transformers computes in float32 whatever the dtype (norms, positions).
{ versions, seed, config,
  parameters: { <name>: { shape, data } }      of a tied llama, and score.weight, score.bias: multiples of 1/1024
  episodes: [{ tokens, logprobs, values, advantages, returns }]      [T] of the answer's tokens, those at the end of tokens
  pretraining: [{ tokens, weights }]                                 0 and 1
  rankings: [{ prompt, completions, ranks, scores }]                 ids; scores [K] are read at the completions' last tokens
  cases: { <name>: { settings, loss, metrics, gradients: { <parameter>: [...] } } } }
      a parameter that the loss does not reach has no gradient.
Log-probs of sampled tokens are those at the temperature of the settings, in `logprobs` too.
"""
import itertools
import json
import sys

import torch
import transformers

SEED, VOCAB, WIDTH, CONTEXT = 4711, 20, 8, 16
generator = torch.Generator().manual_seed(SEED)
config = transformers.LlamaConfig(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    max_position_embeddings=CONTEXT, tie_word_embeddings=True)


def randn(*shape, digits=10):
    return torch.round(torch.randn(shape, generator=generator, dtype=torch.float64) * 2**digits) / 2**digits


def randint(low, high, count):
    return torch.randint(low, high, (count,), generator=generator).tolist()


model = transformers.LlamaForCausalLM(config).double().eval()
score = torch.nn.Linear(WIDTH, 1).double()
parameters = dict(model.named_parameters()) | {f"score.{k}": p for k, p in score.named_parameters()}
with torch.no_grad():
    for name, p in parameters.items():
        size = 0.8 if "embed" in name else 0.4
        p.copy_(torch.round(size * randn(*p.shape) * 1024) / 1024 + (1 if "norm" in name else 0))


def hidden(tokens):
    return model.model(torch.tensor([tokens])).last_hidden_state[0]


def next_logprobs(tokens, temperature=1.0):
    """Of every token but the first, and the distributions that they are from."""
    all = torch.log_softmax(model.lm_head(hidden(tokens)[:-1]) / temperature, -1)
    return all.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0], all


TEMPERATURE = 0.75
episodes, own = [], []
for prompt, answer in [(3, 5), (1, 1), (2, 9), (6, 3)]:
    tokens = randint(0, VOCAB, prompt + answer)
    with torch.no_grad():
        logprobs = next_logprobs(tokens, TEMPERATURE)[0][-answer:]
        values = score(hidden(tokens))[:, 0][-answer - 1:-1]
    episodes.append({
        "tokens": tokens,
        # As if the policy had moved by some tenths of a nat, and the values further than they may.
        "logprobs": (logprobs + 0.3 * randn(answer)).round(decimals=4).tolist(),
        "values": (values + 0.3 * randn(answer)).round(decimals=4).tolist(),
        "advantages": randn(answer).tolist(),
        "returns": randn(answer).tolist()})
pretraining = []
for prompt, length in [(1, 7), (4, 9), (1, 2)]:
    pretraining.append({"tokens": randint(0, VOCAB, length), "weights": [0] * prompt + [1] * (length - prompt)})
rankings = []
for prompt, ranks in [(3, [1, 3, 2, 2]), (2, [2, 1]), (1, [5, 5, 7])]:
    completions = [randint(0, VOCAB, 1 + randint(0, 6, 1)[0]) for _ in ranks]
    ids = randint(0, VOCAB, prompt)
    with torch.no_grad():
        scores = [score(hidden(ids + c))[-1, 0].item() for c in completions]
    rankings.append({"prompt": ids, "completions": completions, "ranks": ranks, "scores": scores})


def clearly(x, *bounds):
    """On one side of the bounds in single precision too."""
    assert all((x - bound).abs().min() > 1e-4 for bound in bounds)
    return x


def policy(settings):
    terms, entropies, ratios = [], [], []
    clip, temperature = settings["clipRange"], settings["temperature"]
    for episode in episodes:
        n = len(episode["logprobs"])
        logprobs, all = next_logprobs(episode["tokens"], temperature)
        # The answers were sampled at TEMPERATURE: elsewhere ratios are further from 1.
        ratio = clearly(torch.exp(logprobs[-n:] - torch.tensor(episode["logprobs"])), 1 - clip, 1 + clip)
        advantages = torch.tensor(episode["advantages"], dtype=torch.float64)
        terms.append(torch.stack([-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)]))
        ratios.append(ratio)
        entropies.append(-(all.exp() * all).sum(-1)[-n:])
    unclipped, clipped = torch.cat(terms, 1)
    ratios = torch.cat(ratios)
    loss = policy_loss = torch.maximum(unclipped, clipped).mean()
    ptx_loss = torch.zeros(())
    if settings["ptx"] is not None:
        counted = [next_logprobs(e["tokens"])[0][torch.tensor(e["weights"][1:]) > 0] for e in pretraining]
        ptx_loss = -torch.cat(counted).mean()
        loss = loss + settings["ptx"]["coef"] * ptx_loss
    return loss, {
        "policy_loss": policy_loss, "ptx_loss": ptx_loss, "approxkl": 0.5 * (ratios.log() ** 2).mean(),
        "clipfrac": (clipped > unclipped).double().mean(), "entropy": torch.cat(entropies).mean(), "ratio": ratios.mean(),
        "max_logprob_difference": ratios.log().abs().max()}


def value(settings):
    errors = []
    for episode in episodes:
        n = len(episode["values"])
        new = score(hidden(episode["tokens"]))[:, 0][-n - 1:-1]
        old, returns = torch.tensor(episode["values"]), torch.tensor(episode["returns"])
        clip = settings["valueClipRange"]
        clipped = torch.clamp(clearly(new - old, -clip, clip), -clip, clip) + old
        errors.append(torch.stack([(new - returns) ** 2, (clipped - returns) ** 2]))
    unclipped, clipped = torch.cat(errors, 1)
    loss = 0.5 * torch.maximum(unclipped, clipped).mean()
    return loss, {"value_loss": loss, "value_clipfrac": (clipped > unclipped + 1e-9).double().mean()}


def shared(settings):
    loss, metrics = policy(settings)
    of_values, more = value(settings)
    return loss + settings["valueCoef"] * of_values, metrics | more


def ranking(settings):
    losses, accuracies, margins = [], [], []
    for item in rankings:
        scores = [score(hidden(item["prompt"] + c))[-1, 0] for c in item["completions"]]
        pairs = [(scores[i], scores[j]) for i, j in itertools.permutations(range(len(scores)), 2)
                 if item["ranks"][i] < item["ranks"][j]]
        better, worse = (torch.stack(s) for s in zip(*pairs))
        losses.append((-torch.nn.functional.logsigmoid(better - worse - settings["margin"])).mean()
                      + settings["centering"] * ((better + worse) ** 2).mean())
        accuracies.append((clearly(better - worse, 0) > 0).double().mean())
        margins.append((better - worse).mean())
    return torch.stack(losses).mean(), {"accuracy": torch.stack(accuracies).mean(), "score_margin": torch.stack(margins).mean()}


def number(x):
    return float(f"{torch.as_tensor(x).detach().item():.9g}")


def case(of, **settings):
    for p in parameters.values():
        p.grad = None
    loss, metrics = of(settings)
    loss.backward()
    return {"settings": settings, "loss": number(loss), "metrics": {k: number(v) for k, v in metrics.items()},
            "gradients": {k: [number(v) for v in p.grad.flatten().tolist()] for k, p in parameters.items() if p.grad is not None}}


torch.set_default_dtype(torch.float64)
cases = {
    "policy": case(policy, clipRange=0.2, temperature=TEMPERATURE, ptx=None),
    "policy with ptx": case(policy, clipRange=0.2, temperature=TEMPERATURE, ptx={"coef": 27.8, "examplesPerEpisode": 8}),
    "policy with ptx, temperature 1": case(policy, clipRange=0.3, temperature=1.0, ptx={"coef": 2.0, "examplesPerEpisode": 8}),
    "value": case(value, valueClipRange=0.2),
    "shared": case(shared, clipRange=0.2, temperature=TEMPERATURE, ptx={"coef": 2.0, "examplesPerEpisode": 8},
                   valueClipRange=0.2, valueCoef=0.5),
    "ranking": case(ranking, margin=0.0, centering=0.0),
    "ranking with margin and centering": case(ranking, margin=0.25, centering=0.05),
}
stored = {k: {"shape": list(p.shape), "data": p.detach().flatten().tolist()} for k, p in parameters.items()}
keys = ["model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps"]
record = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "seed": SEED,
    "config": {k: getattr(config, k) for k in keys},
    "parameters": stored, "episodes": episodes, "pretraining": pretraining, "rankings": rankings, "cases": cases}
with open(sys.argv[1], "w") as file:
    json.dump(record, file, separators=(",", ":"))
for name, c in cases.items():
    print(name, c["loss"], c["metrics"])

"""Writes what PyTorch computes for weighted fine-tuning with a prompt-loss weight, through a tiny llama.

usage: python tools/golden/ilf_loss.py packages/ilf/test/ilf-loss.golden.json
needs: torch, transformers (CPU is enough)

float64, but for what transformers computes in float32 whatever the dtype (norms, positions).
{ versions, seed, config,
  parameters: { <name>: { shape, data } }                      of a tied llama: multiples of 1/1024
  targets: [{ prompt, completions, weights }]                  ids; weights of a target sum to 1
  cases: [{ promptWeight, denominator, loss, gradients: { <parameter>: [...] } }] }
The loss is written as it is defined: one weighted sum over the whole step, one division.
"""
import json
import sys

import torch
import transformers

SEED, VOCAB, WIDTH, CONTEXT = 2303, 20, 8, 16
generator = torch.Generator().manual_seed(SEED)
config = transformers.LlamaConfig(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    max_position_embeddings=CONTEXT, tie_word_embeddings=True)
torch.set_default_dtype(torch.float64)
model = transformers.LlamaForCausalLM(config).double().eval()
parameters = dict(model.named_parameters())
with torch.no_grad():
    for name, p in parameters.items():
        values = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        size = 0.8 if "embed" in name else 0.4
        p.copy_(torch.round(size * values * 1024) / 1024 + (1 if "norm" in name else 0))


def ids(count):
    return torch.randint(0, VOCAB, (count,), generator=generator).tolist()


# One completion as by arg-max, and several as by soft selection; prompts and completions of many lengths.
targets = [{"prompt": ids(p), "completions": [ids(n) for n in lengths], "weights": weights} for p, lengths, weights in [
    (4, [2], [1.0]), (6, [3, 5, 1], [0.25, 0.5, 0.25]), (1, [4], [1.0]), (3, [7, 2], [0.125, 0.875])]]


def loss(prompt_weight, denominator):
    total, count = torch.zeros(()), 0.0
    for target in targets:
        for completion, s in zip(target["completions"], target["weights"]):
            tokens = torch.tensor(target["prompt"] + completion)
            nll = torch.nn.functional.cross_entropy(model(tokens[None]).logits[0, :-1], tokens[1:], reduction="none")
            p = len(target["prompt"]) - 1
            w = torch.cat([torch.full((p,), prompt_weight), torch.ones(len(completion))])
            total = total + s * (w * nll).sum()
            count += s * {"weights": w.sum().item(), "completionTokens": len(completion),
                          "lossTokens": (w != 0).sum().item()}[denominator]
    return total / count


def number(x):
    return float(f"{x:.9g}")


cases = []
for prompt_weight, denominator in [(0.0, "weights"), (0.1, "weights"), (0.1, "completionTokens"), (0.1, "lossTokens"),
                                   (1.0, "completionTokens")]:
    model.zero_grad()
    value = loss(prompt_weight, denominator)
    value.backward()
    cases.append({"promptWeight": prompt_weight, "denominator": denominator, "loss": number(value.item()),
                  "gradients": {k: [number(v) for v in p.grad.flatten().tolist()] for k, p in parameters.items()}})
    print(prompt_weight, denominator, value.item())

keys = ["model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps"]
with open(sys.argv[1], "w") as file:
    json.dump({
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "seed": SEED,
        "config": {k: getattr(config, k) for k in keys},
        "parameters": {k: {"shape": list(p.shape), "data": p.detach().flatten().tolist()} for k, p in parameters.items()},
        "targets": targets, "cases": cases}, file, separators=(",", ":"))

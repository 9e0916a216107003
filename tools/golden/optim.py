"""Writes what PyTorch's AdamW and transformers' learning-rate schedules compute.

usage: python tools/golden/optim.py packages/core/test/onnx/optim.golden.json
needs: torch, transformers (CPU is enough)

float64 arithmetic on float32 inputs, rounded to float32 once.
{ versions, seed,
  adamw: [{ name, learning_rate: [per step], betas, eps, weight_decay: { <parameter>: number }, max_norm: number | null, ema_decay: number | null,
            parameters: { <name>: { shape, data } }, steps: [{ gradients, grad_norm, parameters, ema }] }]
      gradients are those before clipping; grad_norm is their global L2 norm; parameters and ema are those after the step.
      clipping is torch.nn.utils.clip_grad_norm_: gradients times min(1, max_norm / (grad_norm + 1e-6)).
      ema starts at the initial parameters: ema = decay * ema + (1 - decay) * parameter, after each step.
  schedules: [{ name, warmup_steps, total_steps, min_rate, multipliers: [total_steps + 1] }] }
      multipliers[s] multiplies the base learning rate of update s (the first update is s = 0).
"""
import json
import math
import sys

import torch
import transformers

SEED = 20261
STEPS = 10
generator = torch.Generator().manual_seed(SEED)


def rand(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def stored(tensor):
    return {"shape": list(tensor.shape), "data": [float(f"{v:.9g}") for v in tensor.detach().float().flatten().tolist()]}


def adamw(name, *, learning_rate=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, groups=None, max_norm=None, ema_decay=None, scale=1.0):
    start = {"weight": rand(3, 4), "table": rand(5, 2), "bias": rand(4)}
    parameters = {k: torch.nn.Parameter(v.double()) for k, v in start.items()}
    decay = groups or {k: weight_decay for k in start}
    rates = learning_rate if isinstance(learning_rate, list) else [learning_rate] * STEPS
    optimizer = torch.optim.AdamW([{"params": [p], "weight_decay": decay[k]} for k, p in parameters.items()], lr=rates[0], betas=betas, eps=eps)
    ema = {k: v.double() for k, v in start.items()}
    steps = []
    for step in range(STEPS):
        # A row of zeros, as embedding rows that a batch does not use have; norms on both sides of max_norm.
        gradients = {k: rand(*v.shape) * scale * (0.1 if step % 3 == 2 else 1.0) for k, v in start.items()}
        gradients["table"][step % 5] = 0
        for k, p in parameters.items():
            p.grad = gradients[k].double()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm if max_norm is not None else math.inf)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        if ema_decay is not None:
            ema = {k: ema_decay * ema[k] + (1 - ema_decay) * parameters[k].detach() for k in ema}
        steps.append({"gradients": {k: stored(g) for k, g in gradients.items()}, "grad_norm": float(f"{norm.item():.9g}"),
                      "parameters": {k: stored(p) for k, p in parameters.items()},
                      "ema": {k: stored(v) for k, v in ema.items()} if ema_decay is not None else None})
    return {"name": name, "learning_rate": rates, "betas": list(betas), "eps": eps, "weight_decay": decay, "max_norm": max_norm, "ema_decay": ema_decay,
            "parameters": {k: stored(v) for k, v in start.items()}, "steps": steps}


def schedule(name, make, warmup, total, min_rate=0.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=1.0)
    scheduler = make(optimizer, warmup, total)
    multipliers = []
    for _ in range(total + 1):
        multipliers.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return {"name": name, "warmup_steps": warmup, "total_steps": total, "min_rate": min_rate, "multipliers": multipliers}


schedules = []
for warmup in (0, 4):
    schedules += [
        schedule("constant", lambda o, w, t: transformers.get_constant_schedule_with_warmup(o, w), warmup, 20),
        schedule("linear", lambda o, w, t: transformers.get_linear_schedule_with_warmup(o, w, t), warmup, 20),
        schedule("cosine", lambda o, w, t: transformers.get_cosine_schedule_with_warmup(o, w, t), warmup, 20),
        schedule("cosine", lambda o, w, t: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, w, t, min_lr_rate=0.1), warmup, 20, 0.1),
    ]
record = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "seed": SEED,
    "adamw": [
        adamw("no decay"),
        adamw("decoupled decay", weight_decay=0.1),
        adamw("no decay on biases", groups={"weight": 0.1, "table": 0.1, "bias": 0.0}),
        adamw("global-norm clip", weight_decay=0.01, max_norm=1.0),
        adamw("moving average of weights", weight_decay=0.01, ema_decay=0.9),
        adamw("warm-up and other betas", learning_rate=[1e-3 * (s + 1) for s in range(STEPS)], betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05),
        adamw("gradients as small as eps", eps=1e-8, scale=1e-8),
    ],
    "schedules": schedules,
}
json.dump(record, open(sys.argv[1], "w"), separators=(",", ":"))

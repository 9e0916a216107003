"""Scores HellaSwag with transformers: log-probs of the four endings of every row, summed over their tokens.

usage: python benchmarks/hf_hellaswag.py MODEL ROWS.jsonl BATCH [BATCH ...] [--rounds N] [--logits needed|all]
needs: torch, transformers (CPU, 2 threads)

Tokens as in the LM evaluation harness; sequences in the order of their length, padded on the right. `needed` asks the
language-model head for the endings' positions only, `all` calls the model as it is and slices its logits. Prints a JSON
line { batch, logits, seconds, acc, rows } for each batch size, the fastest last; tokenizing is timed, loading is not.
"""
import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("batch", type=int, nargs="+")
parser.add_argument("--rounds", type=int, default=1)
parser.add_argument("--logits", choices=["needed", "all"], default="needed")
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()

torch.set_num_threads(arguments.threads)
tokenizer = AutoTokenizer.from_pretrained(arguments.model)
model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
with open(arguments.rows, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file if line.strip()]


def encoded():
    contexts = tokenizer([row["ctx"] for row in rows])["input_ids"]
    wholes = tokenizer([f"{row['ctx']} {ending}" for row in rows for ending in row["endings"]])["input_ids"]
    return [(contexts[i // 4], whole[len(contexts[i // 4]):]) for i, whole in enumerate(wholes)]


def scored(batch):
    requests = encoded()
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i][0]) - len(requests[i][1]))
    sums = [0.0] * len(requests)
    for start in range(0, len(order), batch):
        taken = order[start:start + batch]
        inputs = [torch.tensor((requests[i][0] + requests[i][1])[:-1]) for i in taken]
        lengths = torch.tensor([len(requests[i][1]) for i in taken])
        rows_of = torch.repeat_interleave(torch.arange(len(taken)), lengths)
        columns = torch.cat([torch.arange(len(x) - n, len(x)) for x, n in zip(inputs, lengths.tolist())])
        targets = torch.tensor([token for i in taken for token in requests[i][1]])
        tokens = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        if arguments.logits == "needed":
            hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[rows_of, columns])
        else:
            logits = model(input_ids=tokens, use_cache=False).logits[rows_of, columns]
        logprobs = torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]
        for i, part in zip(taken, logprobs.split(lengths.tolist())):
            sums[i] = part.sum().item()
    return sums


results = []
with torch.inference_mode():
    scored(arguments.batch[0])
    for batch in arguments.batch:
        times = []
        for _ in range(arguments.rounds):
            begun = time.perf_counter()
            sums = scored(batch)
            times.append(time.perf_counter() - begun)
        right = sum(max(range(4), key=lambda c: sums[4 * i + c]) == int(row["label"]) for i, row in enumerate(rows))
        results.append({"batch": batch, "logits": arguments.logits, "seconds": round(sorted(times)[len(times) // 2], 4),
                        "acc": right / len(rows), "rows": len(rows)})
for result in sorted(results, key=lambda result: -result["seconds"]):
    print(json.dumps(result), flush=True)

"""Writes log-probs of CrowS-Pairs sentences and of BIG-Bench-Hard options, and greedy answers, as transformers has them.

usage: python tools/golden/bias_bbh.py ../shared/data packages/eval/test/benchmarks
needs: torch, transformers (CPU is enough)

Texts become tokens as in the LM evaluation harness (models/huggingface.py): white space at the end of the context moves to
the continuation; without a context the prefix is the beginning-of-text token. The model is tinystories-656K in float32.
Only numbers, row numbers and token ids are written, no text of the data sets.

CrowsPairs.golden.json  { versions, model, basic: [[more, less]] for every row, respectful: [[more, less]] for the first 100 }
BigBench.golden.json    { versions, model, choices: { task: { rows, logprobs: [[per option]] } },
                          greedy: { task: { rows, tokens: [[ids]] } } }
  the prompt is "<description>\n\nQ: <input>\nA:", an option is scored as " (A)"; greedy answers have at most 8 tokens
"""
import csv
import json
import os
import re
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

data, out = sys.argv[1], sys.argv[2]
model_name = "tinystories-656K"
tokenizer = AutoTokenizer.from_pretrained(os.path.join(data, model_name))
model = AutoModelForCausalLM.from_pretrained(os.path.join(data, model_name), dtype=torch.float32).eval()
context_length = model.config.max_position_embeddings
versions = {"torch": torch.__version__, "transformers": transformers.__version__}

RESPECTFUL = "Complete the following sentence in a polite, respectful, and unbiased manner:"
DESCRIPTIONS = {
    "date_understanding": "Infer the date from context.",
    "logical_deduction_three_objects": "A logical deduction task which requires deducing the order of a sequence of objects.",
    "object_counting": "Questions that involve enumerating objects and asking the model to count them.",
    "penguins_in_a_table": "Answer questions about a table of penguins and their attributes.",
    "tracking_shuffled_objects_three_objects": "A task requiring determining the final positions of a set of objects given "
    "their initial positions and a description of a sequence of swaps.",
    "word_sorting": "Sort a list of words.",
}


def logprob(context, continuation):
    stripped = context.rstrip()
    continuation = context[len(stripped):] + continuation
    if stripped == "":
        prompt, completion = [tokenizer.bos_token_id], tokenizer.encode(continuation, add_special_tokens=False)
    else:
        prompt = tokenizer.encode(stripped)
        completion = tokenizer.encode(stripped + continuation)[len(prompt):]
    prompt = prompt[max(0, len(prompt) + len(completion) - context_length):]
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        scores = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
    picked = scores[len(prompt) - 1:].gather(-1, torch.tensor(completion)[:, None])
    return round(picked.sum().item(), 6)


def greedy(context, limit):
    ids = tokenizer.encode(context)
    drawn = []
    while len(drawn) < limit:
        with torch.no_grad():
            drawn.append(int(model(torch.tensor([ids + drawn])).logits[0, -1].argmax()))
        if drawn[-1] == tokenizer.eos_token_id:
            break
    return drawn


def write(name, value):
    with open(os.path.join(out, name), "w") as file:
        json.dump({"versions": versions, "model": model_name, **value}, file, separators=(",", ":"))
        file.write("\n")


with open(os.path.join(data, "crows-pairs/crows_pairs.csv"), newline="") as file:
    pairs = [(row["sent_more"], row["sent_less"]) for row in csv.DictReader(file)]
write(
    "CrowsPairs.golden.json",
    {
        "basic": [[logprob("", sentence) for sentence in pair] for pair in pairs],
        "respectful": [[logprob(RESPECTFUL, "\n" + sentence) for sentence in pair] for pair in pairs[:100]],
    },
)

choices, answers = {}, {}
for task, description in DESCRIPTIONS.items():
    with open(os.path.join(data, f"bbh/{task}.json")) as file:
        examples = json.load(file)["examples"]
    rows = list(range(0, len(examples), 10))
    prompts = {row: f"{description}\n\nQ: {examples[row]['input']}\nA:" for row in rows}
    letters = {row: re.findall(r"^(\([A-Z]\)) ", examples[row]["input"], re.MULTILINE) for row in rows}
    if letters[rows[0]]:
        few = rows[::4]
        choices[task] = {"rows": few, "logprobs": [[logprob(prompts[r], f" {x}") for x in letters[r]] for r in few]}
    fitting = [row for row in rows if len(tokenizer.encode(prompts[row])) <= context_length - 8][:5]
    answers[task] = {"rows": fitting, "tokens": [greedy(prompts[row], 8) for row in fitting]}
write("BigBench.golden.json", {"choices": choices, "greedy": answers})

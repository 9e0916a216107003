"""Writes tiny checkpoints with random weights and what PyTorch computes on them, for `pnpm parity` and its test.

usage: python tools/golden/checkpoint.py packages/core/test/fixtures
needs: torch, transformers, safetensors (CPU is enough)

For each model: <out>/golden-<name>/{config.json, model.safetensors, golden.safetensors, golden.json}
golden.safetensors
  input_ids, attention_mask, labels [B, T]       padded on the right; labels are -100 where the loss does not look
  logits [B, T, V]
  left_input_ids, left_attention_mask, left_logits   the same rows, padded on the left
  grad.<parameter>                               d(loss)/d(parameter); a tied parameter appears once
  prompt_ids, prompt_mask, greedy_ids            the most likely continuations of prompts padded on the left, without the
                                                 prompts; ends are passed over, so that every row is of full length
golden.json   loss, adamw (settings), adamw_losses (one for each step on the whole batch), versions
"""
import json
import os
import sys

import torch
import transformers
from safetensors.torch import save_file

VOCAB, SEED, STEPS, NEW = 40, 4711, 10, 10
ADAMW = dict(lr=2e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.02)
CLIP = 1.0
IDS = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0)

MODELS = {
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(
        **IDS, n_embd=16, n_head=2, n_layer=1, n_positions=24, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)),
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(
        **IDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=24, tie_word_embeddings=False)),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config(
        **IDS, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, max_position_embeddings=24, tie_word_embeddings=True)),
}


def pad(rows, side):
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return ids, mask


def write(out, name, make, config, seed):
    torch.manual_seed(seed)
    model = make(config).eval()
    with torch.no_grad():
        # The usual initial weights are so small, and norms and biases so plain, that errors would not show.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    parameters = dict(model.named_parameters())
    directory = os.path.join(out, f"golden-{name}")
    os.makedirs(directory, exist_ok=True)
    config.architectures = [make.__name__]
    config.save_pretrained(directory)
    save_file({k: v.detach().clone() for k, v in parameters.items()}, os.path.join(directory, "model.safetensors"),
              metadata={"format": "pt"})

    rows = [torch.randint(3, VOCAB, (n,)).tolist() for n in (9, 4, 7)]
    ids, mask = pad(rows, "right")
    left_ids, left_mask = pad(rows, "left")
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100
    tensors = dict(input_ids=ids, attention_mask=mask, labels=labels, left_input_ids=left_ids,
                   left_attention_mask=left_mask)
    with torch.no_grad():
        positions = (left_mask.cumsum(1) - 1).clamp(min=0)
        tensors["left_logits"] = model(input_ids=left_ids, attention_mask=left_mask, position_ids=positions).logits
        tensors["prompt_ids"], tensors["prompt_mask"] = pad([rows[0][:5], rows[1][:1], rows[2][:3]], "left")
        continued = model.generate(input_ids=tensors["prompt_ids"], attention_mask=tensors["prompt_mask"], do_sample=False,
                                   max_new_tokens=NEW, min_new_tokens=NEW)
        tensors["greedy_ids"] = continued[:, tensors["prompt_ids"].shape[1]:]

    batch = dict(input_ids=ids, attention_mask=mask, labels=labels)
    result = model(**batch)
    result.loss.backward()
    tensors["logits"] = result.logits.detach()
    tensors.update({f"grad.{k}": v.grad.clone() for k, v in parameters.items()})
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(directory, "golden.safetensors"))

    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    record = dict(name=f"golden-{name}", seed=seed, loss=losses[0], adamw={**ADAMW, "clip_grad_norm": CLIP}, adamw_losses=losses,
                  versions=dict(torch=torch.__version__, transformers=transformers.__version__))
    with open(os.path.join(directory, "golden.json"), "w") as file:
        json.dump(record, file, indent=1)


for i, (name, (make, config)) in enumerate(MODELS.items()):
    write(sys.argv[1], name, make, config, SEED + i)

"""Writes tiny models for sequence classification with one label and what PyTorch computes on them, for `hub/ScalarHead`.

usage: python tools/golden/scalar_head.py packages/core/test/fixtures
       python tools/golden/scalar_head.py --check SAVED packages/core/test/fixtures/scalar-NAME
needs: torch, transformers, safetensors, onnxruntime (CPU is enough)

For each model: <out>/scalar-<name>/{config.json, model.safetensors, golden.safetensors}
golden.safetensors
  input_ids, attention_mask [B, T]               padded on the right
  left_input_ids, left_attention_mask            the same rows, padded on the left
  scores [B]                                     logits of the rows, each alone; both paddings give them within 1e-5
  values [B, T]                                  the head at every token
  returns, weights [B, T]                        of the loss Σ weights (values of the token before - returns)² / Σ weights
  loss []
  grad.<parameter>                               d(loss)/d(parameter)

--check loads a directory that `Pretrained.save` wrote, as transformers' AutoModelForSequenceClassification and as ONNX, and
compares scores with the golden ones. With models loaded from the fixtures and saved again (transformers 5.18.0, torch
2.13.0, onnxruntime 1.30.0) no tensor is missing, and only score.bias, which transformers does not have, is unexpected:
  gpt2    padded on the right: within 2.4e-07 in transformers, 2.1e-07 in ONNX; on the left: 2.4e-07 and 1.8e-07
  llama   padded on the right: within 1.2e-07 in transformers, 4.8e-07 in ONNX; on the left: 1.2e-07 and 4.5e-07
The same holds for heads that `ScalarHead.initial` adds to golden-gpt2, golden-llama and golden-qwen3 (within 7.2e-07).
"""
import os
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

VOCAB, SEED = 40, 1887
IDS = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, num_labels=1)

MODELS = {
    "gpt2": (transformers.GPT2ForSequenceClassification, transformers.GPT2Config(
        **IDS, n_embd=16, n_head=2, n_layer=2, n_positions=24, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)),
    "llama": (transformers.LlamaForSequenceClassification, transformers.LlamaConfig(
        **IDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=24, tie_word_embeddings=False)),
}


def pad(rows, side):
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return ids, mask


def scores(model, ids, mask):
    # Without positions, those of padding on the left would be counted.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, 0]


def write(out, name, make, config, seed):
    torch.manual_seed(seed)
    model = make(config).eval()
    with torch.no_grad():
        # The usual initial weights are so small, and norms and biases so plain, that errors would not show.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    directory = os.path.join(out, f"scalar-{name}")
    os.makedirs(directory, exist_ok=True)
    config.architectures = [make.__name__]
    config.save_pretrained(directory)
    parameters = dict(model.named_parameters())
    save_file({k: v.detach().clone() for k, v in parameters.items()}, os.path.join(directory, "model.safetensors"),
              metadata={"format": "pt"})

    rows = [torch.randint(3, VOCAB, (n,)).tolist() for n in (9, 4, 1, 7)]
    ids, mask = pad(rows, "right")
    left_ids, left_mask = pad(rows, "left")
    with torch.no_grad():
        alone = torch.stack([model(torch.tensor([row])).logits[0, 0] for row in rows])
        for padded in (scores(model, ids, mask), scores(model, left_ids, left_mask)):
            assert (padded - alone).abs().max() < 1e-5
    returns = torch.randn(ids.shape)
    weights = torch.rand(ids.shape) * mask
    weights[:, 0] = 0
    values = model.score(model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state)[..., 0]
    loss = (weights[:, 1:] * (values[:, :-1] - returns[:, 1:]) ** 2).sum() / weights.sum()
    loss.backward()
    tensors = dict(input_ids=ids, attention_mask=mask, left_input_ids=left_ids, left_attention_mask=left_mask,
                   scores=alone, values=values.detach(), returns=returns, weights=weights, loss=loss.detach())
    tensors.update({f"grad.{k}": v.grad for k, v in parameters.items()})
    metadata = dict(torch=torch.__version__, transformers=transformers.__version__, seed=str(seed))
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, os.path.join(directory, "golden.safetensors"),
              metadata=metadata)
    print(f"{directory}: scores {[round(x, 4) for x in alone.tolist()]}, loss {loss.item():.6f}")


def check(saved, golden):
    import onnxruntime

    expected = load_file(os.path.join(golden, "golden.safetensors"))
    model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(saved, output_loading_info=True)
    session = onnxruntime.InferenceSession(os.path.join(saved, "onnx", "model.onnx"))
    print(type(model).__name__, {k: list(v) for k, v in loading.items() if v})
    for side in ("", "left_"):
        ids, mask = expected[f"{side}input_ids"], expected[f"{side}attention_mask"]
        with torch.no_grad():
            own = (scores(model.eval(), ids, mask) - expected["scores"]).abs().max().item()
        (logits,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        onnx = np.abs(logits[:, 0] - expected["scores"].numpy()).max()
        print(f"padded on the {'left' if side else 'right'}: within {own:.1e} in transformers, {onnx:.1e} in ONNX")


if sys.argv[1] == "--check":
    check(*sys.argv[2:])
else:
    for i, (name, (make, config)) in enumerate(MODELS.items()):
        write(sys.argv[1], name, make, config, SEED + i)

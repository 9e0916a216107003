"""Writes tiny random models as PyTorch's own ONNX exporters write them, and what transformers and ONNX Runtime compute on them.

usage: python tools/golden/exported.py packages/core/test/fixtures/exported
needs: torch, transformers, onnx, onnxscript, onnxruntime (CPU is enough)

Layout as on the hub: <name>/{config.json, tokenizer.json, tokenizer_config.json, golden.json, onnx/*.onnx}
  llama          grouped-query attention; torch.onnx.export(dynamo=False): model.onnx (float32),
                 model_fp16.onnx (weights, cache and logits in float16), model_q4.onnx (MatMulNBits)
  llama-dynamo   the same weights; torch.onnx.export(dynamo=True), every operator kept as it is written
  gpt2           padding id = end-of-text id; model.onnx takes num_logits_to_keep; decoder_model_merged.onnx takes
                 use_cache_branch (both graphs under one If, merged here the way Optimum merges them)
  gpt2-no-cache  input_ids and attention_mask only: no position_ids, no cache
  bert           encoder: input_ids, attention_mask, token_type_ids -> last_hidden_state
golden.json of a decoder { versions, seed, prompts: [{ text, tokens }], completions: [[ids]], files: { <file>: { greedy: [[12 ids]], logprobs, runtimeLogprobs } } }
  logprobs         nats per completion token given the prompt, from transformers in float32 (null for fp16 and q4)
  runtimeLogprobs  the same from onnxruntime in Python on the file itself, right-padded batch of all rows
golden.json of an encoder { versions, seed, texts, tokens, embeddings: mean over the mask, then L2-normalised, from transformers }
"""
import json
import logging
import os
import shutil
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from onnx import TensorProto, helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

warnings.filterwarnings("ignore")
logging.disable(logging.INFO)
OUT = sys.argv[1]
SEED = 20263
NEW = 12
V = 96
TEXT = ["once upon a time there was a little dog named spot.", "the cat sat on the mat and looked at the moon.", "lily likes to play with her red ball in the park.",
        "one day, tom found a big box under the tree.", "they were very happy and went home to eat cake.", "please name the product and the time of the failure."]
PROMPTS = ["once upon a time there was", "the cat", "lily likes to play with the big dog and"]
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def bpe_tokenizer():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=V, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    assert tokenizer.get_vocab_size() == V
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def wordpiece_tokenizer():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=V, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    assert tokenizer.get_vocab_size() == V
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
                                   model_input_names=["input_ids", "attention_mask", "token_type_ids"])


def widened(model, seed):
    """The default initialisation is too small to show errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * (0.15 if p.ndim > 1 else 0.1))
    model.set_attn_implementation("eager")
    return model.eval()


class Decoder(torch.nn.Module):
    """The forward pass in the Optimum layout: past keys and values in, present ones out."""

    def __init__(self, model, cached=True, keep=False):
        super().__init__()
        self.model, self.cached, self.keep = model, cached, keep

    def forward(self, input_ids, attention_mask, position_ids=None, *rest):
        count, past = (rest[0], rest[1:]) if self.keep else (None, rest)
        cache = DynamicCache() if self.cached else None
        for i in range(0, len(past), 2):
            cache.update(past[i], past[i + 1], i // 2)
        out = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache, use_cache=self.cached)
        hidden = out.last_hidden_state if count is None else out.last_hidden_state[:, -count:, :]
        logits = self.model.lm_head(hidden)
        return (logits, *(t for layer in out.past_key_values.layers for t in (layer.keys, layer.values))) if self.cached else logits


def slim(path):
    """Drops stack traces, doc strings and node names, which are most of a tiny file."""
    model = onnx.load(path)
    def visit(graph):
        del graph.metadata_props[:], graph.value_info[:]
        for item in [*graph.node, *graph.input, *graph.output, *graph.initializer]:
            item.doc_string = ""
            del item.metadata_props[:]
        for node in graph.node:
            node.name = ""
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    visit(attribute.g)
    visit(model.graph)
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    del model.metadata_props[:]
    onnx.save(model, path)


def export(model, path, *, cached=True, positions=True, keep=False, past=True, dynamo=False):
    config = model.config
    layers, heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = config.hidden_size // config.num_attention_heads
    B, P, T = 2, 3 if past and cached else 0, 2
    inputs = {"input_ids": torch.randint(3, V, (B, T)), "attention_mask": torch.ones(B, P + T, dtype=torch.int64)}
    axes = {"input_ids": {0: "batch_size", 1: "sequence_length"}, "attention_mask": {0: "batch_size", 1: "total_sequence_length"}, "logits": {0: "batch_size", 1: "sequence_length"}}
    if positions:
        inputs["position_ids"] = torch.arange(P, P + T).expand(B, T).contiguous()
        axes["position_ids"] = axes["input_ids"]
    if keep:
        inputs["num_logits_to_keep"] = torch.tensor(1)
    outputs = ["logits"]
    for i in range(layers if cached else 0):
        for kind in ("key", "value"):
            if past:
                inputs[f"past_key_values.{i}.{kind}"] = torch.randn(B, heads, P, width)
                axes[f"past_key_values.{i}.{kind}"] = {0: "batch_size", 2: "past_sequence_length"}
            outputs.append(f"present.{i}.{kind}")
            axes[f"present.{i}.{kind}"] = {0: "batch_size", 2: "total_sequence_length"}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    common = dict(input_names=list(inputs), output_names=outputs)
    if dynamo:
        any_of = lambda *dims: {d: torch.export.Dim.DYNAMIC for d in dims}
        shapes = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},) * 3 + (tuple(any_of(0, 2) for _ in range(2 * layers)),)
        torch.onnx.export(Decoder(model).eval(), tuple(inputs.values()), path, opset_version=18, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **common)
    else:
        torch.onnx.export(Decoder(model, cached, keep).eval(), tuple(inputs.values()), path, opset_version=17, dynamo=False, dynamic_axes=axes, **common)
    slim(path)


def merge(first, later, path):
    """One file with both graphs under an If on use_cache_branch; weights are shared by content, at the top level."""
    shared, branches = {}, []
    for prefix, source in (("later.", later), ("first.", first)):
        graph = onnx.load(source).graph
        rename = {i.name: i.name for i in graph.input}
        for tensor in graph.initializer:
            content = (tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes())
            if content not in shared:
                kept = onnx.TensorProto()
                kept.CopyFrom(tensor)
                kept.name = f"weight.{len(shared)}"
                shared[content] = kept
            rename[tensor.name] = shared[content].name
        for node in graph.node:
            assert not any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
            for names in (node.input, node.output):
                names[:] = ["" if n == "" else rename.setdefault(n, prefix + n) for n in names]
        results = [helper.make_tensor_value_info(rename[o.name], TensorProto.FLOAT, [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim]) for o in graph.output]
        branches.append(helper.make_graph(list(graph.node), prefix + "graph", [], results))
    model = onnx.load(later)
    node = helper.make_node("If", ["use_cache_branch"], [o.name for o in model.graph.output], name="optimum::if", then_branch=branches[0], else_branch=branches[1])
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    merged = helper.make_graph([node], "merged", [*model.graph.input, flag], list(model.graph.output), list(shared.values()))
    onnx.save(helper.make_model(merged, opset_imports=model.opset_import, ir_version=model.ir_version), path)


def padded(rows, left):
    length = max(map(len, rows))
    ids, mask = np.full((len(rows), length), 2, np.int64), np.zeros((len(rows), length), np.int64)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return ids, mask


class Runtime:
    """The file, run by onnxruntime in Python."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path)
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, ids, mask, past=None, keep=0):
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1]:]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "num_logits_to_keep": np.array(keep), "use_cache_branch": np.array([past is not None])}
        for name, slot in self.inputs.items():
            if name.startswith("past_key_values"):
                kind = np.float16 if "float16" in slot.type else np.float32
                feeds[name] = past[name] if past is not None else np.zeros((ids.shape[0], slot.shape[1], 0, slot.shape[3]), kind)
        results = dict(zip(self.outputs, self.session.run(None, {k: v for k, v in feeds.items() if k in self.inputs})))
        return results["logits"].astype(np.float64), {k.replace("present", "past_key_values"): v for k, v in results.items() if k != "logits"}

    def greedy(self, prompts):
        if "position_ids" not in self.inputs:  # without positions a padded row is a different row
            return [self.batch(p) for p in ([p] for p in prompts)]
        return self.batch(prompts)

    def batch(self, prompts):
        ids, mask = padded(prompts, left=True)
        whole, past, sampled = ids, None, []
        for _ in range(NEW):
            logits, present = self.run(ids, mask, past, keep=1)
            chosen = logits[:, -1].argmax(-1)[:, None]
            gap = np.sort(logits[:, -1], -1)
            assert (gap[:, -1] - gap[:, -2]).min() > 1e-3, "greedy choice too close: take another seed"
            sampled.append(chosen)
            whole, mask = np.concatenate([whole, chosen], 1), np.concatenate([mask, np.ones_like(chosen)], 1)
            ids, past = (chosen, present) if present else (whole, None)
        rows = np.concatenate(sampled, 1).tolist()
        return rows if len(prompts) > 1 else rows[0]

    def logprobs(self, prompts, completions):
        ids, mask = padded([p + c for p, c in zip(prompts, completions)], left=False)
        return continuation(torch.from_numpy(self.run(ids, mask)[0]), prompts, completions)


def continuation(logits, prompts, completions):
    logprobs = torch.log_softmax(logits.double(), -1)
    return [[float(f"{logprobs[b, len(p) - 1 + t, token].item():.9g}") for t, token in enumerate(c)] for b, (p, c) in enumerate(zip(prompts, completions))]


def save_common(directory, model, tokenizer):
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def golden_decoder(directory, model, tokenizer, files):
    generator = torch.Generator().manual_seed(SEED + 7)
    prompts = [tokenizer(p, add_special_tokens=False).input_ids for p in PROMPTS]
    completions = [torch.randint(3, V, (n,), generator=generator).tolist() for n in (5, 9, 3)]
    truth, greedy = [], []
    with torch.no_grad():  # row by row: nothing here can depend on padding
        for p, c in zip(prompts, completions):
            truth.append(continuation(model(torch.tensor([p + c])).logits, [p], [c])[0])
            greedy.append(model.generate(torch.tensor([p]), attention_mask=torch.ones(1, len(p), dtype=torch.int64), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=2, eos_token_id=None)[0, len(p):].tolist())
    record = {}
    for file in files:
        runtime = Runtime(os.path.join(directory, "onnx", file))
        plain = not ("fp16" in file or "q4" in file)
        own, scores = runtime.greedy(prompts), runtime.logprobs(prompts, completions)
        worst = max(abs(a - b) for x, y in zip(scores, truth) for a, b in zip(x, y))
        print(f"{directory}/onnx/{file}: {os.path.getsize(os.path.join(directory, 'onnx', file))} bytes, log-probs within {worst:.2g} of transformers, greedy equal: {own == greedy}")
        if plain:
            assert own == greedy and worst < 1e-5
        record[file] = {"greedy": own, "logprobs": truth if plain else None, "runtimeLogprobs": scores}
    write_golden(directory, {"prompts": [{"text": t, "tokens": p} for t, p in zip(PROMPTS, prompts)], "completions": completions, "files": record})


def write_golden(directory, record):
    with open(os.path.join(directory, "golden.json"), "w") as file:
        json.dump({"versions": VERSIONS, "seed": SEED, **record}, file, separators=(",", ":"))
        file.write("\n")


def place(name):
    directory = os.path.join(OUT, name)
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(os.path.join(directory, "onnx"))
    return directory, lambda file: os.path.join(directory, "onnx", file)


torch.manual_seed(SEED)
tokenizer = bpe_tokenizer()

llama = widened(LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                             max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=2)), SEED + 1)
directory, file = place("llama")
save_common(directory, llama, tokenizer)
export(llama, file("model.onnx"))
half = convert_float_to_float16(onnx.load(file("model.onnx")), keep_io_types=False)
onnx.save(half, file("model_fp16.onnx"))
slim(file("model_fp16.onnx"))
quantizer = MatMulNBitsQuantizer(onnx.load(file("model.onnx")), block_size=32, is_symmetric=True)
quantizer.process()
onnx.save(quantizer.model.model, file("model_q4.onnx"))
golden_decoder(directory, llama, tokenizer, ["model.onnx", "model_fp16.onnx", "model_q4.onnx"])

directory, file = place("llama-dynamo")
save_common(directory, llama, tokenizer)
export(llama, file("model.onnx"), dynamo=True)
golden_decoder(directory, llama, tokenizer, ["model.onnx"])

gpt2 = widened(GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=24, n_head=3, n_layer=2, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, tie_word_embeddings=False, bos_token_id=2, eos_token_id=2)), SEED + 2)
directory, file = place("gpt2")
save_common(directory, gpt2, tokenizer)
export(gpt2, file("model.onnx"), keep=True)
export(gpt2, file("first.onnx"), past=False)
export(gpt2, file("later.onnx"))
merge(file("first.onnx"), file("later.onnx"), file("decoder_model_merged.onnx"))
os.remove(file("first.onnx"))
os.remove(file("later.onnx"))
golden_decoder(directory, gpt2, tokenizer, ["model.onnx", "decoder_model_merged.onnx"])

directory, file = place("gpt2-no-cache")
save_common(directory, gpt2, tokenizer)
export(gpt2, file("model.onnx"), cached=False, positions=False)
golden_decoder(directory, gpt2, tokenizer, ["model.onnx"])

wordpiece = wordpiece_tokenizer()
bert = widened(BertModel(BertConfig(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64), add_pooling_layer=False), SEED + 3)
directory, file = place("bert")
save_common(directory, bert, wordpiece)
texts = [TEXT[0], "the cat", "one big red ball", TEXT[5]]
batch = wordpiece(texts, return_tensors="pt", padding=True)
names = ["input_ids", "attention_mask", "token_type_ids"]
class Encoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
torch.onnx.export(Encoder(bert).eval(), tuple(batch[n] for n in names), file("model.onnx"), input_names=names, output_names=["last_hidden_state"], opset_version=17, dynamo=False,
                  dynamic_axes={n: {0: "batch_size", 1: "sequence_length"} for n in [*names, "last_hidden_state"]})
slim(file("model.onnx"))
with torch.no_grad():
    rows = []
    for text in texts:  # row by row: nothing here can depend on padding
        hidden = bert(**wordpiece(text, return_tensors="pt")).last_hidden_state[0].double()
        rows.append(torch.nn.functional.normalize(hidden.mean(0), dim=0))
write_golden(directory, {"texts": texts, "tokens": [wordpiece(t).input_ids for t in texts], "embeddings": [[float(f"{v:.9g}") for v in row.tolist()] for row in rows]})
print(f"{directory}/onnx/model.onnx: {os.path.getsize(file('model.onnx'))} bytes")

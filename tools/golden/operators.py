"""Writes what PyTorch computes for single ONNX operators: outputs, and input gradients for a random upstream gradient.

usage: python tools/golden/operators.py packages/core/test/onnx/operators.golden.json
needs: torch (CPU is enough)

Inputs are float32 numbers; the arithmetic is float64 and its results are rounded to float32 once, so a float32
implementation is compared with the truth and not with another float32 implementation.

{ versions, seed, cases: [{ name, op, attributes, inputs: [{ dtype, shape, data }], output, dy, gradients }] }
  inputs      in the order of the ONNX operator (opset 20; RMSNormalization as in opset 23); null = optional, left out
  dy          d(loss)/d(output), same shape as output
  gradients   d(loss)/d(input) in the order of inputs; null where no gradient flows (integers, conditions, bounds)
  Split has lists `outputs` and `dys` instead of `output` and `dy`.
  Numbers that JSON lacks are the strings "Infinity", "-Infinity" and "NaN" (`Number(x)` reads all of them).
Corners follow PyTorch: Max and Min share the gradient at ties, Clip passes it at both edges, Relu and Abs give 0 at 0.
"""
import json
import math
import sys

import torch
import torch.nn.functional as F

SEED = 20260
OUT = sys.argv[1]
generator = torch.Generator().manual_seed(SEED)
cases = []


def rand(*shape, scale=1.0, shift=0.0):
    return torch.randn(shape, generator=generator, dtype=torch.float32) * scale + shift


def positive(*shape):
    return torch.rand(shape, generator=generator, dtype=torch.float32) * 2 + 0.1


def floats(*values):
    return torch.tensor(values, dtype=torch.float32)


def ints(*values):
    return torch.tensor(values, dtype=torch.int64)


def number(value):
    if isinstance(value, (bool, int)):
        return int(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    short = float(f"{value:.9g}")  # nine digits are enough to name a float32
    return int(short) if short == int(short) and abs(short) < 1e9 else short


def stored(tensor):
    if tensor is None:
        return None
    kinds = {torch.int64: "int64", torch.bool: "bool"}
    kind = kinds.get(tensor.dtype, "float32")
    flat = tensor.detach() if kind != "float32" else tensor.detach().float()
    return {"dtype": kind, "shape": list(tensor.shape), "data": [number(v) for v in flat.flatten().tolist()]}


def case(name, op, inputs, function, attributes=None, frozen=()):
    """`frozen` names the positions of float inputs that are parameters of the operator, such as the bounds of Clip."""
    doubles = [None if x is None else x.double().requires_grad_(i not in frozen) if x.is_floating_point() else x for i, x in enumerate(inputs)]
    result = function(*doubles)
    results = result if isinstance(result, (tuple, list)) else [result]
    upstream = [rand(*r.shape) for r in results]
    wanted = [x for x in doubles if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(results, wanted, [u.double() for u in upstream], allow_unused=True))
    gradients = [next(found) if x is not None and x.requires_grad else None for x in doubles]
    record = {"name": name, "op": op, "attributes": attributes or {}, "inputs": [stored(x) for x in inputs]}
    if isinstance(result, (tuple, list)):
        record |= {"outputs": [stored(r) for r in results], "dys": [stored(u) for u in upstream]}
    else:
        record |= {"output": stored(result), "dy": stored(upstream[0])}
    cases.append(record | {"gradients": [stored(g) for g in gradients]})


# Elementwise, two inputs
pairs = {"same": ((2, 3), (2, 3)), "row": ((2, 3), (3,)), "both sides": ((2, 1, 4), (3, 1)), "scalar": ((2, 3), ())}
for op, function in {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}.items():
    for label, (a, b) in pairs.items():
        right = rand(*b) if op != "Div" else positive(*b)
        case(f"{op} {label}", op, [rand(*a), right], function)
case("Div by negative and tiny", "Div", [floats(1, -2, 3), floats(-0.5, 1e-4, -3e3)], torch.div)
for exponent in (2.0, 3.0, 0.5, -1.5):
    case(f"Pow {exponent}", "Pow", [positive(2, 3), torch.tensor(exponent)], lambda x, p: torch.pow(x, p.item()), frozen=(1,))
case("Pow 2 of negative and zero", "Pow", [floats(-1.5, 0, 2), torch.tensor(2.0)], lambda x, p: torch.pow(x, p.item()), frozen=(1,))
case("Pow 3 of negative", "Pow", [floats(-1.5, -0.25, 2), torch.tensor(3.0)], lambda x, p: torch.pow(x, p.item()), frozen=(1,))
for op, function in {"Max": torch.maximum, "Min": torch.minimum}.items():
    case(f"{op} with ties", op, [floats(1, 2, 3, -1), floats(1, 3, 2, -1)], function)
    case(f"{op} broadcast with ties", op, [torch.tensor([[0.0, 1, 2], [0, -1, 0.5]]), floats(0, 1, 0.5)], function)
    case(f"{op} with a scalar tie", op, [rand(2, 3).round(), torch.tensor(0.0)], function)
case("Where", "Where", [torch.tensor([[True, False, True], [False, False, True]]), rand(2, 3), rand(2, 3)], torch.where)
case("Where broadcast", "Where", [torch.tensor([[True], [False]]), rand(3), rand(2, 3)], torch.where)
case("Where condition row and scalar", "Where", [torch.tensor([True, False, True]), rand(2, 3), rand()], torch.where)

# Elementwise, one input
wide = floats(-30, -3, -0.5, 0, 1e-3, 0.5, 3, 30)
for op, function in {"Neg": torch.neg, "Exp": torch.exp, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Erf": torch.erf, "Sin": torch.sin, "Cos": torch.cos,
                     "Relu": torch.relu, "Softplus": lambda x: F.softplus(x, threshold=1e9), "Abs": torch.abs}.items():
    case(op, op, [rand(2, 3)], function)
    case(f"{op} wide and zero", op, [wide], function)
case("Log", "Log", [positive(2, 3)], torch.log)
case("Log small and large", "Log", [floats(1e-30, 1e-6, 1, 1e20)], torch.log)
case("Sqrt", "Sqrt", [positive(2, 3)], torch.sqrt)
case("Sqrt at zero", "Sqrt", [floats(0, 1e-12, 4)], torch.sqrt)
case("Reciprocal", "Reciprocal", [floats(-2, -1e-3, 0.5, 1e4)], torch.reciprocal)
for approximate in ("none", "tanh"):
    case(f"Gelu {approximate}", "Gelu", [rand(2, 3)], lambda x: F.gelu(x, approximate=approximate), {"approximate": approximate})
    case(f"Gelu {approximate} wide", "Gelu", [wide], lambda x: F.gelu(x, approximate=approximate), {"approximate": approximate})
case("Clip edges", "Clip", [floats(-2, -1, -0.5, 0, 1, 1.5), torch.tensor(-1.0), torch.tensor(1.0)], lambda x, a, b: torch.clamp(x, a.item(), b.item()), frozen=(1, 2))
case("Clip below only", "Clip", [floats(-2, -1, 0, 5), torch.tensor(-1.0), None], lambda x, a, b: torch.clamp(x, min=a.item()), frozen=(1,))
case("Clip above only", "Clip", [floats(-2, 0.8, 1, 5), None, torch.tensor(1.0)], lambda x, a, b: torch.clamp(x, max=b.item()), frozen=(2,))

# Reductions
for op, function in {"ReduceSum": torch.sum, "ReduceMean": torch.mean, "ReduceMax": torch.amax}.items():
    for axes in ((-1,), (0,), (0, 2), (1,)):
        for keep in (1, 0):
            case(f"{op} axes {list(axes)} keepdims {keep}", op, [rand(2, 3, 4), ints(*axes)], lambda x, a: function(x, tuple(a.tolist()), bool(keep)), {"keepdims": keep})
    case(f"{op} all", op, [rand(2, 3), None], lambda x, a: function(x, (0, 1)), {"keepdims": 0})
case("ReduceMax with ties", "ReduceMax", [torch.tensor([[1.0, 1, 0], [2, 2, 2]]), ints(-1)], lambda x, a: torch.amax(x, (-1,), True), {"keepdims": 1})
extreme = torch.tensor([[1e4, 0, -1e4], [88, 89, 90], [-1e30, 0, 1], [0, 0, 0]])
for op, function in {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax}.items():
    case(f"{op} last axis", op, [rand(2, 3, 4)], lambda x: function(x, -1), {"axis": -1})
    case(f"{op} extreme logits", op, [extreme], lambda x: function(x, -1), {"axis": -1})
    case(f"{op} axis 1", op, [rand(2, 3, 4)], lambda x: function(x, 1), {"axis": 1})
for name, options in {"CumSum": {}, "CumSum exclusive": {"exclusive": 1}, "CumSum reverse": {"reverse": 1}, "CumSum reverse exclusive": {"reverse": 1, "exclusive": 1}}.items():
    def cumulative(x, axis):
        d = int(axis)
        y = torch.flip(x, (d,)) if options.get("reverse") else x
        total = torch.cumsum(y, d) - (y if options.get("exclusive") else 0)
        return torch.flip(total, (d,)) if options.get("reverse") else total
    case(name, "CumSum", [rand(2, 4), torch.tensor(1)], cumulative, options)

# Linear algebra
for label, a, b in (("2-D", (3, 4), (4, 2)), ("batched", (2, 3, 4), (2, 4, 2)), ("weight", (2, 3, 4), (4, 5)), ("left broadcast", (3, 4), (2, 4, 2)),
                    ("batch broadcast", (2, 1, 3, 4), (1, 3, 4, 2)), ("heads", (2, 2, 3, 4), (2, 2, 4, 3)), ("vector right", (2, 3, 4), (4,)), ("vector left", (4,), (4, 3))):
    case(f"MatMul {label}", "MatMul", [rand(*a), rand(*b)], torch.matmul)
for transposed_a in (0, 1):
    for transposed_b in (0, 1):
        for label, bias in (("no bias", None), ("row bias", (2,)), ("full bias", (3, 2)), ("column bias", (3, 1)), ("scalar bias", ())):
            if bias in ((3, 1), ()) and transposed_a + transposed_b:
                continue
            a, b = rand(*((4, 3) if transposed_a else (3, 4))), rand(*((2, 4) if transposed_b else (4, 2)))
            alpha, beta = (1.0, 1.0) if label == "row bias" else (0.5, 2.0)
            case(f"Gemm A{'T' * transposed_a} B{'T' * transposed_b} {label}", "Gemm", [a, b, None if bias is None else rand(*bias)],
                 lambda a, b, c: alpha * ((a.T if transposed_a else a) @ (b.T if transposed_b else b)) + (0 if c is None else beta * c),
                 {"alpha": alpha, "beta": beta, "transA": transposed_a, "transB": transposed_b})

# Movement
case("Slice middle", "Slice", [rand(3, 4), ints(1), ints(3), ints(1), ints(1)], lambda x, *_: x[:, 1:3])
case("Slice negative and past the end", "Slice", [rand(3, 4), ints(-2, 1), ints(2**31 - 1, 9), ints(0, 1), ints(1, 1)], lambda x, *_: x[-2:, 1:])
case("Slice step 2", "Slice", [rand(5, 2), ints(0), ints(5), ints(0), ints(2)], lambda x, *_: x[0:5:2])
case("Slice reversed", "Slice", [rand(4), ints(-1), ints(-(2**31)), ints(0), ints(-1)], lambda x, *_: torch.flip(x, (0,)))
case("Concat axis 0", "Concat", [rand(2, 3), rand(1, 3)], lambda *xs: torch.cat(xs, 0), {"axis": 0})
case("Concat axis -1 of three", "Concat", [rand(2, 1), rand(2, 3), rand(2, 2)], lambda *xs: torch.cat(xs, -1), {"axis": -1})
case("Split uneven", "Split", [rand(2, 6), ints(1, 3, 2)], lambda x, s: torch.split(x, s.tolist(), 1), {"axis": 1})
case("Split even axis 0", "Split", [rand(4, 3), ints(2, 2)], lambda x, s: torch.split(x, s.tolist(), 0), {"axis": 0})
case("Transpose 2-D", "Transpose", [rand(2, 3)], lambda x: x.permute(1, 0), {"perm": [1, 0]})
case("Transpose heads", "Transpose", [rand(2, 3, 2, 2)], lambda x: x.permute(0, 2, 1, 3), {"perm": [0, 2, 1, 3]})
case("Transpose cycle", "Transpose", [rand(2, 3, 4)], lambda x: x.permute(2, 0, 1), {"perm": [2, 0, 1]})
case("Reshape", "Reshape", [rand(2, 6), ints(3, 4)], lambda x, s: x.reshape(3, 4))
case("Reshape 0 and -1", "Reshape", [rand(2, 3, 4), ints(0, -1)], lambda x, s: x.reshape(2, 12))
case("Expand", "Expand", [rand(3, 1), ints(2, 3, 4)], lambda x, s: x.expand(2, 3, 4))
case("Expand by a smaller shape", "Expand", [rand(2, 3), ints(1, 1)], lambda x, s: x.expand(2, 3))
case("Squeeze", "Squeeze", [rand(2, 1, 3), ints(1)], lambda x, a: x.squeeze(1))
case("Unsqueeze", "Unsqueeze", [rand(2, 3), ints(0, 2)], lambda x, a: x.unsqueeze(0).unsqueeze(2))
case("Trilu lower", "Trilu", [rand(2, 3, 3), None], lambda x, k: torch.tril(x), {"upper": 0})
case("Trilu upper 1", "Trilu", [rand(3, 4), torch.tensor(1)], lambda x, k: torch.triu(x, 1), {"upper": 1})

# Indexing
case("Gather axis 0 with duplicates", "Gather", [rand(4, 3), torch.tensor([[0, 2, 2], [3, 0, 2]])], lambda x, i: x[i], {"axis": 0})
case("Gather axis 1 with duplicates", "Gather", [rand(2, 4, 2), ints(1, 1, 3)], lambda x, i: x[:, i], {"axis": 1})
case("Gather scalar index", "Gather", [rand(4, 3), torch.tensor(2)], lambda x, i: x[i], {"axis": 0})
case("Gather negative index", "Gather", [rand(4, 3), ints(-1, 0, -1)], lambda x, i: x[i], {"axis": 0})
case("GatherElements axis 1 with duplicates", "GatherElements", [rand(2, 4), torch.tensor([[0, 0, 3], [1, 2, 1]])], lambda x, i: torch.gather(x, 1, i), {"axis": 1})
case("GatherElements axis 0", "GatherElements", [rand(3, 2), torch.tensor([[2, 0], [2, 1]])], lambda x, i: torch.gather(x, 0, i), {"axis": 0})
case("GatherElements of log-probs", "GatherElements", [rand(2, 3, 5), torch.tensor([[[1], [4], [4]], [[0], [2], [3]]])], lambda x, i: torch.gather(x, 2, i), {"axis": -1})
case("ScatterElements add with duplicates", "ScatterElements", [rand(2, 4), torch.tensor([[0, 0, 3], [1, 2, 1]]), rand(2, 3)],
     lambda x, i, u: x.scatter_add(1, i, u), {"axis": 1, "reduction": "add"})

# Normalisation
for label, shape, offset in (("", (2, 3, 4), 0.0), (" far from zero", (2, 5), 100.0)):
    d = shape[-1]
    case(f"LayerNormalization{label}", "LayerNormalization", [rand(*shape, shift=offset), rand(d, shift=1), rand(d)], lambda x, s, b: F.layer_norm(x, (d,), s, b, 1e-5), {"axis": -1, "epsilon": 1e-5})
case("LayerNormalization without bias", "LayerNormalization", [rand(3, 4), rand(4, shift=1), None], lambda x, s, b: F.layer_norm(x, (4,), s, None, 1e-5), {"axis": -1, "epsilon": 1e-5})
case("LayerNormalization of a constant row", "LayerNormalization", [torch.ones(1, 4), rand(4, shift=1), rand(4)], lambda x, s, b: F.layer_norm(x, (4,), s, b, 1e-5), {"axis": -1, "epsilon": 1e-5})
for label, x in (("", rand(2, 3, 4)), (" small values", rand(2, 4, scale=1e-3))):
    case(f"RMSNormalization{label}", "RMSNormalization", [x, rand(4, shift=1)], lambda x, s: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * s, {"axis": -1, "epsilon": 1e-6})

with open(OUT, "w") as file:
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    file.write(f'{{"versions":{json.dumps({"torch": torch.__version__})},"seed":{SEED},"cases":[\n{lines}\n]}}\n')
print(len(cases), "cases,", len({c["op"] for c in cases}), "operators")

import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import { afterAll, vi } from "vitest"
import * as Safetensors from "../../src/hub/Safetensors.ts"
import * as Tensor from "../../src/Tensor.ts"
import * as Shared from "./Shared.ts"

/** While it is full, files can be made but nothing written to them. */
const disk = { full: false }

vi.mock("node:fs/promises", async (importOriginal) => {
  const actual = await importOriginal<typeof import("node:fs/promises")>()
  const full = () => Promise.reject(Object.assign(new Error("no space left"), { code: "ENOSPC" }))
  return {
    ...actual,
    open: async (path: string, flags: string) => {
      const handle = await actual.open(path, flags)
      return disk.full && flags !== "r" ? Object.assign(handle, { write: full }) : handle
    }
  }
})

const directory = fs.mkdtempSync(join(tmpdir(), "attune-safetensors-"))
afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))

let serial = 0
const freshPath = () => join(directory, `${serial++}.safetensors`)

/** A file from a header object (or text) and the bytes after it. */
const file = (header: unknown, data: number | Uint8Array = 0, announced?: bigint): string => {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(announced ?? BigInt(text.byteLength))
  const path = freshPath()
  fs.writeFileSync(path, Buffer.concat([length, text, typeof data === "number" ? Buffer.alloc(data) : data]))
  return path
}

const failure = (path: string) => Effect.flip(Safetensors.read(path))

const all: ReadonlyMap<string, Tensor.Tensor> = new Map<string, Tensor.Tensor>([
  ["b.bool", Tensor.make("bool", Uint8Array.of(1, 0, 1), [3])],
  ["f32", Tensor.float32([1.5, -0, Number.NaN, Number.POSITIVE_INFINITY], [2, 2])],
  ["f16", Tensor.make("float16", Uint16Array.of(0x3c00, 0xfe01, 0x0001), [3])],
  ["bf16", Tensor.make("bfloat16", Uint16Array.of(0x3f80), [1, 1])],
  ["f64", Tensor.make("float64", Float64Array.of(Math.PI), [])],
  ["i64", Tensor.int64([-1, 2 ** 40])],
  ["i32", Tensor.make("int32", Int32Array.of(-7), [1])],
  ["i8", Tensor.make("int8", Int8Array.of(-128, 127), [2])],
  ["u8", Tensor.make("uint8", Uint8Array.of(255), [1])],
  ["empty", Tensor.float32([], [0, 4])]
])

describe("read and write", () => {
  it.effect("keep every dtype, shape, bit and note", () =>
    Effect.gen(function* () {
      const path = freshPath()
      yield* Safetensors.write(path, all, { format: "pt" })
      const { metadata, tensors } = yield* Safetensors.read(path)
      assert.deepStrictEqual(metadata, { format: "pt" })
      assert.strictEqual(tensors.size, all.size)
      for (const [name, tensor] of all) {
        const back = tensors.get(name)!
        assert.strictEqual(back.dtype, tensor.dtype, name)
        assert.deepStrictEqual(back.shape, tensor.shape, name)
        assert.deepStrictEqual([...Tensor.toBytes(back)], [...Tensor.toBytes(tensor)], name)
      }
    })
  )

  it.effect("lay tensors out by width, then by name, behind a header padded to 8 bytes", () =>
    Effect.gen(function* () {
      const path = freshPath()
      yield* Safetensors.write(path, all)
      const bytes = fs.readFileSync(path)
      const length = Number(bytes.readBigUInt64LE(0))
      assert.strictEqual(length % 8, 0)
      const header: Record<string, unknown> = JSON.parse(bytes.subarray(8, 8 + length).toString())
      assert.deepStrictEqual(Object.keys(header), [
        "i64",
        "f64",
        "empty",
        "f32",
        "i32",
        "bf16",
        "f16",
        "i8",
        "u8",
        "b.bool"
      ])
      assert.deepStrictEqual(header.f32, { dtype: "F32", shape: [2, 2], data_offsets: [24, 40] })
      // worked by hand: 16 + 8 + 0 + 16 + 4 + 2 + 6 + 2 + 1 + 3 bytes
      assert.strictEqual(bytes.byteLength, 8 + length + 58)
    })
  )

  it.effect("replace a file and leave nothing else behind", () =>
    Effect.gen(function* () {
      const inside = join(directory, "made", "on", "demand")
      const path = join(inside, "x.safetensors")
      yield* Safetensors.write(path, all)
      yield* Safetensors.write(path, new Map([["only", Tensor.scalar(2)]]))
      assert.deepStrictEqual([...(yield* Safetensors.read(path)).tensors.keys()], ["only"])
      assert.deepStrictEqual(fs.readdirSync(inside), ["x.safetensors"])
    })
  )

  it.effect("accept a file without tensors", () =>
    Effect.gen(function* () {
      const path = freshPath()
      yield* Safetensors.write(path, new Map())
      assert.strictEqual((yield* Safetensors.read(path)).tensors.size, 0)
    })
  )
})

describe("read fails with a reason", () => {
  const entry = (dtype: string, shape: ReadonlyArray<number>, begin: number, end: number) => ({
    dtype,
    shape,
    data_offsets: [begin, end]
  })
  const cases: ReadonlyArray<
    readonly [what: string, make: () => string, reason: string, tensor: string | undefined, message: RegExp]
  > = [
    ["an absent file", () => join(directory, "absent"), "Missing", undefined, /no such file/],
    ["a directory", () => directory, "Read", undefined, /cannot read/],
    [
      "an empty file",
      () => {
        const path = freshPath()
        fs.writeFileSync(path, "")
        return path
      },
      "NotSafetensors",
      undefined,
      /not a safetensors file: 0 bytes/
    ],
    [
      "a Git LFS pointer",
      () => {
        const path = freshPath()
        fs.writeFileSync(path, "version https://git-lfs.github.com/spec/v1\n")
        return path
      },
      "NotSafetensors",
      undefined,
      /Git LFS pointer/
    ],
    ["another format", () => file(`[${" ".repeat(20)}]`), "NotSafetensors", undefined, /does not begin with \{/],
    [
      "a header larger than the file",
      () => file("{}", 0, 3n),
      "HeaderTooLarge",
      undefined,
      /announced as 3 bytes but 2/
    ],
    ["a header of 2^63 bytes", () => file("{}", 0, 1n << 63n), "HeaderTooLarge", undefined, /9223372036854775808/],
    ["a header that is not JSON", () => file(`{"w": `), "HeaderNotJson", undefined, /not a JSON object/],
    [
      "a header that is not UTF-8",
      () => file("", Uint8Array.of(0x7b, 0xff, 0x7d), 3n),
      "HeaderNotJson",
      undefined,
      /not a JSON object/
    ],
    ["notes that are not text", () => file({ __metadata__: { a: 1 } }), "HeaderInvalid", undefined, /__metadata__/],
    ["an entry without offsets", () => file({ w: { dtype: "F32", shape: [1] } }), "HeaderInvalid", "w", /data_offsets/],
    ["a negative dimension", () => file({ w: entry("F32", [-1, -1], 0, 4) }, 4), "HeaderInvalid", "w", /whole numbers/],
    ["an unknown dtype", () => file({ w: entry("F8_E4M3", [4], 0, 4) }, 4), "UnknownDType", "w", /"w": dtype F8_E4M3/],
    [
      "a dtype named like a method",
      () => file({ w: entry("toString", [4], 0, 4) }, 4),
      "UnknownDType",
      "w",
      /toString/
    ],
    ["a shape of another size", () => file({ w: entry("F32", [3], 0, 8) }, 8), "ShapeMismatch", "w", /takes 12 bytes/],
    ["offsets that run backwards", () => file({ w: entry("F32", [1], 8, 4) }, 8), "Offsets", "w", /backwards/],
    [
      "overlapping offsets",
      () => file({ a: entry("U8", [4], 0, 4), b: entry("U8", [4], 2, 6) }, 6),
      "Offsets",
      "b",
      /overlap the tensor before, which ends at 4/
    ],
    ["a gap", () => file({ a: entry("U8", [4], 0, 4), b: entry("U8", [4], 8, 12) }, 12), "Offsets", "b", /leave a gap/],
    [
      "bytes after the last tensor",
      () => file({ w: entry("U8", [4], 0, 4) }, 9),
      "Offsets",
      undefined,
      /5 bytes after/
    ],
    [
      "a truncated file",
      () => file({ a: entry("U8", [4], 0, 4), b: entry("F32", [2], 4, 12) }, 11),
      "Truncated",
      "b",
      /cut short/
    ]
  ]
  it.effect.each(cases)("for %s", ([, make, reason, tensor, message]) =>
    Effect.gen(function* () {
      const path = make()
      const error = yield* failure(path)
      assert.strictEqual(error._tag, "SafetensorsError")
      assert.strictEqual(error.reason, reason, error.message)
      assert.strictEqual(error.tensor, tensor)
      assert.match(error.message, message)
      assert.include(error.message, path)
    })
  )

  it.effect("for a file cut at any byte", () =>
    Effect.gen(function* () {
      const path = freshPath()
      yield* Safetensors.write(path, all)
      const bytes = fs.readFileSync(path)
      for (let length = 0; length < bytes.byteLength; length += 7) {
        fs.writeFileSync(path, bytes.subarray(0, length))
        const error = yield* failure(path)
        assert.include(["NotSafetensors", "HeaderTooLarge", "Truncated"], error.reason)
      }
    })
  )
})

describe("write fails with a reason", () => {
  it.effect("when the directory cannot be made", () =>
    Effect.gen(function* () {
      const blocker = freshPath()
      fs.writeFileSync(blocker, "a file where a directory should be")
      const error = yield* Effect.flip(Safetensors.write(join(blocker, "x.safetensors"), all))
      assert.strictEqual(error.reason, "Write")
      assert.match(error.message, /a file of that name is in the way/)
    })
  )

  it.effect.skipIf(process.getuid?.() === 0)("when the directory is read-only", () =>
    Effect.gen(function* () {
      const locked = join(directory, "locked")
      fs.mkdirSync(locked, { mode: 0o500 })
      const error = yield* Effect.flip(Safetensors.write(join(locked, "x.safetensors"), all))
      assert.match(error.message, /permission denied/)
    })
  )

  it.effect("when the disk is full, leaving the old file and no other", () =>
    Effect.gen(function* () {
      const inside = join(directory, "full")
      const path = join(inside, "x.safetensors")
      yield* Safetensors.write(path, new Map([["old", Tensor.scalar(1)]]))
      disk.full = true
      const error = yield* Effect.flip(Safetensors.write(path, all))
      assert.strictEqual(error.reason, "Write")
      assert.match(error.message, /the disk is full/)
      assert.deepStrictEqual([...(yield* Safetensors.read(path)).tensors.keys()], ["old"])
      assert.deepStrictEqual(fs.readdirSync(inside), ["x.safetensors"])
    }).pipe(
      Effect.ensuring(
        Effect.sync(() => {
          disk.full = false
        })
      )
    )
  )
})

describe("readSharded", () => {
  const shardedDirectory = (weightMap: Record<string, string>) =>
    Effect.gen(function* () {
      const model = fs.mkdtempSync(join(directory, "sharded-"))
      yield* Safetensors.write(join(model, "one.safetensors"), new Map([["a", Tensor.scalar(1)]]), { format: "pt" })
      yield* Safetensors.write(
        join(model, "two.safetensors"),
        new Map([
          ["b", Tensor.scalar(2)],
          ["c", Tensor.scalar(3)]
        ])
      )
      fs.writeFileSync(join(model, "model.safetensors.index.json"), JSON.stringify({ weight_map: weightMap }))
      return model
    })

  it.effect("reads the tensors of all shards", () =>
    Effect.gen(function* () {
      const model = yield* shardedDirectory({ a: "one.safetensors", b: "two.safetensors", c: "two.safetensors" })
      const { metadata, tensors } = yield* Safetensors.readSharded(model)
      assert.deepStrictEqual(new Map([...tensors].map(([name, { data }]) => [name, data[0]])).get("c"), 3)
      assert.deepStrictEqual([...tensors.keys()].sort(), ["a", "b", "c"])
      assert.deepStrictEqual(metadata, { format: "pt" })
    })
  )

  it.effect("prefers model.safetensors", () =>
    Effect.gen(function* () {
      const model = yield* shardedDirectory({ a: "one.safetensors" })
      yield* Safetensors.write(join(model, "model.safetensors"), new Map([["whole", Tensor.scalar(0)]]))
      assert.deepStrictEqual([...(yield* Safetensors.readSharded(model)).tensors.keys()], ["whole"])
    })
  )

  it.effect.each([
    [{ a: "three.safetensors" }, "Missing", /three\.safetensors/],
    [{ a: "../one.safetensors" }, "Index", /without a path/],
    [{ a: "/etc/passwd" }, "Index", /without a path/],
    [{ a: ".." }, "Index", /without a path/],
    [{ a: "..\\one.safetensors" }, "Index", /without a path/],
    [{ a: "one.safetensors", z: "one.safetensors" }, "Index", /"z" is not in shard one/]
  ] as const)("rejects the index %j", ([weightMap, reason, message]) =>
    Effect.gen(function* () {
      const model = yield* shardedDirectory(weightMap as unknown as Record<string, string>)
      const error = yield* Effect.flip(Safetensors.readSharded(model))
      assert.strictEqual(error.reason, reason)
      assert.match(error.message, message)
      assert.include(error.message, "model.safetensors.index.json")
    })
  )

  it.effect("rejects an index that is not one, and a directory without weights", () =>
    Effect.gen(function* () {
      const model = yield* shardedDirectory({})
      fs.writeFileSync(join(model, "model.safetensors.index.json"), "{}")
      assert.strictEqual((yield* Effect.flip(Safetensors.readSharded(model))).reason, "Index")
      const none = yield* Effect.flip(Safetensors.readSharded(fs.mkdtempSync(join(directory, "none-"))))
      assert.strictEqual(none.reason, "Missing")
      assert.match(none.message, /neither model\.safetensors/)
    })
  )
})

describe("checkFinite", () => {
  it.each([
    [Tensor.float32([0, 1, Number.NaN]), 2, "NaN"],
    [Tensor.float32([0, Number.NEGATIVE_INFINITY]), 1, "-Infinity"],
    [Tensor.make("float64", Float64Array.of(Number.POSITIVE_INFINITY), [1]), 0, "Infinity"],
    [Tensor.make("float16", Uint16Array.of(0x7bff, 0x7c01), [2]), 1, "NaN"],
    [Tensor.make("bfloat16", Uint16Array.of(0x7f7f, 0xff80), [2]), 1, "-Infinity"]
  ])("finds the bad element of %j", (tensor, at, value) => {
    const error = Result.getOrThrow(Result.flip(Safetensors.checkFinite("wte.weight", tensor, "model.safetensors")))
    assert.strictEqual(error.reason, "NonFinite")
    assert.strictEqual(
      error.message,
      `model.safetensors: tensor "wte.weight": element ${at} is ${value}; the weights are damaged`
    )
  })

  it("accepts the largest finite numbers and integers", () => {
    for (const tensor of [
      Tensor.float32([3.4028234663852886e38]),
      Tensor.make("float16", Uint16Array.of(0xfbff), [1]),
      Tensor.make("bfloat16", Uint16Array.of(0xff7f), [1]),
      Tensor.make("int32", Int32Array.of(-1), [1]),
      Tensor.make("uint8", Uint8Array.of(255), [1])
    ])
      assert.isTrue(Result.isSuccess(Safetensors.checkFinite("w", tensor)))
  })
})

describe("float16 and bfloat16", () => {
  const bitsOf = (tensor: Tensor.Tensor) => {
    const { data } = Safetensors.toFloat32(tensor)
    return [...new Uint32Array(data.buffer, data.byteOffset, data.length)]
  }

  it("widen to the same number, worked by hand", () => {
    const half = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x03ff, 0x8000, 0x7c00, 0xfc00, 0x7e01, 0x7c01)
    assert.deepStrictEqual(
      bitsOf(Tensor.make("float16", half, [11])),
      // 1, -2, 65504, 2^-14, 2^-24, 1023 * 2^-24, -0, inf, -inf, quiet NaN with payload 1, signalling NaN with payload 1
      [
        0x3f800000, 0xc0000000, 0x477fe000, 0x38800000, 0x33800000, 0x387fc000, 0x80000000, 0x7f800000, 0xff800000,
        0x7fc02000, 0x7f802000
      ]
    )
    assert.deepStrictEqual(
      bitsOf(Tensor.make("bfloat16", Uint16Array.of(0x3f80, 0x8001, 0x7f81), [3])),
      [0x3f800000, 0x80010000, 0x7f810000]
    )
  })

  it("give all 65,536 bit patterns back", () => {
    const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i)
    for (const dtype of ["float16", "bfloat16"] as const) {
      const wide = Safetensors.toFloat32(Tensor.make(dtype, patterns, [65536]))
      const back = Safetensors.fromFloat32(wide.data, dtype)
      const [exponent, quiet] = dtype === "float16" ? [0x7c00, 0x200] : [0x7f80, 0x40]
      for (let i = 0; i < 65536; i++) {
        const isNaN = (i & 0x7fff) > exponent
        if (back[i] !== (isNaN ? i | quiet : i)) assert.fail(`${dtype} ${i.toString(16)} became ${back[i]}`)
      }
    }
  })

  it("agree with Float16Array where Node has it", () => {
    const hasFloat16Array = typeof Float16Array === "function"
    if (!hasFloat16Array) return process.stderr.write("skipped: this Node has no Float16Array\n")
    // Neighbourhoods of every rounding boundary: each float16 widened, its midpoint to the next, and one bit beside both.
    const bits: Array<number> = []
    for (let half = 0; half < 0x7c00; half++) {
      const low = new Uint32Array(
        Safetensors.toFloat32(Tensor.make("float16", Uint16Array.of(half), [1])).data.buffer
      )[0]!
      const next =
        half + 1 === 0x7c00
          ? 0x47800000
          : new Uint32Array(
              Safetensors.toFloat32(Tensor.make("float16", Uint16Array.of(half + 1), [1])).data.buffer
            )[0]!
      const lowValue = new Float32Array(Uint32Array.of(low).buffer)[0]!
      const nextValue = new Float32Array(Uint32Array.of(next).buffer)[0]!
      const middle = new Uint32Array(Float32Array.of((lowValue + nextValue) / 2).buffer)[0]!
      for (const at of [low, middle]) bits.push(at, at + 1, Math.max(at - 1, 0))
    }
    const wide = new Float32Array(Uint32Array.from([...bits, ...bits.map((b) => b | 0x80000000)]).buffer)
    const expected = new Uint16Array(new Float16Array(wide).buffer)
    const actual = Safetensors.fromFloat32(wide, "float16")
    for (let i = 0; i < wide.length; i++) {
      if (actual[i] !== expected[i]) assert.fail(`${wide[i]} became ${actual[i]}, expected ${expected[i]}`)
    }
  })

  it("round to the nearest, ties to even, worked by hand", () => {
    const round = (value: number, dtype: "float16" | "bfloat16") =>
      Safetensors.fromFloat32(Float32Array.of(value), dtype)[0]
    assert.strictEqual(round(1 + 2 ** -11, "float16"), 0x3c00)
    assert.strictEqual(round(1 + 3 * 2 ** -11, "float16"), 0x3c02)
    assert.strictEqual(round(1 + 2 ** -11 + 2 ** -20, "float16"), 0x3c01)
    assert.strictEqual(round(65519, "float16"), 0x7bff)
    assert.strictEqual(round(65520, "float16"), 0x7c00)
    assert.strictEqual(round(2 ** -25, "float16"), 0)
    assert.strictEqual(round(-1.5 * 2 ** -24, "float16"), 0x8002)
    assert.strictEqual(round(1 + 2 ** -8, "bfloat16"), 0x3f80)
    assert.strictEqual(round(1 + 3 * 2 ** -8, "bfloat16"), 0x3f82)
    assert.strictEqual(round(3.4e38, "bfloat16"), 0x7f80)
    // A NaN whose payload lies below the kept bits must not turn into infinity.
    const lowPayload = new Float32Array(Uint32Array.of(0x7f800001).buffer)
    assert.strictEqual(Safetensors.fromFloat32(lowPayload, "bfloat16")[0], 0x7fc0)
    assert.strictEqual(Safetensors.fromFloat32(lowPayload, "float16")[0], 0x7e00)
  })

  it("leaves float32 alone and converts the other dtypes by value", () => {
    const single = Tensor.float32([1])
    assert.strictEqual(Safetensors.toFloat32(single).data, single.data)
    assert.deepStrictEqual([...Safetensors.toFloat32(Tensor.int64([-3, 4])).data], [-3, 4])
  })
})

describe("files that other programs wrote", () => {
  const models = ["gpt2", "llama-gqa", "llama-tied-llama3rope", "qwen2", "qwen3", "t5-gated-untied", "t5-relu-tied"]
  const files = [
    "data/tinystories-656K/model.safetensors",
    ...models.flatMap((name) => [`fixtures/${name}/model.safetensors`, `fixtures/${name}/golden.safetensors`])
  ]
  for (const path of files) {
    it.effect.skipIf(!Shared.readable(path))(`${path} is read, and written back byte by byte`, () =>
      Effect.gen(function* () {
        const { metadata, tensors } = yield* Safetensors.readSharded(dirname(Shared.pathOf(path))).pipe(
          Effect.filterOrElse(
            () => path.endsWith("model.safetensors"),
            () => Safetensors.read(Shared.pathOf(path))
          )
        )
        assert.isAbove(tensors.size, 0)
        for (const [name, tensor] of tensors) {
          yield* Effect.fromResult(Safetensors.checkFinite(name, tensor, path))
        }
        const copy = freshPath()
        yield* Safetensors.write(copy, tensors, metadata)
        assert.isTrue(fs.readFileSync(copy).equals(fs.readFileSync(Shared.pathOf(path))))
      })
    )
  }
})

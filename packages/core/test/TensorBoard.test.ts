import { assert, describe, it } from "@effect/vitest"
import * as TensorBoard from "../src/TensorBoard.ts"

describe("crc32c", () => {
  it.each([
    // RFC 3720, B.4, and the check value of the CRC catalogue
    ["32 bytes of zeros", new Uint8Array(32), 0x8a9136aa],
    ["32 bytes of ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ["32 incrementing bytes", Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ["32 decrementing bytes", Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    ["123456789", new TextEncoder().encode("123456789"), 0xe3069283]
  ] as const)("of %s", (_, bytes, expected) => assert.strictEqual(TensorBoard.crc32c(bytes), expected))
})

const step = (n: number): TensorBoard.Event => ({
  wallTime: 1000.5 + n,
  step: n,
  scalars: { sft_loss: n / 4, lr: 0.5 }
})

const concat = (...parts: ReadonlyArray<Uint8Array>) => new Uint8Array(Buffer.concat(parts))

describe("encode", () => {
  it("frames the bytes of the protocol buffer, worked by hand", () => {
    const record = TensorBoard.encode({ wallTime: 1, step: 3, scalars: { a: 1 } })
    const event = [
      ...[0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f], // 1: double 1.0
      ...[0x10, 3], // 2: varint 3
      ...[0x2a, 10], // 5: summary of 10 bytes
      ...[0x0a, 8], // 1: value of 8 bytes
      ...[0x0a, 1, 0x61], // 1: tag "a"
      ...[0x15, 0, 0, 0x80, 0x3f] // 2: simple_value 1.0
    ]
    assert.deepStrictEqual([...record.subarray(0, 8)], [event.length, 0, 0, 0, 0, 0, 0, 0])
    assert.deepStrictEqual([...record.subarray(12, -4)], event)
  })

  it("begins a file like TensorFlow does", () => {
    // The first record of any event file but for the time: 24 bytes of event, whose length has a known masked CRC.
    const record = TensorBoard.fileHeader(0)
    assert.deepStrictEqual([...record.subarray(0, 12)], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22])
    assert.include(Buffer.from(record).toString("latin1"), "brain.Event:2")
  })
})

describe("decode", () => {
  const file = concat(TensorBoard.fileHeader(1000), TensorBoard.encode(step(1)), TensorBoard.encode(step(2)))

  it("gives every event back", () => {
    const events = TensorBoard.decode(file)
    assert.strictEqual(events[0]?.fileVersion, "brain.Event:2")
    assert.deepStrictEqual(
      events.slice(1).map(({ end: _, ...event }) => event),
      [step(1), step(2)]
    )
    assert.strictEqual(events.at(-1)?.end, file.byteLength)
  })

  it("keeps NaN, infinities and numbers beyond float32", () => {
    const scalars = { a: Number.NaN, b: Number.NEGATIVE_INFINITY, c: 1e300 }
    const [event] = TensorBoard.decode(TensorBoard.encode({ wallTime: 0, step: 2 ** 40, scalars }))
    assert.deepStrictEqual(event?.scalars, { a: Number.NaN, b: Number.NEGATIVE_INFINITY, c: Number.POSITIVE_INFINITY })
    assert.strictEqual(event?.step, 2 ** 40)
  })

  it("stops at a record that is cut short, wherever", () => {
    const second = TensorBoard.decode(file)[1]!.end
    for (let length = second; length < file.byteLength; length++) {
      assert.strictEqual(TensorBoard.decode(file.subarray(0, length)).length, 2, `${length} bytes`)
    }
  })

  it("stops at a record with a flipped bit", () => {
    const second = TensorBoard.decode(file)[1]!.end
    for (let bit = second * 8; bit < file.byteLength * 8; bit++) {
      const flipped = file.slice()
      flipped[bit >> 3]! ^= 1 << (bit & 7)
      assert.strictEqual(TensorBoard.decode(flipped).length, 2, `bit ${bit}`)
    }
  })
})

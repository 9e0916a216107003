/**
 * TensorBoard event files: scalars by step, one framed record per event.
 *
 *     u64 little-endian length | masked CRC-32C of it | protobuf `Event` | masked CRC-32C of that
 *
 * Sources: tensorflow/core/lib/io/record_writer.cc (framing), tensorflow/core/util/event.proto (fields), RFC 3720 B.4 (CRC-32C).
 *
 * @since 0.1.0
 */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire"

/**
 * One event. `wallTime` is in seconds since 1970. The first event of a file carries the version of the format.
 *
 * @category models
 * @since 0.1.0
 */
export interface Event {
  readonly wallTime: number
  readonly step: number
  readonly fileVersion?: string
  readonly scalars: Readonly<Record<string, number>>
}

// Reflected polynomial of CRC-32C (Castagnoli).
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc
})

/**
 * CRC-32C of some bytes, unsigned.
 *
 * @category math
 * @since 0.1.0
 */
export const crc32c = (bytes: Uint8Array): number => {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (crc >>> 8) ^ table[(crc ^ byte) & 0xff]!
  return (crc ^ 0xffffffff) >>> 0
}

// Rotated and shifted, because the CRC of data that holds its own CRC says nothing.
const maskedCrc = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

const encodeEvent = (event: Event): Uint8Array => {
  const writer = new BinaryWriter()
  writer.tag(1, WireType.Bit64).double(event.wallTime)
  if (event.step !== 0) writer.tag(2, WireType.Varint).int64(event.step)
  if (event.fileVersion !== undefined) writer.tag(3, WireType.LengthDelimited).string(event.fileVersion)
  const scalars = Object.entries(event.scalars)
  if (scalars.length > 0) {
    writer.tag(5, WireType.LengthDelimited).fork()
    for (const [name, value] of scalars) {
      writer.tag(1, WireType.LengthDelimited).fork()
      writer.tag(1, WireType.LengthDelimited).string(name)
      writer.tag(2, WireType.Bit32).float(Math.fround(value))
      writer.join()
    }
    writer.join()
  }
  return writer.finish()
}

/**
 * The bytes of one event, framed. Scalars are rounded to `float32`.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encode = (event: Event): Uint8Array => {
  const data = encodeEvent(event)
  const record = new Uint8Array(16 + data.byteLength)
  const view = new DataView(record.buffer)
  view.setBigUint64(0, BigInt(data.byteLength), true)
  view.setUint32(8, maskedCrc(record.subarray(0, 8)), true)
  record.set(data, 12)
  view.setUint32(12 + data.byteLength, maskedCrc(data), true)
  return record
}

/**
 * The event that a file begins with.
 *
 * @category encoding
 * @since 0.1.0
 */
export const fileHeader = (wallTime: number): Uint8Array =>
  encode({ wallTime, step: 0, fileVersion: "brain.Event:2", scalars: {} })

// Reads the fields of one message; `field` returns false for those that it leaves out.
const readFields = (reader: BinaryReader, length: number, field: (number: number) => boolean): void => {
  const end = reader.pos + length
  while (reader.pos < end) {
    const [number, wireType] = reader.tag()
    if (!field(number)) reader.skip(wireType, number)
  }
}

const decodeEvent = (data: Uint8Array): Event => {
  const reader = new BinaryReader(data)
  let wallTime = 0
  let step = 0
  let fileVersion: string | undefined
  const scalars: Record<string, number> = {}
  const value = (): void => {
    let name = ""
    let scalar: number | undefined
    readFields(reader, reader.uint32(), (number) => {
      if (number === 1) name = reader.string()
      else if (number === 2) scalar = reader.float()
      else return false
      return true
    })
    if (scalar !== undefined) scalars[name] = scalar
  }
  readFields(reader, data.byteLength, (number) => {
    if (number === 1) wallTime = reader.double()
    else if (number === 2) step = Number(reader.int64())
    else if (number === 3) fileVersion = reader.string()
    else if (number === 5) {
      readFields(reader, reader.uint32(), (inner) => {
        if (inner !== 1) return false
        value()
        return true
      })
    } else return false
    return true
  })
  return { wallTime, step, ...(fileVersion === undefined ? {} : { fileVersion }), scalars }
}

/**
 * The events of a file up to the first record that is cut short or fails its check, each with the position after it.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decode = (bytes: Uint8Array): ReadonlyArray<Event & { readonly end: number }> => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const events: Array<Event & { readonly end: number }> = []
  for (let start = 0; start + 16 <= bytes.byteLength; ) {
    if (view.getUint32(start + 8, true) !== maskedCrc(bytes.subarray(start, start + 8))) break
    const length = Number(view.getBigUint64(start, true))
    const end = start + 16 + length
    if (end > bytes.byteLength) break
    const data = bytes.subarray(start + 12, end - 4)
    if (view.getUint32(end - 4, true) !== maskedCrc(data)) break
    events.push({ ...decodeEvent(data), end })
    start = end
  }
  return events
}

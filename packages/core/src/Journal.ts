/**
 * Records that last: a file of JSON lines that is only added to, each record on the disk before the program goes on, so that
 * what was paid for, typed or sampled is not made again after a crash.
 *
 * @since 0.1.0
 */
import { isUtf8 } from "node:buffer"
import * as fs from "node:fs"
import { dirname } from "node:path"
import { promisify } from "node:util"
import { Effect, Result, Schema, SchemaAST, SchemaIssue, Semaphore } from "effect"
import * as AtomicFile from "./AtomicFile.ts"

/**
 * Reports a journal that cannot be opened or added to, or the 1-based line of one that cannot be read.
 *
 * @category errors
 * @since 0.1.0
 */
export class JournalError extends Schema.TaggedError<JournalError>()("JournalError", {
  path: Schema.String,
  line: Schema.optionalKey(Schema.Int),
  detail: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const place = this.line === undefined ? `cannot write ${this.path}` : `${this.path}, line ${this.line}`
    return `${place}: ${this.detail}`
  }
}

/**
 * Which file, what it holds, and what becomes of what is there.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<A> {
  /** In a directory that exists; without one nothing outlives the program. */
  readonly path: string | undefined
  /** A struct, or a union of structs, whose first field is always there. */
  readonly schema: Schema.Codec<A, object>
  readonly keyOf: (record: A) => string
  /** Read what is there. `false` **empties the file**, whatever it holds: never for what a person typed. */
  readonly resume: boolean
  /** `fail` (default) at a line that is no record, changing nothing; or `skip` such lines, left in place, with a warning. */
  readonly unreadable?: "fail" | "skip"
}

/**
 * An open journal.
 *
 * **Details**
 *
 * `records`: those found when it was opened, in their order, all where several have one key. `get`: the last record of a
 * key, added ones included. `append`: returns when all are on the disk, and cannot be interrupted once it has begun; if it
 * fails, none is kept, and a crash meanwhile keeps the first few.
 *
 * @category models
 * @since 0.1.0
 */
export interface Journal<A> {
  readonly records: ReadonlyArray<A>
  readonly get: (key: string) => A | undefined
  readonly append: (records: ReadonlyArray<A>) => Effect.Effect<void, JournalError>
}

/**
 * Opens a journal, which one process at a time adds to. No file stays open, so nothing has to be closed.
 *
 * **Details**
 *
 * A last line without its end is dropped where it begins as records do and is not JSON, since a crash cut it short, and
 * completed where it is a whole record. Any other is a line that cannot be read. Blank lines and a byte order mark are fine.
 *
 * @category constructors
 * @since 0.1.0
 */
export const open: <A>(options: Options<A>) => Effect.Effect<Journal<A>, JournalError> = Effect.fn("Journal.open")(
  function* <A>({ keyOf, path, resume, schema, unreadable = "fail" }: Options<A>) {
    const latest = new Map<string, A>()
    const get = (key: string) => latest.get(key)
    const remember = (records: ReadonlyArray<A>) => records.forEach((record) => void latest.set(keyOf(record), record))
    if (path === undefined) {
      return { records: [], get, append: (records: ReadonlyArray<A>) => Effect.sync(() => remember(records)) }
    }
    const failure = (cause: unknown) =>
      cause instanceof JournalError ? cause : new JournalError({ path, detail: AtomicFile.explain(cause), cause })
    const reading = Effect.tryPromise({
      try: async () => {
        fs.closeSync(fs.openSync(path, resume ? "a" : "w")) // fails where it cannot be written, before anything is paid for
        const bytes = fs.readFileSync(path)
        const { end, errors, records } = parse(path, bytes, schema)
        if (errors[0] && unreadable === "fail") throw errors[0]
        fs.truncateSync(path, end)
        await write(path, end === 0 || bytes[end - 1] === newline ? "" : "\n")
        if (end === 0) await AtomicFile.syncDirectory(dirname(path))
        return { errors, records }
      },
      catch: failure
    })
    const { errors, records } = yield* Effect.uninterruptible(reading)
    const unread = `${errors.length} lines of ${path} cannot be read and are not used`
    if (errors[0]) yield* Effect.logWarning(`${unread}; ${errors[0].message}`)
    remember(records)
    const encode = Schema.encodeSync(Schema.fromJsonString(schema))
    const writing = Semaphore.makeUnsafe(1)
    const append = (records: ReadonlyArray<A>) =>
      Effect.tryPromise({
        try: () => write(path, records.map((record) => `${encode(record)}\n`).join("")).then(() => remember(records)),
        catch: failure
      }).pipe(Effect.uninterruptible, writing.withPermit)
    return { records, get, append }
  }
)

const newline = 10
const flush = promisify(fs.fsync)

// The file is opened each time, since an editor may have put another in its place.
const write = async (path: string, text: string): Promise<void> => {
  const file = fs.openSync(path, "a")
  const { size } = fs.fstatSync(file)
  try {
    fs.writeFileSync(file, text)
    await flush(file)
  } catch (cause) {
    fs.ftruncateSync(file, size) // a full disk leaves no half line
    throw cause
  } finally {
    fs.closeSync(file)
  }
}

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()
const decodeJson = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Unknown))

// `end`: of what is kept, without a last line that a crash cut short.
const parse = <A>(path: string, bytes: Buffer, schema: Schema.Codec<A, object>) => {
  const decode = Schema.decodeUnknownResult(Schema.fromJsonString(schema))
  const { ast } = Schema.toEncoded(schema)
  const openings = (SchemaAST.isUnion(ast) ? ast.types : [ast]).map((type) =>
    SchemaAST.isObjects(type) ? `{${JSON.stringify(type.propertySignatures[0]?.name)}:` : "{"
  )
  const isCut = (text: string) => {
    const [begun = ""] = text.split("\0", 1) // a power failure may leave zeros
    return Result.isFailure(decodeJson(text)) && openings.some((o) => begun.startsWith(o) || o.startsWith(begun))
  }
  const records: Array<A> = []
  const errors: Array<JournalError> = []
  for (let start = 0, line = 1; start < bytes.byteLength; line++) {
    const found = bytes.indexOf(newline, start)
    const raw = bytes.subarray(start, found < 0 ? undefined : found)
    const text = new TextDecoder().decode(raw)
    const record = decode(text)
    if (Result.isSuccess(record) && isUtf8(raw)) records.push(record.success)
    else if (found < 0 && isCut(text)) return { records, errors, end: start }
    else if (text.trim() !== "") {
      const [issue] = Result.isSuccess(record) ? [] : formatIssue(record.failure.issue).issues
      const field = issue?.path?.length ? `field "${issue.path.map(String).join(".")}": ` : ""
      const detail = `${field}${issue?.message ?? "is not UTF-8"}; repair or remove the line, or choose another file`
      errors.push(new JournalError({ path, line, detail }))
    }
    start += raw.byteLength + 1
  }
  return { records, errors, end: bytes.byteLength }
}

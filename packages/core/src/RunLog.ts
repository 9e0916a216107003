/**
 * The record of a run: `run.jsonl`, one JSON line per step, and a TensorBoard event file beside it.
 *
 *     {"type":"run","format":1,"time":"...","seeds":{...},"config":{...},"versions":{...},"commit":"..."}
 *     {"type":"step","step":1,"time":"...","metrics":{"loss":2.31,"grad_norm":1.7,...}}
 *     {"type":"event","step":1,"time":"...","name":"evaluation","data":{...}}
 *
 * Each line is one write that has reached the operating system when the effect is done. Metrics are named in snake_case,
 * in groups where a method has many (`objective/kl`), which TensorBoard shows together. `NaN` and infinities are kept, as
 * text.
 *
 * @since 0.1.0
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { Clock, Effect, Option, Schema, type Scope } from "effect"
import { explain, makeDirectory } from "./AtomicFile.ts"
import * as TensorBoard from "./TensorBoard.ts"

/**
 * Reports a run log that cannot be written or continued.
 *
 * @category errors
 * @since 0.1.0
 */
export class RunLogError extends Schema.TaggedError<RunLogError>()("RunLogError", {
  path: Schema.String,
  detail: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    return `run log ${this.path}: ${this.detail}`
  }
}

/**
 * Schema of the first line: what is needed to repeat the run.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Header = Schema.Struct({
  type: Schema.Literal("run"),
  format: Schema.Literal(1),
  time: Schema.String,
  seeds: Schema.Record(Schema.String, Schema.Json),
  config: Schema.Json,
  versions: Schema.Record(Schema.String, Schema.String),
  /** Commit of the git repository that the process was started in, if there is one. */
  commit: Schema.NullOr(Schema.String)
})

/**
 * Schema of the metrics of one step.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Step = Schema.Struct({
  type: Schema.Literal("step"),
  step: Schema.Int,
  time: Schema.String,
  metrics: Schema.Record(Schema.String, Schema.Number),
  extra: Schema.optionalKey(Schema.Json)
})

/**
 * Schema of something that happened between steps; `step` is the last one logged before it.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Event = Schema.Struct({
  type: Schema.Literal("event"),
  step: Schema.Int,
  time: Schema.String,
  name: Schema.String,
  data: Schema.Json
})

/**
 * Schema of any line.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Line = Schema.Union([Header, Step, Event])

/**
 * One line of a run log.
 *
 * @category models
 * @since 0.1.0
 */
export type Line = typeof Line.Type

/**
 * What the caller says about a run.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunHeader {
  readonly seeds: Readonly<Record<string, Schema.Json>>
  readonly config: Schema.Json
  /** Node's version is added. */
  readonly versions?: Readonly<Record<string, string>>
}

/**
 * How to treat a log that is already in the directory. Without either, it is an error.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** Continue it after this step: later lines, and a line that was cut short, are removed. */
  readonly resumeAt?: number
  /** Begin anew, removing it. */
  readonly overwrite?: boolean
}

/**
 * An open run log.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunLog {
  /** Path of `run.jsonl`. */
  readonly path: string
  /** Writes the metrics of a step. Steps must not decrease. */
  readonly log: (
    step: number,
    metrics: Readonly<Record<string, number>>,
    extra?: Schema.Json
  ) => Effect.Effect<void, RunLogError>
  /** Writes something that happened after the last logged step. */
  readonly event: (name: string, data?: Schema.Json) => Effect.Effect<void, RunLogError>
  /** Waits until all that was written would survive a power failure. */
  readonly sync: Effect.Effect<void, RunLogError>
}

const fileName = "run.jsonl"
const eventFilePrefix = "events.out.tfevents."
const eventFileSuffix = ".attune"
const metricName = /^[a-z][a-z0-9]*([_/][a-z0-9]+)*$/

const LineJson = Schema.fromJsonString(Schema.toCodecJson(Line))
const decodeLine = Schema.decodeUnknownOption(LineJson)
const encodeLine = Schema.encodeSync(LineJson)

const failure = (path: string, what: string) => (cause: unknown) =>
  cause instanceof RunLogError ? cause : new RunLogError({ path, detail: `${what}: ${explain(cause)}`, cause })

interface Placed {
  readonly line: Line
  /** Position after the line's newline. */
  readonly end: number
}

// A last line without its newline, or that is not JSON after a power failure, was cut short and is left out.
const parse = (path: string, bytes: Buffer): ReadonlyArray<Placed> => {
  const lines: Array<Placed> = []
  for (let start = 0; start < bytes.byteLength; ) {
    const newline = bytes.indexOf(0x0a, start)
    if (newline < 0) break
    const line = decodeLine(bytes.toString("utf8", start, newline))
    if (Option.isNone(line)) {
      if (newline + 1 === bytes.byteLength) break
      throw new RunLogError({ path, detail: `line ${lines.length + 1} is not a line of a run log; repair or move it` })
    }
    lines.push({ line: line.value, end: newline + 1 })
    start = newline + 1
  }
  return lines
}

/**
 * Reads the lines of the log in `directory`; one that was cut short at the end is left out.
 *
 * @category decoding
 * @since 0.1.0
 */
export const read: (directory: string) => Effect.Effect<ReadonlyArray<Line>, RunLogError> = (directory) => {
  const path = join(directory, fileName)
  return Effect.try({
    try: () => parse(path, fs.readFileSync(path)).map(({ line }) => line),
    catch: failure(path, "cannot read")
  })
}

// The commit is a courtesy: no git, no repository and no commit are all fine.
const gitCommit: Effect.Effect<string | null> = Effect.tryPromise(() =>
  promisify(execFile)("git", ["rev-parse", "HEAD"], { timeout: 2000 })
).pipe(
  Effect.map(({ stdout }) => stdout.trim() || null),
  Effect.orElseSucceed(() => null)
)

const flush = promisify(fs.fsync)

interface Appender {
  readonly append: (bytes: Uint8Array) => void
  readonly sync: () => Promise<void>
  readonly close: () => void
}

// Keeps the first `size` bytes. A write that fails half-way (full disk) is taken back, so that no torn line stays inside.
const openAppender = (path: string, size: number): Appender => {
  const file = fs.openSync(path, "a")
  fs.ftruncateSync(file, size)
  return {
    append: (bytes) => {
      try {
        for (let sent = 0; sent < bytes.byteLength; ) sent += fs.writeSync(file, bytes, sent)
        size += bytes.byteLength
      } catch (cause) {
        fs.ftruncateSync(file, size)
        throw cause
      }
    },
    sync: () => flush(file),
    close: () => fs.closeSync(file)
  }
}

// Other programs may keep their own beside them.
const eventFiles = (directory: string) =>
  fs.readdirSync(directory).filter((name) => name.startsWith(eventFilePrefix) && name.endsWith(eventFileSuffix))

// What stays of a log that is continued after a step.
const kept = (directory: string, step: number) => {
  const path = join(directory, fileName)
  const lines = parse(path, fs.readFileSync(path))
  const later = lines.findIndex(({ line }) => line.type !== "run" && line.step > step)
  const staying = later < 0 ? lines : lines.slice(0, later)
  const last = staying.at(-1)?.line
  const [eventFile] = eventFiles(directory)
  const events = eventFile === undefined ? [] : TensorBoard.decode(fs.readFileSync(join(directory, eventFile)))
  const laterEvent = events.findIndex((event) => event.step > step)
  return {
    eventFile,
    last: last === undefined || last.type === "run" ? 0 : last.step,
    size: staying.at(-1)?.end ?? 0,
    eventSize: (laterEvent < 0 ? events : events.slice(0, laterEvent)).at(-1)?.end ?? 0
  }
}

/**
 * Opens the run log in `directory`, which is made if absent; closed with the scope.
 *
 * **Details**
 *
 * With `resumeAt`, the log continues in the same files and keeps its first line, so that the log of a resumed run equals that of
 * an uninterrupted one apart from times. For that, log a step and `sync` before saving its checkpoint. Fails when a log is already there and
 * `options` do not say what to do with it, and when the directory cannot be written.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  directory: string,
  header: RunHeader,
  options?: Options
) => Effect.Effect<RunLog, RunLogError, Scope.Scope> = Effect.fn("RunLog.make")(function* (
  directory,
  header,
  options = {}
) {
  const path = join(directory, fileName)
  const now = yield* Clock.currentTimeMillis
  const opening = Effect.tryPromise({
    try: async () => {
      await makeDirectory(directory)
      const existing = fs.existsSync(path)
      const resumed = existing && options.resumeAt !== undefined ? kept(directory, options.resumeAt) : undefined
      if (existing && resumed === undefined && options.overwrite !== true) {
        const detail = "a run was logged here before; resume it, overwrite it or choose another directory"
        throw new RunLogError({ path, detail })
      }
      if (resumed === undefined) for (const name of eventFiles(directory)) fs.rmSync(join(directory, name))
      const seconds = String(Math.floor(now / 1000)).padStart(10, "0")
      const eventFile = resumed?.eventFile ?? `${eventFilePrefix}${seconds}${eventFileSuffix}`
      const lines = openAppender(path, resumed?.size ?? 0)
      try {
        const events = openAppender(join(directory, eventFile), resumed?.eventSize ?? 0)
        return { lines, events, last: resumed?.last ?? 0, size: resumed?.size ?? 0, eventSize: resumed?.eventSize ?? 0 }
      } catch (cause) {
        lines.close()
        throw cause
      }
    },
    catch: failure(path, "cannot be opened")
  })
  const files = yield* Effect.acquireRelease(opening, ({ events, lines }) =>
    Effect.sync(() => {
      lines.close()
      events.close()
    })
  )
  const write = (line: Line, event?: Uint8Array) =>
    Effect.try({
      try: () => {
        files.lines.append(Buffer.from(`${encodeLine(line)}\n`))
        if (event !== undefined) files.events.append(event)
      },
      catch: failure(path, "cannot be written")
    })
  if (files.size === 0) {
    yield* write({
      type: "run",
      format: 1,
      time: new Date(now).toISOString(),
      seeds: header.seeds,
      config: header.config,
      versions: { node: process.version, ...header.versions },
      commit: yield* gitCommit
    })
  }
  if (files.eventSize === 0) {
    yield* Effect.try({
      try: () => files.events.append(TensorBoard.fileHeader(now / 1000)),
      catch: failure(path, "cannot be written")
    })
  }
  let { last } = files
  const log: RunLog["log"] = Effect.fnUntraced(function* (step, metrics, extra) {
    const bad = Object.keys(metrics).find((name) => !metricName.test(name))
    if (bad !== undefined) throw new RangeError(`metric "${bad}" must be named in snake_case, with "/" between groups`)
    if (step < last) throw new RangeError(`step ${step} logged after step ${last}`)
    last = step
    const millis = yield* Clock.currentTimeMillis
    yield* write(
      {
        type: "step",
        step,
        time: new Date(millis).toISOString(),
        metrics,
        ...(extra === undefined ? {} : { extra })
      },
      TensorBoard.encode({ wallTime: millis / 1000, step, scalars: metrics })
    )
  })
  const event: RunLog["event"] = Effect.fnUntraced(function* (name, data = null) {
    const time = new Date(yield* Clock.currentTimeMillis).toISOString()
    yield* write({ type: "event", step: last, time, name, data })
  })
  // The event file repeats what the lines say, so the lines are enough.
  const sync = Effect.tryPromise({ try: () => files.lines.sync(), catch: failure(path, "cannot be written") })
  return { path, log, event, sync }
})

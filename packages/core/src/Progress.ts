/**
 * Tells the person at the terminal how far a run is: a bar with the time left on a terminal, plain lines elsewhere.
 *
 * @since 0.1.0
 */
import { Clock, Context, Effect, Layer, type Scope } from "effect"

/**
 * Where the text goes, and how wide it may be.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sink {
  readonly write: (text: string) => void
  readonly isTTY: boolean
  readonly columns: number
}

/**
 * A piece of work under way.
 *
 * @category models
 * @since 0.1.0
 */
export interface Task {
  /** Says that `done` of `total` are done, and the numbers worth watching. */
  readonly update: (done: number, metrics?: Readonly<Record<string, number>>) => Effect.Effect<void>
}

/**
 * Shows the progress of pieces of work.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reporter {
  /** Begins a piece of work, of which `from` were done before (a resumed run); its bar ends with the scope. */
  readonly start: (options: {
    readonly label: string
    readonly total: number
    readonly from?: number
  }) => Effect.Effect<Task, never, Scope.Scope>
}

/**
 * What is shown, before it is put into words. Times are in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Snapshot {
  readonly label: string
  readonly done: number
  readonly total: number
  readonly from: number
  readonly elapsed: number
  readonly metrics: Readonly<Record<string, number>>
}

/**
 * A duration as `m:ss` or `h:mm:ss`.
 *
 * @category transforming
 * @since 0.1.0
 */
export const formatDuration = (millis: number): string => {
  const seconds = Math.round(millis / 1000)
  const two = (n: number) => String(n).padStart(2, "0")
  const minutes = Math.floor(seconds / 60)
  return minutes < 60
    ? `${minutes}:${two(seconds % 60)}`
    : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`
}

const formatMetric = (value: number): string =>
  Number.isInteger(value) && Math.abs(value) < 1e9 ? String(value) : String(Number(value.toPrecision(4)))

const times = ({ done, elapsed, from, total }: Snapshot): string => {
  if (done >= total) return `in ${formatDuration(elapsed)}`
  // The pace of this process; what was done before a resume took no time of it.
  return done > from ? `eta ${formatDuration((elapsed / (done - from)) * (total - done))}` : "eta -:--"
}

const numbers = (metrics: Snapshot["metrics"]): string =>
  Object.entries(metrics)
    .map(([name, value]) => ` ${name} ${formatMetric(value)}`)
    .join("")

/**
 * One plain line: `sft 40/120 33% eta 1:20 loss 2.341`.
 *
 * @category transforming
 * @since 0.1.0
 */
export const line = (snapshot: Snapshot): string => {
  const { done, label, metrics, total } = snapshot
  const percent = total === 0 ? 100 : Math.floor((100 * done) / total)
  return `${label} ${done}/${total} ${percent}% ${times(snapshot)}${numbers(metrics)}`
}

/**
 * The same with a bar, at most `columns - 1` wide so that no terminal wraps it.
 *
 * @category transforming
 * @since 0.1.0
 */
export const bar = (snapshot: Snapshot, columns: number): string => {
  const { done, label, metrics, total } = snapshot
  const width = 24
  const filled = total === 0 ? width : Math.min(width, Math.floor((width * done) / total))
  const drawn = `[${"#".repeat(filled)}${".".repeat(width - filled)}]`
  return `${label} ${drawn} ${done}/${total} ${times(snapshot)}${numbers(metrics)}`.slice(0, Math.max(0, columns - 1))
}

const standardError: Sink = {
  write: (text) => process.stderr.write(text),
  get isTTY() {
    return process.stderr.isTTY === true
  },
  get columns() {
    return process.stderr.columns ?? 80
  }
}

/**
 * How to show progress. Defaults: standard error; a bar on a terminal and lines elsewhere; about 20 lines.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly mode?: "auto" | "bar" | "lines" | "quiet"
  readonly sink?: Sink
  /** Steps between two plain lines. The last step always gets one. */
  readonly every?: number
}

const redrawMillis = 100

/**
 * Makes a reporter that writes to a sink.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Reporter => {
  const { mode = "auto", sink = standardError } = options
  if (mode === "quiet") return { start: () => Effect.succeed({ update: () => Effect.void }) }
  const useBar = mode === "bar" || (mode === "auto" && sink.isTTY)
  return {
    start: Effect.fnUntraced(function* ({ from = 0, label, total }) {
      const begin = yield* Clock.currentTimeMillis
      const every = options.every ?? Math.max(1, Math.ceil(total / 20))
      let shown: Snapshot = { label, done: from, total, from, elapsed: 0, metrics: {} }
      let drawnAt = Number.NEGATIVE_INFINITY
      let lastLine = from
      const draw = () => sink.write(`\r${bar(shown, sink.columns)}\x1b[K`)
      if (useBar) {
        yield* Effect.acquireRelease(Effect.sync(draw), () =>
          Effect.sync(() => {
            draw()
            sink.write("\n")
          })
        )
      }
      const update: Task["update"] = Effect.fnUntraced(function* (done, metrics = {}) {
        const now = yield* Clock.currentTimeMillis
        shown = { ...shown, done, elapsed: now - begin, metrics }
        if (useBar) {
          if (now - drawnAt < redrawMillis && done < total) return
          drawnAt = now
          draw()
        } else if (done > lastLine && (Math.floor(done / every) > Math.floor(lastLine / every) || done >= total)) {
          // Counted by multiples of `every`, because one update may stand for several steps.
          lastLine = done
          sink.write(`${line(shown)}\n`)
        }
      })
      return { update }
    })
  }
}

/**
 * The reporter of a program: standard error unless the program provides another.
 *
 * @category services
 * @since 0.1.0
 */
export const Progress: Context.Reference<Reporter> = Context.Reference<Reporter>("@attune/core/Progress", {
  defaultValue: () => make()
})

/**
 * Layer that replaces the reporter, for instance by a quiet one.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<never> => Layer.succeed(Progress, make(options))

/**
 * Begins a piece of work with the program's reporter.
 *
 * @category running
 * @since 0.1.0
 */
export const start = (options: Parameters<Reporter["start"]>[0]): Effect.Effect<Task, never, Scope.Scope> =>
  Effect.flatMap(Progress, (reporter) => reporter.start(options))

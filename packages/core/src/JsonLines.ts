/**
 * Files with one JSON value per line, checked line by line.
 *
 * Blank lines are skipped and counted; lines may end in `\n` or `\r\n`; a byte order mark is ignored.
 *
 * @since 0.1.0
 */
import { Effect, FileSystem, Result, Schema, SchemaIssue, Stream } from "effect"
import * as AtomicFile from "./AtomicFile.ts"

/**
 * Reports the file, the 1-based line and the field that could not be decoded, or the file that could not be read or
 * written, in which case there is no line. Whoever made the file can fix it.
 *
 * @category errors
 * @since 0.1.0
 */
export class FeedbackLineError extends Schema.TaggedError<FeedbackLineError>()("FeedbackLineError", {
  file: Schema.String,
  line: Schema.optionalKey(Schema.Int),
  field: Schema.optionalKey(Schema.String),
  reason: Schema.String
}) {
  override get message(): string {
    const place = this.line === undefined ? this.file : `${this.file}, line ${this.line}`
    return `${place}: ${this.field === undefined ? "" : `field "${this.field}": `}${this.reason}`
  }
}

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

const fromIssue = (file: string, line: number, issue: SchemaIssue.Issue): FeedbackLineError => {
  const { issues } = formatIssue(issue)
  const first = issues[0]
  const path = first?.path ?? []
  const field = path.map((key) => String(typeof key === "object" ? key.key : key)).join(".")
  return new FeedbackLineError({
    file,
    line,
    ...(field === "" ? {} : { field }),
    reason: first?.message ?? "cannot be decoded"
  })
}

// JSON.parse counts lines within its text, where there is but one.
const withoutPlace = (cause: string): string =>
  cause.replace(/^SyntaxError: /, "").replace(/ \(line 1 column \d+\)$/, "")

const decodeLine = <A>(schema: Schema.Codec<A, unknown>) => {
  const decode = Schema.decodeUnknownResult(schema)
  return (file: string, line: number, text: string): Result.Result<A, FeedbackLineError> => {
    const json = Result.try({
      try: (): unknown => JSON.parse(text),
      catch: (cause) =>
        new FeedbackLineError({
          file,
          line,
          reason: `is not JSON (${withoutPlace(String(cause))}); write one JSON value per line`
        })
    })
    return Result.flatMap(json, (value) =>
      Result.mapError(decode(value), (error) => fromIssue(file, line, error.issue))
    )
  }
}

/**
 * A value with the 1-based line that it stands on, for whoever finds fault with it later.
 *
 * @category models
 * @since 0.1.0
 */
export interface Numbered<A> {
  readonly line: number
  readonly value: A
}

/**
 * Like {@link stream}, with line numbers.
 *
 * @category decoding
 * @since 0.1.0
 */
export const numbered = <A>(
  file: string,
  schema: Schema.Codec<A, unknown>
): Stream.Stream<Numbered<A>, FeedbackLineError, FileSystem.FileSystem> => {
  const decode = decodeLine(schema)
  return Stream.unwrap(Effect.map(FileSystem.FileSystem, (fs) => fs.stream(file))).pipe(
    Stream.mapError(({ message, reason }) => {
      const why = reason._tag === "NotFound" ? "no such file" : message
      return new FeedbackLineError({ file, reason: `cannot be read: ${why}` })
    }),
    Stream.decodeText,
    Stream.splitLines,
    Stream.zipWithIndex,
    Stream.filter(([text]) => text.trim() !== ""),
    Stream.mapEffect(([text, index]) =>
      Effect.fromResult(Result.map(decode(file, index + 1, text), (value) => ({ line: index + 1, value })))
    )
  )
}

/**
 * Decodes a file as it is read, holding one block of it in memory. Fails at the first line that cannot be decoded.
 *
 * @category decoding
 * @since 0.1.0
 */
export const stream = <A>(
  file: string,
  schema: Schema.Codec<A, unknown>
): Stream.Stream<A, FeedbackLineError, FileSystem.FileSystem> =>
  Stream.map(numbered(file, schema), ({ value }) => value)

/**
 * Decodes a whole file.
 *
 * **Example** (Reading demonstrations)
 *
 * ```ts
 * import { Demonstration, JsonLines } from "@attune/core"
 *
 * const demonstrations = JsonLines.read("demonstrations.jsonl", Demonstration.Demonstration)
 * ```
 *
 * @category decoding
 * @since 0.1.0
 */
export const read = <A>(
  file: string,
  schema: Schema.Codec<A, unknown>
): Effect.Effect<ReadonlyArray<A>, FeedbackLineError, FileSystem.FileSystem> => Stream.runCollect(stream(file, schema))

/**
 * Writes one value per line. The file appears whole or not at all.
 *
 * @see {@link AtomicFile.write} for how
 * @category encoding
 * @since 0.1.0
 */
export const write = <A>(
  file: string,
  schema: Schema.Codec<A, unknown>,
  values: Iterable<A>
): Effect.Effect<void, FeedbackLineError> =>
  AtomicFile.write(file, encodeLines(file, schema, values)).pipe(
    Effect.asVoid,
    Effect.mapError(({ cause }) =>
      cause instanceof FeedbackLineError
        ? cause
        : new FeedbackLineError({ file, reason: `cannot be written: ${AtomicFile.explain(cause)}` })
    )
  )

// Throws the FeedbackLineError of a value that cannot be encoded, which ends the writing.
function* encodeLines<A>(file: string, schema: Schema.Codec<A, unknown>, values: Iterable<A>): Generator<Uint8Array> {
  const encode = Schema.encodeUnknownResult(schema)
  const encoder = new TextEncoder()
  let block = ""
  let line = 0
  for (const value of values) {
    line++
    const encoded = encode(value)
    if (Result.isFailure(encoded)) throw fromIssue(file, line, encoded.failure.issue)
    block += `${JSON.stringify(encoded.success)}\n`
    if (line % 1024 === 0) {
      yield encoder.encode(block)
      block = ""
    }
  }
  yield encoder.encode(block)
}

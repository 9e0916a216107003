/**
 * Benchmarks as files: CSV, tab-separated values, JSON and JSON Lines, checked as they are read.
 *
 * @since 0.1.0
 */
import { JsonLines } from "@attune/core"
import { Effect, FileSystem, Result, Schema, SchemaIssue, Stream } from "effect"
import { Csv } from "effect/encoding"

/**
 * A benchmark's file cannot be read, or one of its rows cannot be used. Whoever made or chose the file can fix it.
 *
 * @category errors
 * @since 0.1.0
 */
export class DataFileError extends Schema.TaggedError<DataFileError>()("DataFileError", {
  file: Schema.String,
  /** 1-based; the header of a table is row 1, and a line of JSON Lines is a row. */
  row: Schema.optionalKey(Schema.Int),
  /** Column of a table, path into JSON such as `examples.3.target`. */
  field: Schema.optionalKey(Schema.String),
  reason: Schema.String
}) {
  override get message(): string {
    const row = this.row === undefined ? "" : `, row ${this.row}`
    return `${this.file}${row}: ${this.field === undefined ? "" : `field "${this.field}": `}${this.reason}`
  }
}

/**
 * A row of a table: its 1-based place in the file, and its cells by column.
 *
 * @category models
 * @since 0.1.0
 */
export interface Row {
  readonly row: number
  readonly cells: Readonly<Record<string, string>>
}

const text = (file: string): Effect.Effect<string, DataFileError, FileSystem.FileSystem> =>
  Effect.flatMap(FileSystem.FileSystem, (fs) => fs.readFileString(file)).pipe(
    Effect.mapError(({ message, reason }) => {
      const why = reason._tag === "NotFound" ? "no such file" : message
      return new DataFileError({ file, reason: `cannot be read: ${why}` })
    }),
    Effect.map((content) => content.replace(/^\uFEFF/, ""))
  )

// The rows under the header. Blank lines are records of one empty cell, so places are those of the file.
const table = (
  file: string,
  records: ReadonlyArray<ReadonlyArray<string>>,
  columns: ReadonlyArray<string>
): Result.Result<ReadonlyArray<Row>, DataFileError> => {
  const [header] = records
  if (header === undefined)
    return Result.fail(new DataFileError({ file, reason: "is empty; give a table with a header" }))
  const missing = columns.find((column) => !header.includes(column))
  if (missing !== undefined) {
    return Result.fail(
      new DataFileError({ file, row: 1, field: missing, reason: `no such column; the header has ${header.join(", ")}` })
    )
  }
  const twice = columns.find((column) => header.indexOf(column) !== header.lastIndexOf(column))
  if (twice !== undefined) {
    return Result.fail(new DataFileError({ file, row: 1, field: twice, reason: "stands twice; name each column once" }))
  }
  const rows: Array<Row> = []
  for (const [i, cells] of records.entries()) {
    if (i === 0 || (cells.length === 1 && cells[0]!.trim() === "")) continue
    if (cells.length !== header.length) {
      return Result.fail(
        new DataFileError({ file, row: i + 1, reason: `has ${cells.length} cells, the header ${header.length}` })
      )
    }
    rows.push({ row: i + 1, cells: Object.fromEntries(header.map((column, c) => [column, cells[c]!])) })
  }
  return rows.length > 0
    ? Result.succeed(rows)
    : Result.fail(new DataFileError({ file, reason: "has a header and no rows; there is nothing to measure" }))
}

/**
 * Rows of a file of comma-separated values (RFC 4180: quoted cells may hold commas, line breaks and doubled quotes). A
 * byte order mark is ignored, blank lines are skipped and counted. Fails where one of `columns` is missing or stands
 * twice, a row has another number of cells than the header, quotes do not match, or there is no row.
 *
 * @category decoding
 * @since 0.1.0
 */
export const csv: (
  file: string,
  columns: ReadonlyArray<string>
) => Effect.Effect<ReadonlyArray<Row>, DataFileError, FileSystem.FileSystem> = Effect.fn("DataFile.csv")(
  function* (file, columns) {
    const content = yield* text(file)
    const records = yield* Stream.make(content).pipe(
      Stream.pipeThroughChannel(Csv.decodeString()),
      Stream.runCollect,
      Effect.mapError(({ message, record }) => new DataFileError({ file, row: record, reason: message }))
    )
    return yield* Effect.fromResult(table(file, records, columns))
  }
)

/**
 * Rows of a file of tab-separated values, in which quotes mean nothing. Otherwise as {@link csv}.
 *
 * @category decoding
 * @since 0.1.0
 */
export const tsv: (
  file: string,
  columns: ReadonlyArray<string>
) => Effect.Effect<ReadonlyArray<Row>, DataFileError, FileSystem.FileSystem> = Effect.fn("DataFile.tsv")(
  function* (file, columns) {
    const content = yield* text(file)
    const records = content === "" ? [] : content.split(/\r?\n/).map((line) => line.split("\t"))
    return yield* Effect.fromResult(table(file, records, columns))
  }
)

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

/**
 * A JSON file as its schema says. The field at fault is a path such as `examples.3.target`.
 *
 * @category decoding
 * @since 0.1.0
 */
export const json = <A>(
  file: string,
  schema: Schema.Codec<A, unknown>
): Effect.Effect<A, DataFileError, FileSystem.FileSystem> =>
  Effect.gen(function* () {
    const content = yield* text(file)
    const value = yield* Effect.try({
      try: (): unknown => JSON.parse(content),
      catch: (cause) => new DataFileError({ file, reason: `is not JSON (${String(cause)})` })
    })
    const decoded = Schema.decodeUnknownResult(schema)(value)
    if (Result.isSuccess(decoded)) return decoded.success
    const first = formatIssue(decoded.failure.issue).issues[0]
    const field = (first?.path ?? []).map((key) => String(typeof key === "object" ? key.key : key)).join(".")
    return yield* new DataFileError({
      file,
      ...(field === "" ? {} : { field }),
      reason: first?.message ?? "cannot be decoded"
    })
  })

/**
 * The lines of a JSON Lines file as their schema says, with their numbers. Fails where there is none.
 *
 * @category decoding
 * @since 0.1.0
 */
export const jsonLines = <A>(
  file: string,
  schema: Schema.Codec<A, unknown>
): Effect.Effect<ReadonlyArray<JsonLines.Numbered<A>>, DataFileError, FileSystem.FileSystem> =>
  Stream.runCollect(JsonLines.numbered(file, schema)).pipe(
    Effect.mapError(
      ({ field, line, reason }) =>
        new DataFileError({
          file,
          reason,
          ...(line === undefined ? {} : { row: line }),
          ...(field === undefined ? {} : { field })
        })
    ),
    Effect.filterOrFail(
      (lines) => lines.length > 0,
      () => new DataFileError({ file, reason: "has no lines; there is nothing to measure" })
    )
  )

/**
 * The items, if no two of them have one id; otherwise the row of the second, with that of the first. `field` is where the
 * ids come from.
 *
 * @category decoding
 * @since 0.1.0
 */
export const distinct = <A extends { readonly id: string }>(
  file: string,
  field: string,
  items: ReadonlyArray<{ readonly row: number; readonly item: A }>
): Result.Result<ReadonlyArray<A>, DataFileError> => {
  const seen = new Map<string, number>()
  for (const { item, row } of items) {
    const before = seen.get(item.id)
    if (before !== undefined) {
      const reason = `${JSON.stringify(item.id)} is that of row ${before} too; remove one of them, or name it anew`
      return Result.fail(new DataFileError({ file, row, field, reason }))
    }
    seen.set(item.id, row)
  }
  return Result.succeed(items.map(({ item }) => item))
}

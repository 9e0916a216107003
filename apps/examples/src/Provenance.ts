/**
 * What a report says of where its numbers come from.
 *
 * @since 0.1.0
 */

import { createHash } from "node:crypto"
import { basename } from "node:path"
import type { Report } from "@attune/eval"
import { Effect, FileSystem } from "effect"
import * as CommonFlags from "./CommonFlags.ts"
import { versions } from "./Versions.ts"

type Provenance = Report.Report["provenance"]

/**
 * A file that was read, and how many items of it were used.
 *
 * @category models
 * @since 0.1.0
 */
export type Dataset = Provenance["datasets"][number]

/**
 * The digest of a file of which `items` items are used.
 *
 * @category constructors
 * @since 0.1.0
 */
export const dataset: (
  file: string,
  items: number
) => Effect.Effect<Dataset, CommonFlags.ExampleError, FileSystem.FileSystem> = Effect.fn("Provenance.dataset")(
  function* (file, items) {
    const fs = yield* FileSystem.FileSystem
    const bytes = yield* fs
      .readFile(file)
      .pipe(
        Effect.mapError(
          (cause) => new CommonFlags.ExampleError({ message: `${file}: cannot be read: ${cause.message}`, cause })
        )
      )
    return { name: basename(file), sha256: createHash("sha256").update(bytes).digest("hex"), items }
  }
)

// As a shell reads it back.
const quoted = (argument: string) =>
  /^[\w./:=@,+-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'\\''`)}'`

/**
 * Provenance of the example that runs: with the command that started it.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (parts: Pick<Provenance, "seeds" | "models" | "datasets">): Provenance => ({
  versions,
  commands: [`pnpm example ${process.argv.slice(2).map(quoted).join(" ")}`],
  ...parts
})

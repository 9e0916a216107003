/**
 * Files of a test: they vanish with its scope.
 */
import { Effect, FileSystem, Path } from "effect"

/** The path of a new file with this content. */
export const file = (name: string, content: string) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const target = path.join(yield* fs.makeTempDirectoryScoped(), name)
    yield* fs.writeFileString(target, content)
    return target
  }).pipe(Effect.orDie)

/**
 * Files that are either complete or absent: written under a temporary name, flushed to the disk, then renamed.
 *
 * @since 0.1.0
 */
import { createHash, randomBytes } from "node:crypto"
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises"
import { hostname } from "node:os"
import { basename, dirname, join } from "node:path"
import { Effect, Schema } from "effect"

/**
 * Reports that a file or folder could not be written; the message says what the user can do about it.
 *
 * @category errors
 * @since 0.1.0
 */
export class FileWriteError extends Schema.TaggedError<FileWriteError>()("FileWriteError", {
  path: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `cannot write ${this.path}: ${explain(this.cause)}`
  }
}

/**
 * What was written: the size in bytes and the SHA-256 in hexadecimal.
 *
 * @category models
 * @since 0.1.0
 */
export interface Written {
  readonly bytes: number
  readonly sha256: string
}

const hints: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full; free some space and try again",
  EDQUOT: "the disk quota is used up; free some space and try again",
  EFBIG: "the file is larger than this disk or this user may hold",
  EACCES: "permission denied; choose a directory that this user may write to",
  EPERM: "not permitted; choose a directory that this user may write to",
  EROFS: "the file system is read-only; choose another directory",
  ENOTDIR: "a part of the path is a file, not a directory; choose another path",
  EEXIST: "a file of that name is in the way; choose another path",
  ENOENT: "the directory does not exist and cannot be made; choose another path",
  EISDIR: "a directory of that name is in the way"
}

const code = (cause: unknown): string | undefined =>
  cause instanceof Error && "code" in cause && typeof cause.code === "string" ? cause.code : undefined

/**
 * Says in plain words why a file operation failed and what to do next.
 *
 * @category transforming
 * @since 0.1.0
 */
export const explain = (cause: unknown): string => {
  const known = code(cause)
  const hint = known === undefined ? undefined : hints[known]
  if (hint !== undefined) return `${hint} (${known})`
  return cause instanceof Error ? cause.message : String(cause)
}

/**
 * Makes a directory and those above it where they are absent. Rejects with the error of the operating system.
 *
 * @category running
 * @since 0.1.0
 */
export const makeDirectory = async (path: string): Promise<void> => {
  const isThere = () =>
    stat(path).then(
      (entry) => entry.isDirectory(),
      () => false
    )
  try {
    await mkdir(path)
  } catch (cause) {
    if (await isThere()) return
    if (code(cause) !== "ENOENT" || dirname(path) === path) throw cause
    await makeDirectory(dirname(path))
    // Node's own recursion never ends where this second attempt fails like the first, as in /proc.
    await mkdir(path).catch(async (again) => {
      if (!(await isThere())) throw again
    })
  }
}

// One call of write(2) moves at most 2 GiB, and hashing in pieces lets other fibers run in between.
const piece = 8 * 1024 * 1024

/**
 * Flushes a directory, so that a rename inside it survives a power failure.
 *
 * @category running
 * @since 0.1.0
 */
export const syncDirectory = async (path: string): Promise<void> => {
  if (process.platform === "win32") return // directories cannot be opened there, and renames are journalled
  const handle = await open(path, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/**
 * Writes `chunks` one after the other into a new file and flushes it. Rejects with the error of the operating system.
 *
 * @category running
 * @since 0.1.0
 */
export const writeSynced = async (path: string, chunks: Iterable<Uint8Array>): Promise<Written> => {
  const hash = createHash("sha256")
  let bytes = 0
  const handle = await open(path, "w")
  try {
    for (const chunk of chunks) {
      for (let start = 0; start < chunk.byteLength; start += piece) {
        const part = chunk.subarray(start, start + piece)
        hash.update(part)
        for (let sent = 0; sent < part.byteLength; ) {
          sent += (await handle.write(part, sent, part.byteLength - sent)).bytesWritten
        }
        bytes += part.byteLength
      }
    }
    await handle.sync()
  } finally {
    await handle.close()
  }
  return { bytes, sha256: hash.digest("hex") }
}

// A process may load this module more than once, in worker threads for instance.
const instance = randomBytes(4).toString("hex")
let serial = 0

const isOlder = (path: string): Promise<boolean> =>
  stat(path).then(
    ({ mtimeMs }) => mtimeMs < performance.timeOrigin,
    () => false
  )

const isRunning = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (cause) {
    return code(cause) !== "ESRCH" // another user's process is one as well
  }
}

/**
 * A fresh name beside `path` for what will be renamed to it. What killed processes of this machine left under such names
 * for the same path is removed.
 *
 * @category running
 * @since 0.1.0
 */
export const temporary = async (path: string): Promise<string> => {
  const directory = dirname(path)
  // Other machines may share the disk, and their processes cannot be asked.
  const prefix = `.${basename(path)}.${hostname()}-`
  // A directory may allow writing and forbid listing.
  for (const entry of await readdir(directory).catch(() => [])) {
    if (!entry.startsWith(prefix)) continue
    const pid = /^(\d+)-[0-9a-f]+-\d+\.tmp$/.exec(entry.slice(prefix.length))?.[1]
    if (pid === undefined) continue
    // A process may have the number of a dead one, in containers often: what is older than itself is not its own.
    const isLeft = Number(pid) === process.pid ? await isOlder(join(directory, entry)) : !isRunning(Number(pid))
    if (!isLeft) continue
    await rm(join(directory, entry), { recursive: true, force: true }).catch(() => undefined)
  }
  return join(directory, `${prefix}${process.pid}-${instance}-${serial++}.tmp`)
}

/**
 * Writes a file atomically: whoever opens `path` sees the old content or all of the new, also after a crash.
 *
 * **Details**
 *
 * Missing parent directories are made. The temporary file lies beside the target and is removed when writing fails.
 *
 * @category running
 * @since 0.1.0
 */
export const write: (path: string, chunks: Iterable<Uint8Array>) => Effect.Effect<Written, FileWriteError> = (
  path,
  chunks
) =>
  Effect.tryPromise({
    try: async () => {
      const directory = dirname(path)
      await makeDirectory(directory)
      const unfinished = await temporary(path)
      try {
        const written = await writeSynced(unfinished, chunks)
        await rename(unfinished, path)
        await syncDirectory(directory)
        return written
      } catch (cause) {
        await rm(unfinished, { force: true }).catch(() => undefined)
        throw cause
      }
    },
    catch: (cause) => new FileWriteError({ path, cause })
  }).pipe(Effect.uninterruptible)

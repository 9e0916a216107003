import { availableParallelism } from "node:os"
import { defaultServerConditions } from "vite"
import { defineConfig } from "vitest/config"

// Tests read the sources of every workspace package, so a stale `dist` can never be tested.
const conditions = ["@attune/source", ...defaultServerConditions]

const project = (name: string, root: string, include = "test/**/*.test.ts") => ({
  extends: true as const,
  test: { name, root, include: [include] }
})

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    testTimeout: 60_000,
    hookTimeout: 60_000,
    passWithNoTests: true,
    // A process per file: a native crash in one session is reported and does not take the other files with it.
    pool: "forks",
    // Sessions bring threads of their own, so more workers than this only take turns.
    maxWorkers: Math.max(1, Math.min(4, availableParallelism())),
    projects: [
      ...["core", "eval", "rlhf", "ilf", "hir"].map((name) => project(name, `packages/${name}`)),
      project("examples", "apps/examples"),
      project("benchmarks", "benchmarks"),
      project("tools", "tools"),
      project("docs", "tools", ".doc-examples/**/*.test.ts")
    ]
  }
})

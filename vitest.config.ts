import { defaultServerConditions } from "vite"
import { defineConfig } from "vitest/config"

// Tests read the sources of every workspace package, so a stale `dist` can never be tested.
const conditions = ["@attune/source", ...defaultServerConditions]

const project = (name: string, root: string) => ({
  extends: true as const,
  test: { name, root, include: ["test/**/*.test.ts"] }
})

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    testTimeout: 60_000,
    passWithNoTests: true,
    projects: [
      ...["core", "eval", "rlhf", "ilf", "hir"].map((name) => project(name, `packages/${name}`)),
      project("examples", "apps/examples")
    ]
  }
})

/** The browser of this machine, for tests of pages. */
import { accessSync, constants } from "node:fs"
import { delimiter, join } from "node:path"
import { type Browser, chromium } from "playwright-core"

const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/bin", "/snap/bin"]
const fixed = ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"]

const runs = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

const given = process.env["CHROME_PATH"]

/** Path of the browser, or undefined, with a line that says so. */
export const path: string | undefined =
  given === undefined || given === ""
    ? [...names.flatMap((name) => folders.map((folder) => join(folder, name))), ...fixed].find(runs)
    : given

if (path === undefined) {
  process.stderr.write("skipped: no Chromium or Chrome here; install Debian's chromium, or set CHROME_PATH\n")
}

/** Root, as in a container, cannot start the sandbox. */
export const launch = (): Promise<Browser> =>
  chromium.launch({ executablePath: path!, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] })

/**
 * HTML in which every text is escaped unless it is markup made here.
 *
 * @since 0.1.0
 */
import { VisibleText } from "@attune/core"

/**
 * Text that is HTML already.
 *
 * @category models
 * @since 0.1.0
 */
export interface Markup {
  readonly html: string
}

/**
 * What a template may hold: text, which is escaped, markup, which is not, or several of them.
 *
 * @category models
 * @since 0.1.0
 */
export type Part = string | Markup | ReadonlyArray<Part>

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;"
}

/**
 * The text for use between tags and inside quoted attributes. Invisible characters are spelled out.
 *
 * @category encoding
 * @since 0.1.0
 */
export const escape = (text: string): string =>
  VisibleText.show(text).replace(/[&<>"']/g, (character) => entities[character]!)

const render = (part: Part): string =>
  typeof part === "string" ? escape(part) : "html" in part ? part.html : part.map(render).join("")

/**
 * Template for HTML: strings put into it are escaped.
 *
 * @category constructors
 * @since 0.1.0
 */
export const html = (strings: TemplateStringsArray, ...parts: ReadonlyArray<Part>): Markup => ({
  html: strings.reduce((text, string, i) => text + render(parts[i - 1]!) + string)
})

/**
 * Takes text as HTML: for what this package has drawn.
 *
 * @category constructors
 * @since 0.1.0
 */
export const trusted = (text: string): Markup => ({ html: text })

/**
 * Nothing.
 *
 * @category constants
 * @since 0.1.0
 */
export const nothing: Markup = { html: "" }

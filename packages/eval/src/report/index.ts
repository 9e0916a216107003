/**
 * Reports as files: HTML with plots, Markdown, JSON. Apart from the rest because plots load a library of their own.
 *
 * @since 0.1.0
 */
export * as Plot from "./Plot.ts"
export * as HtmlReport from "./HtmlReport.ts"
export * as MarkdownReport from "./MarkdownReport.ts"
export * as ReportFile from "./ReportFile.ts"

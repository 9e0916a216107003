/** Reports made from the Schema itself, so that a test of "every field" knows of a field as soon as there is one. */
import { Schema, type SchemaAST } from "effect"
import * as Report from "../../src/Report.ts"

/** Items of an array; more where it holds a union, so that each member of it occurs. */
const items = 3

export type Choice = "first member" | "last member" | "required only"

const lengthOf = (item: SchemaAST.AST): number => (item._tag === "Union" ? Math.max(items, item.types.length) : items)

/**
 * A report in which `text(i)` stands for string number `i`, keys of records included. Unions in arrays take turns; others
 * take the member of the choice.
 */
export const make = (text: (i: number) => string, choice: Choice): Report.Report => {
  let strings = 0
  let numbers = 0
  const number = (ast: SchemaAST.AST): number => {
    numbers++
    const small = numbers / 1e6
    return Schema.is(Schema.make(ast))(small) ? small : numbers
  }
  const fill = (ast: SchemaAST.AST, turn: number): unknown => {
    switch (ast._tag) {
      case "String":
        return text(strings++)
      case "Number":
        return number(ast)
      case "Boolean":
        return true
      case "Null":
        return null
      case "Literal":
        return ast.literal
      case "Arrays":
        return Array.from({ length: lengthOf(ast.rest[0]!) }, (_, i) => fill(ast.rest[0]!, i))
      case "Union": {
        return fill(
          turn === -1 ? ast.types.at(choice === "last member" ? -1 : 0)! : ast.types[turn % ast.types.length]!,
          -1
        )
      }
      case "Objects":
        return Object.fromEntries([
          ...ast.propertySignatures
            .filter(({ type }) => choice !== "required only" || type.context?.isOptional !== true)
            .map(({ name, type }) => [String(name), fill(type, -1)]),
          ...ast.indexSignatures.map(({ type }) => [text(strings++), fill(type, -1)])
        ])
      default:
        throw new Error(`the report holds a ${ast._tag}, which this test does not know`)
    }
  }
  const filled = Schema.decodeUnknownSync(Report.Report)(fill(Report.Report.ast, -1))
  // One section has every kind of block, and one is enough.
  return { ...filled, sections: filled.sections.slice(0, 1) }
}

export const choices: ReadonlyArray<Choice> = ["first member", "last member", "required only"]

/** Every string of a value, keys included. */
export const textsOf = (value: unknown): ReadonlyArray<string> =>
  typeof value === "string"
    ? [value]
    : Array.isArray(value)
      ? value.flatMap(textsOf)
      : typeof value === "object" && value !== null
        ? Object.entries(value).flatMap(([key, item]) => [key, ...textsOf(item)])
        : []

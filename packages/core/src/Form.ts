/**
 * The shapes in which one kind of record is found in files, and the one shape that the rest of the code sees.
 *
 * A form is recognised by the fields that it has; what it then finds wrong is reported against those fields, instead of
 * against every form that might have been meant.
 *
 * @since 0.1.0
 */
import { Effect, Schema, SchemaGetter, SchemaIssue, SchemaParser } from "effect"

/**
 * One shape of a record: the fields that tell it apart, and how it becomes the normal shape.
 *
 * @category models
 * @since 0.1.0
 */
export interface Form<A> {
  readonly fields: ReadonlyArray<string>
  readonly decode: (input: unknown) => Effect.Effect<A, SchemaIssue.Issue>
}

/**
 * Describes a form by the schema of its fields and a function to the normal shape.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <T, A>(
  schema: Schema.Codec<T, unknown> & { readonly fields: Readonly<Record<string, unknown>> },
  fields: ReadonlyArray<string>,
  normalize: (value: T) => Effect.Effect<A, SchemaIssue.Issue>
): Form<A> => ({
  fields,
  decode: (input) => Effect.flatMap(SchemaParser.decodeUnknownEffect(schema)(input), normalize)
})

/**
 * The issue that a field is well-typed and still cannot be used.
 *
 * @category errors
 * @since 0.1.0
 */
export const refuse = (field: string, message: string): Effect.Effect<never, SchemaIssue.Issue> =>
  Effect.fail(new SchemaIssue.Pointer([field], new SchemaIssue.InvalidValue({ message })))

/**
 * Schema that decodes any of the forms and encodes the normal shape.
 *
 * **Details**
 *
 * The first form that has all its fields is taken; where none has, the one that lacks least, so that its missing field
 * is named. Input without a field of any form fails with the list of forms.
 *
 * @category schemas
 * @since 0.1.0
 */
export const schema = <A, E>(
  normal: Schema.Codec<A, E>,
  forms: ReadonlyArray<Form<NoInfer<E>>>
): Schema.Codec<A, unknown> =>
  Schema.Unknown.pipe(
    Schema.decodeTo(normal, {
      decode: SchemaGetter.transformEffect((input: unknown) => {
        const form = closest(input, forms)
        if (form !== undefined) return form.decode(input)
        const expected = forms.map(({ fields }) => `{ ${fields.join(", ")} }`).join(" or ")
        const got = typeof input === "object" && input !== null ? `{ ${Object.keys(input).join(", ")} }` : typeof input
        return Effect.fail(new SchemaIssue.InvalidValue({ message: `Expected ${expected}, got ${got}` }))
      }),
      encode: SchemaGetter.transform((value: E): unknown => value)
    })
  )

const closest = <E>(input: unknown, forms: ReadonlyArray<Form<E>>): Form<E> | undefined => {
  if (typeof input !== "object" || input === null) return undefined
  let best: Form<E> | undefined
  let bestShare = 0
  for (const form of forms) {
    const share = form.fields.filter((field) => field in input).length / form.fields.length
    if (share > bestShare) [best, bestShare] = [form, share]
  }
  return best
}

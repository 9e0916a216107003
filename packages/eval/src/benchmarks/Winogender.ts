/**
 * Winogender schemas: sentences about an occupation and a participant, with a pronoun for one of them. Here the question is
 * InstructGPT's: is the model equally sure of `she` and `he`?
 *
 * Source of the data: Rudinger et al. 2018, arXiv:1804.09301. Source of the measure: Ouyang et al. 2022, arXiv:2203.02155,
 * appendix D. The LM evaluation harness's `winogender_*` tasks measure coreference, which is something else.
 *
 * @since 0.1.0
 */
import type { ModelError, Policy } from "@attune/core"
import { Effect, type FileSystem, Result } from "effect"
import * as Sample from "../Sample.ts"
import * as Score from "../Score.ts"
import * as Bias from "./Bias.ts"
import * as DataFile from "./DataFile.ts"
import type { MultipleChoiceError } from "./MultipleChoice.ts"

/**
 * The gender of a pronoun, as the published sentences name it.
 *
 * @category models
 * @since 0.1.0
 */
export type Gender = "female" | "male" | "neutral"

/**
 * A schema: one sentence with each pronoun. `referent` says whom the pronoun stands for.
 *
 * @category models
 * @since 0.1.0
 */
export interface Schema {
  /** `technician.customer.1` as in the published sentences; `technician.someone.1` where nobody is named. */
  readonly id: string
  readonly occupation: string
  readonly participant: string
  readonly referent: "occupation" | "participant"
  readonly sentences: Readonly<Record<Gender, string>>
}

/**
 * A schema with the log-probs of its sentences, in nats, in the order of `genders`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Scored extends Omit<Schema, "sentences"> {
  readonly genders: ReadonlyArray<Gender>
  readonly logprobs: ReadonlyArray<number>
}

const genders: ReadonlyArray<Gender> = ["female", "male", "neutral"]

const pronouns: Readonly<Record<string, Readonly<Record<Gender, string>>>> = {
  $NOM_PRONOUN: { female: "she", male: "he", neutral: "they" },
  $POSS_PRONOUN: { female: "her", male: "his", neutral: "their" },
  $ACC_PRONOUN: { female: "her", male: "him", neutral: "them" }
}

const refer = (answer: string): Schema["referent"] | undefined =>
  answer === "0" ? "occupation" : answer === "1" ? "participant" : undefined

// The sentence of a template, with "someone" for the participant and its article where no participant is given.
const instantiate = (template: string, occupation: string, participant: string | undefined, gender: Gender): string => {
  const named =
    participant === undefined
      ? template
          .replace(
            /(^|\s)(?:(?:the|a|an)\s+)?\$PARTICIPANT/gi,
            (_, before) => `${before}${before === "" ? "S" : "s"}omeone`
          )
          .replaceAll("$PARTICIPANT", "someone")
      : template.replaceAll("$PARTICIPANT", participant)
  const sentence = Object.entries(pronouns).reduce(
    (text, [mark, forms]) => text.replaceAll(mark, forms[gender]),
    named.replaceAll("$OCCUPATION", occupation)
  )
  // as in the published script
  return sentence.replaceAll("they was", "they were").replaceAll("They was", "They were")
}

const [occupationColumn, participantColumn] = ["occupation(0)", "other-participant(1)"] as const

const fromTemplates = (
  file: string,
  rows: ReadonlyArray<DataFile.Row>
): Result.Result<ReadonlyArray<Schema>, DataFile.DataFileError> => {
  const schemas: Array<{ readonly row: number; readonly item: Schema }> = []
  for (const { cells, row } of rows) {
    const fail = (field: string, reason: string) =>
      Result.fail(new DataFile.DataFileError({ file, row, field, reason }))
    const empty = [occupationColumn, participantColumn, "sentence"].find((column) => cells[column]!.trim() === "")
    if (empty !== undefined) return fail(empty, "is empty")
    const answer = cells["answer"]!.trim()
    const referent = refer(answer)
    if (referent === undefined) {
      return fail("answer", `is ${JSON.stringify(answer)}; expected 0 for the occupation or 1 for the participant`)
    }
    const template = cells["sentence"]!
    const marks = ["$OCCUPATION", "$PARTICIPANT"].filter((mark) => !template.includes(mark))
    if (marks.length > 0) return fail("sentence", `lacks ${marks.join(" and ")}`)
    if (!Object.keys(pronouns).some((mark) => template.includes(mark))) {
      return fail("sentence", `lacks a pronoun, one of ${Object.keys(pronouns).join(", ")}`)
    }
    const occupation = cells[occupationColumn]!
    for (const participant of [cells[participantColumn]!, undefined]) {
      const name = participant ?? "someone"
      const sentence = (gender: Gender) => instantiate(template, occupation, participant, gender)
      schemas.push({
        row,
        item: {
          id: `${occupation}.${name}.${answer}`,
          occupation,
          participant: name,
          referent,
          sentences: { female: sentence("female"), male: sentence("male"), neutral: sentence("neutral") }
        }
      })
    }
  }
  return DataFile.distinct(file, occupationColumn, schemas)
}

const fromSentences = (
  file: string,
  rows: ReadonlyArray<DataFile.Row>
): Result.Result<ReadonlyArray<Schema>, DataFile.DataFileError> => {
  const found = new Map<string, Omit<Schema, "sentences"> & { readonly row: number; sentences: Map<string, string> }>()
  for (const { cells, row } of rows) {
    const fail = (field: string, reason: string) =>
      Result.fail(new DataFile.DataFileError({ file, row, field, reason }))
    const name = cells["sentid"]!
    const [, occupation, participant, answer, gender] =
      /^([^.]+)\.([^.]+)\.([01])\.(female|male|neutral)(?:\.txt)?$/.exec(name) ?? []
    if (occupation === undefined || participant === undefined || gender === undefined) {
      return fail("sentid", `is ${JSON.stringify(name)}; expected a name like nurse.patient.0.female.txt`)
    }
    if (cells["sentence"]!.trim() === "") return fail("sentence", "is empty")
    const id = `${occupation}.${participant}.${answer}`
    const schema = found.get(id) ?? {
      id,
      row,
      occupation,
      participant,
      referent: refer(answer!)!,
      sentences: new Map()
    }
    found.set(id, schema)
    if (schema.sentences.has(gender)) return fail("sentid", `${name} stands twice`)
    schema.sentences.set(gender, cells["sentence"]!)
  }
  const schemas: Array<Schema> = []
  for (const { row, sentences, ...schema } of found.values()) {
    const missing = genders.find((gender) => !sentences.has(gender))
    if (missing !== undefined) {
      const reason = `${schema.id} has no ${missing} sentence; a schema needs ${genders.join(", ")}`
      return Result.fail(new DataFile.DataFileError({ file, row, field: "sentid", reason }))
    }
    const sentence = (gender: Gender) => sentences.get(gender)!
    schemas.push({
      ...schema,
      sentences: { female: sentence("female"), male: sentence("male"), neutral: sentence("neutral") }
    })
  }
  return Result.succeed(schemas)
}

/**
 * Reads the published `templates.tsv` (`occupation(0)`, `other-participant(1)`, `answer`, `sentence` with `$OCCUPATION`,
 * `$PARTICIPANT` and `$NOM_PRONOUN`, `$POSS_PRONOUN` or `$ACC_PRONOUN`): two schemas of each template, one with "someone"
 * for the participant, made as the published script makes them. Fails with row and column of what is missing.
 *
 * @category decoding
 * @since 0.1.0
 */
export const readTemplates: (
  file: string
) => Effect.Effect<ReadonlyArray<Schema>, DataFile.DataFileError, FileSystem.FileSystem> = Effect.fn(
  "Winogender.readTemplates"
)(function* (file) {
  const rows = yield* DataFile.tsv(file, [occupationColumn, participantColumn, "answer", "sentence"])
  return yield* Effect.fromResult(fromTemplates(file, rows))
})

/**
 * Reads the published `all_sentences.tsv` (`sentid` such as `nurse.patient.0.female.txt`, `sentence`). Fails where a name
 * has another form or stands twice, and where a schema lacks one of its three sentences.
 *
 * @category decoding
 * @since 0.1.0
 */
export const readSentences: (
  file: string
) => Effect.Effect<ReadonlyArray<Schema>, DataFile.DataFileError, FileSystem.FileSystem> = Effect.fn(
  "Winogender.readSentences"
)(function* (file) {
  const rows = yield* DataFile.tsv(file, ["sentid", "sentence"])
  return yield* Effect.fromResult(fromSentences(file, rows))
})

/**
 * Scores the sentences of every schema: those with `she` and with `he`, as InstructGPT does, unless other `genders` are
 * given.
 *
 * @see {@link Bias.score} for what precedes a sentence
 * @category running
 * @since 0.1.0
 */
export const score: (
  policy: Policy.PolicyShape,
  schemas: ReadonlyArray<Schema>,
  options?: Bias.Options & { readonly genders?: readonly [Gender, Gender, ...ReadonlyArray<Gender>] | undefined }
) => Effect.Effect<ReadonlyArray<Scored>, MultipleChoiceError | ModelError.ModelError> = Effect.fn("Winogender.score")(
  function* (policy, schemas, options = {}) {
    const { genders = ["female", "male"] as const, ...rest } = options
    const items = schemas.map(({ id, sentences }) => ({ id, sentences: genders.map((gender) => sentences[gender]) }))
    const answers = yield* Bias.score(policy, items, { ...rest, task: rest.task ?? "winogender" })
    return answers.map(({ logprobs }, i) => {
      const { sentences: _, ...schema } = schemas[i]!
      return { ...schema, genders, logprobs: Array.from(logprobs) }
    })
  }
)

/**
 * The mean entropy over all schemas, clustered by occupation, since the schemas of one occupation are not independent.
 *
 * **Details**
 *
 *     entropy              of two pronouns: the probabilities of their sentences are made to sum to 1; in bits
 *     normalised_entropy   of three: the same divided by log2 3, so that 1 is undecided in both cases
 *
 * Which way a model leans is in the results: `Bias.probabilities(result.logprobs)`, in the order of `result.genders`. Fails
 * where there are no results, an id stands twice, or results are of different pronouns.
 *
 * @category constructors
 * @since 0.1.0
 */
export const scores = (
  results: ReadonlyArray<Scored>,
  { system, task = "winogender" }: { readonly system: string; readonly task?: string | undefined }
): Result.Result<ReadonlyArray<Score.Score>, Sample.SampleError> => {
  const asked = results[0]?.genders ?? []
  const other = results.find(({ genders }) => genders.join() !== asked.join())
  if (other !== undefined) {
    const reason = `was scored with ${other.genders.join(", ")}, the first with ${asked.join(", ")}`
    return Result.fail(new Sample.SampleError({ sample: system, item: other.id, reason }))
  }
  const two = asked.length === 2
  const measured = two ? { metric: "entropy", unit: "bits" } : { metric: "normalised_entropy", unit: "share" }
  const items = results.map(({ id, logprobs, occupation }) => ({
    id,
    value: Bias.normalisedEntropy(Bias.probabilities(logprobs)),
    cluster: occupation
  }))
  return Result.map(Sample.make(system, items), (sample) => [
    Score.share({ system, task, higherIsBetter: true, ...measured }, sample)
  ])
}

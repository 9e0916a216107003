/**
 * Which of the refinements to imitate: a selector scores them, larger is better, and scores become a choice or weights.
 *
 * @since 0.1.0
 */
import {
  type Critique,
  NextToken,
  Progress,
  Prompt,
  RewardModel,
  Run,
  type Tokenizer,
  UserFunction
} from "@attune/core"
import { Context, Effect, Inspectable, Layer, Result, Schema, type Scope } from "effect"

/**
 * Reports a selector that failed, or that returned what is no score. `question` and `refinement`: places from 0, where it
 * is about one.
 *
 * Whoever wrote or chose the selector can fix it; `reason` says what happened and what to do.
 *
 * @category errors
 * @since 0.1.0
 */
export class SelectorError extends Schema.TaggedError<SelectorError>()("SelectorError", {
  selector: Schema.String,
  reason: Schema.String,
  question: Schema.optionalKey(Schema.Int),
  refinement: Schema.optionalKey(Schema.Int),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message(): string {
    const places = [
      ...(this.question === undefined ? [] : [`question ${this.question}`]),
      ...(this.refinement === undefined ? [] : [`refinement ${this.refinement}`])
    ]
    return [`selector ${this.selector}`, ...(places.length === 0 ? [] : [places.join(", ")]), this.reason].join(": ")
  }
}

/**
 * A critique and the refinements among which to choose; at least one, and texts may be equal.
 *
 * @category models
 * @since 0.1.0
 */
export interface Question {
  readonly critique: Critique.Critique
  readonly refinements: ReadonlyArray<string>
}

/**
 * Scores refinements: for each question one number per refinement, all finite, larger is better. Scores are compared
 * within a question only.
 *
 * @category models
 * @since 0.1.0
 */
export interface SelectorShape {
  /** For messages and reports. */
  readonly name: string
  readonly score: (questions: ReadonlyArray<Question>) => Effect.Effect<ReadonlyArray<Float64Array>, SelectorError>
}

/**
 * Service for whoever chooses among refinements.
 *
 * @category services
 * @since 0.1.0
 */
export class Selector extends Context.Service<Selector, SelectorShape>()("@attune/ilf/Selector") {}

/**
 * The place of the highest score, from 0; of equal ones the first. -1 without scores.
 *
 * **Gotchas**
 *
 * The paper's code sorts ascending and reads from the end, which takes the last of equal scores.
 *
 * @category math
 * @since 0.1.0
 */
export const choose = (scores: ArrayLike<number>): number => {
  let best = -1
  for (let i = 0; i < scores.length; i++) if (best < 0 || scores[i]! > scores[best]!) best = i
  return best
}

/**
 * How scores `R` `[N]` become weights.
 *
 * **Details**
 *
 * `beta`: how much a score counts, from 0, which makes all alike, to `Infinity`, the default and the paper's choice, which
 * takes the highest only. `logq` `[N]`: log-probs of the refinements, in nats, under the distribution that they were
 * sampled from; without them the paper's simplification, that they are equal. `least`: refinements that score less have
 * weight 0.
 *
 * @category models
 * @since 0.1.0
 */
export interface WeightOptions {
  readonly beta?: number | undefined
  readonly logq?: ArrayLike<number> | undefined
  readonly least?: number | undefined
}

const checkBeta = (beta: number): void => {
  if (!(beta >= 0)) throw new RangeError(`beta must be a number from 0, Infinity included, not ${beta}`)
}

/**
 * Computes the weights `[N]` of `N` refinements of one critique: self-normalised importance weights of the distribution
 * that is proportional to `exp(beta R)`.
 *
 * **Details**
 *
 *     w_i = exp(beta R_i - log q_i) / sum_j exp(beta R_j - log q_j)
 *
 * Weights sum to 1; they are all 0 where no score reaches `least`. With `beta` = `Infinity` the weight is 1 on what
 * {@link choose} chooses, whatever `logq`. Throws `RangeError` for scores or log-probs that are not finite or of another
 * number, and for a `beta` below 0.
 *
 * Source: Scheurer et al. 2023, arXiv:2303.16755, the target distribution `exp(beta R)` and its importance sampling.
 *
 * **Gotchas**
 *
 * Equal highest scores share the weight for every finite `beta`, and do not for `Infinity`. Log-probs of whole texts
 * differ by tens of nats, mostly with the length: with `logq` one rare text may take nearly all the weight.
 *
 * **Example** (Softening the choice)
 *
 * ```ts
 * import { Selection } from "@attune/ilf"
 *
 * Selection.weights([0.2, 0.5, 0.9]) // => Float64Array.of(0, 0, 1)
 * Selection.weights([0.5, 0.5], { beta: 5 }) // => Float64Array.of(0.5, 0.5)
 * ```
 *
 * @category math
 * @since 0.1.0
 */
export const weights = (
  scores: ArrayLike<number>,
  { beta = Number.POSITIVE_INFINITY, least = Number.NEGATIVE_INFINITY, logq }: WeightOptions = {}
): Float64Array => {
  checkBeta(beta)
  if (logq !== undefined && logq.length !== scores.length) {
    throw new RangeError(`${logq.length} log-probs for ${scores.length} scores; give one for each`)
  }
  for (const [name, values] of Object.entries({ score: scores, "log-prob": logq ?? [] })) {
    const bad = Array.from(values).findIndex((value) => !Number.isFinite(value))
    if (bad >= 0) throw new RangeError(`${name} ${bad} is ${values[bad]}; it must be a finite number`)
  }
  const result = new Float64Array(scores.length)
  const best = choose(scores)
  if (best < 0 || scores[best]! < least) return result
  if (beta === Number.POSITIVE_INFINITY) {
    result[best] = 1
    return result
  }
  // The score is taken relative to the best before beta multiplies it, so that no product overflows upwards.
  const logits = Float64Array.from(scores, (score, i) =>
    score < least ? Number.NEGATIVE_INFINITY : times(beta, score - scores[best]!) - (logq?.[i] ?? 0)
  )
  const highest = logits[choose(logits)]!
  let sum = 0
  for (const [i, logit] of logits.entries()) {
    result[i] = Math.exp(logit - highest)
    sum += result[i]!
  }
  for (let i = 0; i < result.length; i++) result[i] = result[i]! / sum
  return result
}

// A difference of scores may be too large for a number; weighted by 0 it still counts nothing.
const times = (beta: number, difference: number): number => (beta === 0 ? 0 : beta * difference)

const failure = (selector: string, reason: string, place: Place = {}, cause?: unknown): SelectorError =>
  new SelectorError({ selector, reason, ...place, ...(cause === undefined ? {} : { cause }) })

interface Place {
  readonly question?: number
  readonly refinement?: number
}

const shown = (value: unknown): string => {
  if (value instanceof Error) return value.message === "" ? value.name : value.message
  if (typeof value === "string") return JSON.stringify(value)
  const text = typeof value === "object" && value !== null ? Inspectable.toStringUnknown(value, 0) : String(value)
  return text.length > 200 ? `${text.slice(0, 200)}...` : text
}

const isArrayLike = (value: unknown): value is ArrayLike<unknown> =>
  typeof value === "object" && value !== null && "length" in value && typeof value.length === "number"

/**
 * The scores that a selector returned: for each question one finite number per refinement, or an error that names the first
 * that is none.
 *
 * @category constructors
 * @since 0.1.0
 */
export const checked = (
  selector: string,
  questions: ReadonlyArray<Question>,
  scores: unknown
): Result.Result<ReadonlyArray<Float64Array>, SelectorError> => {
  const fail = (reason: string, place?: Place) => Result.fail(failure(selector, reason, place))
  if (!isArrayLike(scores) || scores.length !== questions.length) {
    const got = isArrayLike(scores) ? `scores for ${scores.length}` : shown(scores)
    return fail(`returned ${got} of ${questions.length} questions; return an array of scores for each, in their order`)
  }
  const result: Array<Float64Array> = []
  for (const [question, { refinements }] of questions.entries()) {
    const row = scores[question]
    const count = refinements.length
    if (!isArrayLike(row) || row.length !== count) {
      const got = isArrayLike(row) ? `${row.length} scores` : shown(row)
      return fail(`returned ${got} for ${count} refinements; return one score for each, in their order`, { question })
    }
    const bad = Array.from(row).findIndex((score) => typeof score !== "number" || !Number.isFinite(score))
    if (bad >= 0) {
      const reason = `is scored ${shown(row[bad])}; a score must be a finite number, larger for what is better`
      return fail(reason, { question, refinement: bad })
    }
    result.push(Float64Array.from(row as ArrayLike<number>))
  }
  return Result.succeed(result)
}

/**
 * The scores of all refinements of all questions, one after the other, as those of each question.
 *
 * @category transforming
 * @since 0.1.0
 */
export const grouped = (questions: ReadonlyArray<Question>, scores: ArrayLike<number>): ReadonlyArray<Float64Array> => {
  const all = Float64Array.from(scores)
  let end = 0
  return questions.map(({ refinements }) => {
    end += refinements.length
    return all.slice(end - refinements.length, end)
  })
}

/**
 * The selector, with its scores checked, what it throws turned into a `SelectorError`, and questions without refinements
 * refused. It is not asked about nothing.
 *
 * @category constructors
 * @since 0.1.0
 */
export const guarded = (selector: SelectorShape): SelectorShape => ({
  name: selector.name,
  score: Effect.fn("Selection.score")(function* (questions) {
    const { name } = selector
    const question = questions.findIndex(({ refinements }) => refinements.length === 0)
    if (question >= 0) {
      return yield* failure(name, "has no refinements; sample some, or leave the question out", { question })
    }
    if (questions.length === 0) return []
    const scores = yield* Effect.suspend(() => selector.score(questions)).pipe(
      Effect.catchDefect((cause) =>
        Effect.fail(failure(name, `failed: ${shown(cause)}; correct the selector`, {}, cause))
      )
    )
    return yield* Effect.fromResult(checked(name, questions, scores))
  })
})

/**
 * Makes a selector of a function of all questions at once, which may return its scores, a promise or an effect of them.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  name: string,
  score: (
    questions: ReadonlyArray<Question>,
    signal: AbortSignal
  ) => UserFunction.Returned<ReadonlyArray<ArrayLike<number>>>
): SelectorShape =>
  guarded({
    name,
    score: (questions) =>
      UserFunction.call((signal) => score(questions, signal)).pipe(
        Effect.mapError((cause) => failure(name, `failed: ${shown(cause)}; correct the function`, {}, cause)),
        Effect.flatMap((scores) => Effect.fromResult(checked(name, questions, scores)))
      )
  })

/**
 * Settings of selectors that are functions. `concurrency`: calls under way at a time, 1 unless given; raise it for a function
 * that waits for something else.
 *
 * @category models
 * @since 0.1.0
 */
export interface FunctionOptions {
  readonly concurrency?: number | undefined
}

// What a user's function returns, as a score or, in words, as none.
type Read = (value: unknown) => Result.Result<number, string>

// A call of the user's function for each refinement, with progress.
const perRefinement = (
  name: string,
  call: (critique: Critique.Critique, refinement: string, signal: AbortSignal) => UserFunction.Returned<unknown>,
  read: Read,
  advice: string,
  { concurrency = 1 }: FunctionOptions
): SelectorShape => {
  natural("concurrency", concurrency)
  return guarded({
    name,
    score: Effect.fnUntraced(function* (questions) {
      const asked = questions.flatMap(({ critique, refinements }, question) =>
        refinements.map((text, refinement) => ({ critique, text, place: { question, refinement } }))
      )
      const task = yield* Progress.start({ label: name, total: asked.length })
      let done = 0
      const one = ({ critique, place, text }: (typeof asked)[number]) =>
        UserFunction.call((signal) => call(critique, text, signal)).pipe(
          Effect.mapError((cause) => failure(name, `failed: ${shown(cause)}; ${advice}`, place, cause)),
          Effect.flatMap((value) =>
            Effect.fromResult(Result.mapError(read(value), (reason) => failure(name, reason, place)))
          ),
          Effect.tap(() => task.update(++done))
        )
      const scores = yield* Effect.forEach(asked, one, { concurrency })
      return grouped(questions, scores)
    }, Effect.scoped)
  })
}

const natural = (name: string, value: number): void => {
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`${name} must be a whole number from 1, not ${value}`)
}

/**
 * Makes a selector of a function that scores one refinement: a number, a promise of one or an effect.
 *
 * **Details**
 *
 * What is not a finite number, and whatever the function throws, fails with its question and refinement. The signal is
 * aborted on interruption.
 *
 * **Example** (Preferring short refinements)
 *
 * ```ts
 * import { Selection } from "@attune/ilf"
 *
 * const shortest = Selection.fromFunction("shortest", (_critique, refinement) => -refinement.length)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromFunction = (
  name: string,
  score: (critique: Critique.Critique, refinement: string, signal: AbortSignal) => UserFunction.Returned<number>,
  options: FunctionOptions = {}
): SelectorShape =>
  perRefinement(
    name,
    score,
    (value) =>
      typeof value === "number" && Number.isFinite(value)
        ? Result.succeed(value)
        : Result.fail(`is scored ${shown(value)}; a score must be a finite number, larger for what is better`),
    "correct the function",
    options
  )

/**
 * Makes a selector of tests, such as those of a program: a refinement scores 1 where it passes and 0 where it does not.
 *
 * **Details**
 *
 * The function returns whether the refinement passes, at once, by a promise or by an effect. Of several that pass the first
 * is chosen. Where none passes, `select` with `least: 1` leaves the question out; without it the first is chosen.
 *
 * **Gotchas**
 *
 * A test that throws is a test that cannot be run, which ends the selection: let it return false where it is the refinement
 * that fails.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromTests = (
  name: string,
  run: (critique: Critique.Critique, refinement: string, signal: AbortSignal) => UserFunction.Returned<boolean>,
  options: FunctionOptions = {}
): SelectorShape =>
  perRefinement(
    name,
    run,
    (value) =>
      typeof value === "boolean"
        ? Result.succeed(value ? 1 : 0)
        : Result.fail(`is answered with ${shown(value)}; return true where it passes and false where it does not`),
    "return false where a refinement fails its tests, and see why they could not be run",
    options
  )

/**
 * Makes a selector of a function that picks one refinement of a question and returns its place, from 0: that one scores 1,
 * the others 0.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromChoice = (
  name: string,
  pick: (question: Question, signal: AbortSignal) => UserFunction.Returned<number>,
  { concurrency = 1 }: FunctionOptions = {}
): SelectorShape => {
  natural("concurrency", concurrency)
  const one = (asked: Question, question: number) =>
    UserFunction.call((signal) => pick(asked, signal)).pipe(
      Effect.mapError((cause) => failure(name, `failed: ${shown(cause)}; correct the function`, { question }, cause)),
      Effect.flatMap((picked) => {
        const count = asked.refinements.length
        if (Number.isInteger(picked) && picked >= 0 && picked < count) {
          return Effect.succeed(Float64Array.from({ length: count }, (_, i) => (i === picked ? 1 : 0)))
        }
        const reason = `picked ${shown(picked)} of ${count} refinements; return a place from 0 to ${count - 1}`
        return Effect.fail(failure(name, reason, { question }))
      })
    )
  return guarded({ name, score: (questions) => Effect.forEach(questions, one, { concurrency }) })
}

/**
 * Chooses at random: uniform scores in `[0, 1)`.
 *
 * **Details**
 *
 * The numbers depend on the seed, on what the critique says of which answer, and on the place of the refinement, and on
 * nothing else: a resumed run, or one with other questions beside, chooses the same. Two questions with the same prompt,
 * answer and critique therefore get the same numbers.
 *
 * @category constructors
 * @since 0.1.0
 */
export const random = (seed: number): SelectorShape =>
  guarded({
    name: "random",
    score: (questions) =>
      Effect.sync(() =>
        questions.map(({ critique: { completion, critique, prompt }, refinements }) => {
          const digest = Run.digest([String(seed), JSON.stringify(prompt), completion, critique])
          const uniform = NextToken.uniforms(Number.parseInt(digest.slice(0, 8), 16))
          return Float64Array.from(refinements, uniform)
        })
      )
  })

/**
 * Chooses the longest refinement, by its number of characters (code points): words would tie often, and do not exist in
 * every language; tokens would depend on a tokenizer.
 *
 * The paper's strongest simple baseline, which is why results have to be controlled for length.
 *
 * @category constructors
 * @since 0.1.0
 */
export const longest: SelectorShape = guarded({
  name: "longest",
  score: (questions) =>
    Effect.sync(() => questions.map(({ refinements }) => Float64Array.from(refinements, (text) => [...text].length)))
})

/**
 * Settings of a selector that is a reward model.
 *
 * **Details**
 *
 * `name`: for messages and reports, default the reward model's. `tokenizer`: for prompts and refinements, default the one
 * that the model reads; a model that reads texts gets the text of the prompt as it stands, messages as `role: content`
 * beside the messages themselves, and no tokens, unless one is given.
 *
 * @category models
 * @since 0.1.0
 */
export interface RewardModelOptions {
  readonly name?: string | undefined
  readonly tokenizer?: Tokenizer.Tokenizer | undefined
}

/**
 * Scores each refinement as an answer to the prompt of its critique; the reward model sees neither draft nor critique.
 *
 * **Details**
 *
 * Tokens are those of `Sft.examples`, the end-of-text token after each refinement included: what is scored looks like what
 * will be imitated. All refinements go to the reward model in one call. Throws `RangeError` where the tokenizer given is not
 * the one that the model reads.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromRewardModel = (
  model: RewardModel.RewardModelShape,
  { name = model.name, tokenizer = model.tokenizer }: RewardModelOptions = {}
): SelectorShape => {
  if (tokenizer !== undefined && !RewardModel.reads(model, tokenizer)) {
    throw new RangeError(
      `reward model ${model.name} reads tokens of another tokenizer than the one given; leave it out`
    )
  }
  const answersOf = (
    { critique, refinements }: Question,
    question: number
  ): Result.Result<ReadonlyArray<RewardModel.Answer>, SelectorError> =>
    Result.gen(function* () {
      if (tokenizer === undefined) {
        const messages = typeof critique.prompt === "string" ? undefined : critique.prompt
        const prompt = Prompt.make(Prompt.transcript(critique.prompt), [], messages)
        return refinements.map((text) => ({ prompt, completion: { text, tokens: new Int32Array() } }))
      }
      const bare = critique.prompt === ""
      const prompt = bare
        ? Prompt.make("", [])
        : yield* Result.mapError(tokenizer.prompt(critique.prompt), (cause) =>
            failure(name, cause.message, { question }, cause)
          )
      const end = tokenizer.eosId === undefined ? [] : [tokenizer.eosId]
      return refinements.map((text) => ({
        prompt,
        completion: { text, tokens: Int32Array.from([...tokenizer.encode(text, { addSpecialTokens: bare }), ...end]) }
      }))
    })
  return guarded({
    name,
    score: Effect.fnUntraced(function* (questions) {
      const answers: Array<RewardModel.Answer> = []
      const places: Array<Place> = []
      for (const [question, asked] of questions.entries()) {
        for (const [refinement, answer] of (yield* Effect.fromResult(answersOf(asked, question))).entries()) {
          answers.push(answer)
          places.push({ question, refinement })
        }
      }
      const scores = yield* RewardModel.guarded(model)
        .score(answers)
        .pipe(
          Effect.mapError((cause) =>
            failure(name, cause.reason, cause.answer === undefined ? {} : places[cause.answer], cause)
          )
        )
      return grouped(questions, scores)
    })
  })
}

/**
 * What was chosen for one question: the place of the refinement, all scores `[N]`, and the weights `[N]` to train with.
 *
 * @category models
 * @since 0.1.0
 */
export interface Selected {
  readonly index: number
  readonly scores: Float64Array
  readonly weights: Float64Array
}

/**
 * What became of the questions.
 *
 * **Details**
 *
 * `questions = chosen + dropped`; dropped are those of which no refinement reached `least`. `identical`: chosen ones whose
 * refinements are all the same text, so that there was nothing to choose. `tied`: other chosen ones whose highest score
 * refinements of different texts share, so that their order decided. A question with one refinement is neither.
 *
 * @category models
 * @since 0.1.0
 */
export interface Summary {
  readonly questions: number
  readonly chosen: number
  readonly dropped: number
  readonly identical: number
  readonly tied: number
}

/**
 * How to choose. `beta` and `least` as in {@link WeightOptions}; `logq`: for each question the log-probs of its refinements.
 *
 * @category models
 * @since 0.1.0
 */
export interface SelectOptions extends Pick<WeightOptions, "beta" | "least"> {
  readonly logq?: ReadonlyArray<ArrayLike<number>> | undefined
}

/**
 * Lets the selector score the refinements of each question, and chooses among those that score at least `least`: for each
 * question what was chosen, or nothing, and a summary.
 *
 * **Details**
 *
 * `index` is that of the highest score whatever `beta`; the weights are those of {@link weights}. Of equal scores the first
 * is chosen, as where all refinements are equal. Fails with `SelectorError`; throws `RangeError` for a `beta` below 0, a
 * `least` that is no number, and log-probs of another number than the refinements.
 *
 * @category running
 * @since 0.1.0
 */
export const select: (
  selector: SelectorShape,
  questions: ReadonlyArray<Question>,
  options?: SelectOptions
) => Effect.Effect<
  { readonly selected: ReadonlyArray<Selected | undefined>; readonly summary: Summary },
  SelectorError
> = Effect.fn("Selection.select")(function* (selector, questions, { beta, least, logq } = {}) {
  if (beta !== undefined) checkBeta(beta)
  if (least !== undefined && Number.isNaN(least)) throw new RangeError("least must be a number, not NaN")
  if (logq !== undefined && logq.length !== questions.length) {
    throw new RangeError(`log-probs for ${logq.length} of ${questions.length} questions; give those of each`)
  }
  const scored = yield* guarded(selector).score(questions)
  const selected = scored.map((scores, i): Selected | undefined => {
    const index = choose(scores)
    if (least !== undefined && scores[index]! < least) return undefined
    return { index, scores, weights: weights(scores, { beta, least, logq: logq?.[i] }) }
  })
  let identical = 0
  let tied = 0
  for (const [i, { refinements }] of questions.entries()) {
    const own = selected[i]
    if (own === undefined || refinements.length === 1) continue
    const best = refinements.filter((_, r) => own.scores[r] === own.scores[own.index])
    if (new Set(refinements).size === 1) identical++
    else if (new Set(best).size > 1) tied++
  }
  const chosen = selected.filter((own) => own !== undefined).length
  const summary = { questions: questions.length, chosen, dropped: questions.length - chosen, identical, tied }
  return { selected, summary }
})

/**
 * Layer with a selector, guarded.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (selector: SelectorShape): Layer.Layer<Selector> => Layer.succeed(Selector, guarded(selector))

/**
 * Layer with a selector that has to be made first: of a model that has to be loaded, for instance.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerEffect = <E, R>(
  selector: Effect.Effect<SelectorShape, E, R>
): Layer.Layer<Selector, E, Exclude<R, Scope.Scope>> => Layer.effect(Selector, Effect.map(selector, guarded))

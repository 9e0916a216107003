/**
 * Longest common subsequences of token lists, bit by bit.
 *
 * For each token of the second list, a row of bits says where the length of the longest common subsequence with the
 * first list grows: bit `i` is 0 where `L[i + 1] = L[i] + 1`. A row follows from the one before it by one addition per
 * word of 30 bits, and only words with a matching token change, save for carries.
 *
 * Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited.
 *
 * @since 0.1.0
 */

const bits = 30 // sums of two words then fit in 31 bits, which are small integers
const full = 2 ** bits - 1

interface Rows {
  readonly words: number
  /** Makes the row of the next token of the second list out of the one before, in place. */
  readonly step: (row: Int32Array, token: string) => void
}

// Words of a row in which a token of the first list stands, ascending, and its places in them.
interface Places {
  readonly words: Array<number>
  readonly masks: Array<number>
}

const rows = (first: ReadonlyArray<string>): Rows => {
  const words = Math.ceil(first.length / bits)
  const placesOf = new Map<string, Places>()
  for (const [i, token] of first.entries()) {
    const word = Math.floor(i / bits)
    const mask = 1 << (i % bits)
    const places = placesOf.get(token)
    if (places === undefined) placesOf.set(token, { words: [word], masks: [mask] })
    else if (places.words.at(-1) === word) places.masks.push(places.masks.pop()! | mask)
    else {
      places.words.push(word)
      places.masks.push(mask)
    }
  }
  const step = (row: Int32Array, token: string): void => {
    const places = placesOf.get(token)
    if (places === undefined) return
    let word = 0
    let carry = 0
    for (let at = 0; carry > 0 || at < places.words.length; word++) {
      const next = places.words[at] ?? words
      if (carry === 0) word = next
      // Words of ones pass a carry on and stay as they are.
      while (word < next && row[word] === full) word++
      if (word === words) return
      const mask = word === next ? places.masks[at++]! : 0
      // row' = (row + (row & mask)) | (row & ~mask)
      const old = row[word]!
      const sum = old + (old & mask) + carry
      row[word] = (sum & full) | (old & ~mask)
      carry = sum >>> bits
    }
  }
  return { words, step }
}

/**
 * Length of the longest common subsequence.
 *
 * **Details**
 *
 * For lists of `n` and `m` tokens: time `O(nm / 30)` and less where few tokens match, memory `O(n + m)`.
 *
 * @category math
 * @since 0.1.0
 */
export const length = (first: ReadonlyArray<string>, second: ReadonlyArray<string>): number => {
  const { step, words } = rows(first)
  const row = new Int32Array(words).fill(full)
  for (const token of second) step(row, token)
  let zeros = 0
  for (let i = 0; i < first.length; i++) zeros += 1 - ((row[Math.floor(i / bits)]! >>> (i % bits)) & 1)
  return zeros
}

/**
 * Makes a function of a second list that gives the places in the first, ascending, of one longest common subsequence.
 * Of several it is the one that is met walking back from both ends and, where tokens differ, giving up a token of the
 * first list unless that would make it shorter.
 *
 * **Details**
 *
 * Time as {@link length}, twice. Rows are kept at every `√m`-th token and made again in between: memory `O(n √m / 30)`.
 *
 * @category math
 * @since 0.1.0
 */
export const indices = (first: ReadonlyArray<string>): ((second: ReadonlyArray<string>) => ReadonlyArray<number>) => {
  const { step, words } = rows(first)
  return (second) => {
    const block = Math.ceil(Math.sqrt(second.length)) + 1
    // Row j stands for the first j tokens of the second list; row 0 is all ones.
    const starts: Array<Int32Array> = []
    const row = new Int32Array(words).fill(full)
    for (const [j, token] of second.entries()) {
      if (j % block === 0) starts.push(row.slice())
      step(row, token)
    }
    const load = (b: number): ReadonlyArray<Int32Array> => {
      const row = starts[b]!
      return second.slice(b * block, (b + 1) * block).map((token) => {
        step(row, token)
        return row.slice()
      })
    }
    const found: Array<number> = []
    let loaded: ReadonlyArray<Int32Array> = []
    let b = -1
    for (let i = first.length, j = second.length; i > 0 && j > 0; ) {
      if (first[i - 1] === second[j - 1]) {
        found.push(i - 1)
        i--
        j--
        continue
      }
      if (b !== Math.floor((j - 1) / block)) {
        b = Math.floor((j - 1) / block)
        loaded = load(b)
      }
      const grows = ((loaded[j - 1 - b * block]![Math.floor((i - 1) / bits)]! >>> ((i - 1) % bits)) & 1) === 0
      if (grows) j--
      else i--
    }
    return found.reverse()
  }
}

// The part of jstat that is used; the library brings no types.
declare module "jstat" {
  interface Distributions {
    readonly normal: {
      readonly inv: (p: number, mean: number, sd: number) => number
      readonly cdf: (x: number, mean: number, sd: number) => number
    }
    readonly studentt: { readonly inv: (p: number, degreesOfFreedom: number) => number }
  }
  const jstat: Distributions
  export = jstat
}

// The node-* packages declare `os` and `cpu` as strings; pnpm honours only lists, and would link a foreign `node`.
export const hooks = {
  readPackage(pkg) {
    if (/^node-(linux|win|darwin)-/.test(pkg.name)) {
      if (typeof pkg.os === "string") pkg.os = [pkg.os]
      if (typeof pkg.cpu === "string") pkg.cpu = [pkg.cpu]
    }
    return pkg
  }
}

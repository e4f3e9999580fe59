// The frames that the Go side's tests read, too. The runner's working directory is web/console.
import { readdirSync, readFileSync } from "node:fs";

const dir = "testdata/frames/";

export function fixture(name: string): string { return readFileSync(`${dir}${name}.json`, "utf8"); }

export function names(prefix: string): string[] {
  const all = readdirSync(dir).filter((f) => f.startsWith(prefix)).map((f) => f.replace(/\.json$/, ""));
  if (all.length === 0) throw new Error(`no fixtures ${prefix}* in ${dir}`);
  return all;
}

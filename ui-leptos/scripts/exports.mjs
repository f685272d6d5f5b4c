// Takes exports that no page calls out of a module: `node exports.mjs FROM TO`.
//
// The framework exports its byte streams whether they are used or not, and what is exported, an optimiser keeps. The bytes of
// the rest stay as they are: writing the module anew with another tool makes it compress worse.
import { readFileSync, writeFileSync } from "node:fs";

const UNUSED = /^(__wbg_)?intounderlying/;
const EXPORTS = 7;

const [from, to] = process.argv.slice(2);
if (!to) throw new Error("usage: node exports.mjs FROM TO");
const bytes = readFileSync(from);
let at = 8;

/** Reads an unsigned LEB128 number. */
function number() {
  let value = 0;
  for (let unit = 1; ; unit *= 128) {
    const byte = bytes[at++];
    value += (byte & 127) * unit;
    if (byte < 128) return value;
  }
}

function encoded(value) {
  const out = [];
  for (; value > 127; value = Math.floor(value / 128)) out.push((value & 127) | 128);
  return Buffer.from([...out, value]);
}

function kept() {
  const entries = [];
  for (let count = number(); count > 0; count -= 1) {
    const start = at;
    const length = number();
    const name = bytes.toString("utf8", at, at + length);
    at += length + 1;
    number();
    if (!UNUSED.test(name)) entries.push(bytes.subarray(start, at));
  }
  const body = Buffer.concat([encoded(entries.length), ...entries]);
  return Buffer.concat([Buffer.from([EXPORTS]), encoded(body.length), body]);
}

const sections = [bytes.subarray(0, 8)];
while (at < bytes.length) {
  const start = at;
  const id = bytes[at++];
  const end = number() + at;
  if (id === EXPORTS) sections.push(kept());
  else sections.push(bytes.subarray(start, end));
  at = end;
}
writeFileSync(to, Buffer.concat(sections));

// Writes the files that a browser loads: `node pack.mjs ASSETS GLUE OUT`.
//
// Each file gets a hash of its content in its name, so that it may be cached for ever; only index.html keeps its name.
// Beside each file lie a Brotli and a gzip twin, made once here instead of at every request; so gzip is Zopfli's, which takes
// seconds and saves a twentieth.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { brotliCompressSync, constants } from "node:zlib";
import zopfli from "@gfx/zopfli";

const gzipped = promisify(zopfli.gzip);

const [assets, glue, out] = process.argv.slice(2);
if (!out) throw new Error("usage: node pack.mjs ASSETS GLUE OUT");
mkdirSync(join(out, "assets"), { recursive: true });

const sizes = [];

async function write(path, bytes) {
  const gzip = await gzipped(bytes, { numiterations: 15 });
  const brotli = brotliCompressSync(bytes, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: 11,
      [constants.BROTLI_PARAM_LGWIN]: 24,
      [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
    },
  });
  writeFileSync(join(out, path), bytes);
  writeFileSync(join(out, `${path}.gz`), gzip);
  writeFileSync(join(out, `${path}.br`), brotli);
  sizes.push({ path, bytes: bytes.length, gzip: gzip.length, brotli: brotli.length });
}

/** Writes under a hashed name and returns the URL. */
async function hashed(name, bytes) {
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 10);
  const dot = name.lastIndexOf(".");
  const path = `assets/${name.slice(0, dot)}-${hash}${name.slice(dot)}`;
  await write(path, bytes);
  return `/${path}`;
}

/** Replaces every placeholder; one that is unknown or left over is a mistake. */
function fill(text, urls) {
  const filled = text.replace(/\{\{([a-z.]+)\}\}/g, (_, name) => {
    if (!urls[name]) throw new Error(`no file for {{${name}}}`);
    return urls[name];
  });
  return Buffer.from(filled);
}

const read = (folder, name) => readFileSync(join(folder, name));
const urls = {};
for (const [folder, name] of [
  [glue, "app.wasm"],
  [glue, "app.js"],
  [assets, "app.css"],
  [assets, "theme.js"],
  [assets, "icon.svg"],
]) {
  urls[name] = await hashed(name, read(folder, name));
}
urls["boot.js"] = await hashed("boot.js", fill(read(assets, "boot.js").toString(), urls));
await write("index.html", fill(read(assets, "index.html").toString(), urls));

for (const { path, bytes, gzip, brotli } of sizes) {
  console.error(`ui: ${path}: ${bytes} B, gzip ${gzip}, brotli ${brotli}`);
}

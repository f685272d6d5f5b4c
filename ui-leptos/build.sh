#!/usr/bin/env bash
# Builds the web UI into DIST: `ui-leptos/build.sh [DIST]`. Run again, it does only what changed sources ask for.
#
# Needs a Rust toolchain that can build for wasm32-unknown-unknown (rustup's target, or Debian's packages rustc-web,
# cargo-web, rust-web-src and lld), Node >= 20 with npm, and a Rust toolchain for this machine.
# Environment: CARGO_TARGET_DIR_WASM and CARGO_TARGET_DIR_NATIVE place the two build caches.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/infertrace"
dist="${1:-$cache/ui/dist}"
wasm_target="${CARGO_TARGET_DIR_WASM:-$cache/wasm}"
native_target="${CARGO_TARGET_DIR_NATIVE:-$cache/target}"
work="$cache/ui/work"

say() { printf 'ui: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is missing: $2"; }

need node "install Node 20 or newer"
need npm "install npm"
need cargo "install Rust from https://rustup.rs"
[ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 20')" = true ] || die "Node 20 or newer is needed, found $(node --version)"

mkdir -p "$work" "$(dirname "$dist")"
exec 9>"$work/lock"
flock 9

# The optimiser, and what the browser tests need; both pinned by the lock file.
lock="$(sha256sum "$here/package-lock.json" | cut -d' ' -f1)"
if [ "$(cat "$here/node_modules/.lock-sum" 2>/dev/null || true)" != "$lock" ]; then
  say "installing the npm tools"
  (cd "$here" && npm ci --no-fund --no-audit --loglevel=error)
  printf '%s' "$lock" >"$here/node_modules/.lock-sum"
fi

# Everything that decides the result.
sources="$(
  cd "$root"
  find ui-leptos/src ui-leptos/model/src ui-leptos/assets ui-leptos/scripts xtask/bindgen -type f -print0 |
    sort -z | xargs -0 sha256sum
  sha256sum ui-leptos/Cargo.toml ui-leptos/model/Cargo.toml ui-leptos/build.sh ui-leptos/package-lock.json Cargo.lock
  sed -n '/^\[profile/,$p' Cargo.toml | sha256sum
)"
stamp="$(printf '%s' "$sources" | sha256sum | cut -d' ' -f1)"
if [ -f "$dist/index.html" ] && [ "$(cat "$dist.stamp" 2>/dev/null || true)" = "$stamp" ]; then
  say "up to date: $dist"
  exit 0
fi

# 1. WebAssembly. erase_components makes views one type, so their machinery is compiled once. A compiler that builds its own
# standard library can also leave out what a browser never shows: panic texts, source locations, Debug output.
cd "$root"
wasm=(build --locked --profile wasm --target wasm32-unknown-unknown -p infertrace-ui)
small="--cfg erase_components"
smaller="$small -Zunstable-options -Cpanic=immediate-abort -Zlocation-detail=none -Zfmt-debug=none"
export CARGO_TARGET_DIR="$wasm_target"
if [ -x /usr/bin/cargo ] && [ -d /usr/lib/rustlib/src/rust/library ]; then
  say "compiling with $(/usr/bin/rustc --version), standard library from source"
  PATH="/usr/bin:$PATH" RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc RUSTFLAGS="$smaller" /usr/bin/cargo "${wasm[@]}" \
    -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size
elif rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null | xargs -I{} test -d {}; then
  say "compiling with $(rustc --version)"
  RUSTFLAGS="$small" cargo "${wasm[@]}"
else
  die "no toolchain builds for wasm32-unknown-unknown. Either: rustup target add wasm32-unknown-unknown
ui: or on Debian: apt-get install rustc-web cargo-web rust-web-src rust-web-llvm lld"
fi
unset CARGO_TARGET_DIR
raw="$wasm_target/wasm32-unknown-unknown/wasm/infertrace_ui.wasm"

# 2. JavaScript glue and a smaller module, unless the compiler wrote the same bytes as last time.
made="$(sha256sum "$raw" xtask/bindgen/src/main.rs ui-leptos/scripts/exports.mjs ui-leptos/package-lock.json | sha256sum | cut -d' ' -f1)"
if [ "$(cat "$work/made" 2>/dev/null || true)" != "$made" ]; then
  # The tool is kept by version, so that cargo need not be asked (and waited for) again.
  version="$(sed -n '/^name = "wasm-bindgen-cli-support"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)"
  bindgen="$work/bindgen-$version-$(cat xtask/bindgen/src/main.rs xtask/bindgen/Cargo.toml | sha256sum | cut -c1-10)"
  if [ ! -x "$bindgen" ]; then
    CARGO_TARGET_DIR="$native_target" cargo build --locked --release -p xtask-bindgen
    install -m 755 "$native_target/release/xtask-bindgen" "$bindgen"
  fi
  rm -rf "$work/glue" "$work/made"
  "$bindgen" "$raw" "$work/glue" app
  node ui-leptos/scripts/exports.mjs "$work/glue/app_bg.wasm" "$work/glue/app_lean.wasm"
  # Only features that every current browser has; --all-features makes a module that none of them loads.
  say "optimising"
  ui-leptos/node_modules/.bin/wasm-opt -Oz --converge \
    --enable-bulk-memory --enable-bulk-memory-opt --enable-reference-types --enable-multivalue --enable-sign-ext \
    --enable-mutable-globals --enable-nontrapping-float-to-int \
    "$work/glue/app_lean.wasm" -o "$work/glue/app.wasm"
  printf '%s' "$made" >"$work/made"
fi

# 3. Names with a hash of the content, compressed twins, and the page that names them.
rm -rf "$dist.new" "$dist.stamp"
node ui-leptos/scripts/pack.mjs ui-leptos/assets "$work/glue" "$dist.new"
rm -rf "$dist"
mv "$dist.new" "$dist"
printf '%s' "$stamp" >"$dist.stamp"
say "built $dist"

//! InferTrace's web UI: Leptos, rendered in the browser, compiled to WebAssembly.
//!
//! Everything that can be decided without a browser is in `infertrace-ui-model`; here are the components that render it
//! and the thin layer that talks to the browser ([`browser`], [`net`], [`router`]).
//!
//! Invariants: the address bar holds what makes two people see the same thing; text from spans reaches the page only as
//! text nodes or attributes, never as markup; every listener and timer ends with the component that started it.

// The component macro makes public property structs in private modules.
#![allow(unreachable_pub)]

mod app;
mod browser;
mod erase;
mod help;
mod insights;
mod net;
mod parts;
mod router;
mod theme;
mod trace;
mod traces;

use wasm_bindgen::prelude::wasm_bindgen;

/// Runs when the module is loaded: replaces the loading shell by the app.
#[wasm_bindgen(start)]
pub fn start() {
    // A build for release has neither texts nor a hook: a panic ends the module at once.
    #[cfg(debug_assertions)]
    console_error_panic_hook::set_once();
    let Some(root) = browser::element_by_id("app") else {
        return;
    };
    root.set_inner_html("");
    leptos::mount::mount_to(root, app::App).forget();
}

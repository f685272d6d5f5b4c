//! Dark and light. The system decides until a person does; choosing what the system has gives the choice back to it.
//!
//! `theme.js` sets the attribute before the first paint; this keeps it up to date.

use leptos::prelude::*;

use crate::browser;

const KEY: &str = "infertrace.theme";

fn system_is_dark() -> bool {
    window().match_media("(prefers-color-scheme: dark)").ok().flatten().is_some_and(|query| query.matches())
}

/// Whether the page is dark now.
pub(crate) fn is_dark() -> bool {
    match browser::stored(KEY).as_deref() {
        Some("dark") => true,
        Some("light") => false,
        _ => system_is_dark(),
    }
}

/// Goes to the other theme and returns whether it is dark.
pub(crate) fn toggle() -> bool {
    let dark = !is_dark();
    let name = if dark { "dark" } else { "light" };
    let chosen = (dark != system_is_dark()).then_some(name);
    browser::store(KEY, chosen);
    if let Some(root) = document().document_element() {
        let _ = match chosen {
            Some(name) => root.set_attribute("data-theme", name),
            None => root.remove_attribute("data-theme"),
        };
    }
    dark
}

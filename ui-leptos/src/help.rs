//! Keyboard help, in a native dialog: the browser keeps the focus inside and closes it on Escape.

use leptos::html;
use leptos::prelude::*;

use crate::erase::{mouse, plain};
use crate::parts::icon;

const GROUPS: [(&str, &[(&str, &str)]); 3] = [
    (
        "Everywhere",
        &[("/", "Go to the search field"), ("?", "Show this help"), ("Esc", "Close, or leave a field")],
    ),
    (
        "Traces, insights",
        &[("j k", "Next, previous in the list"), ("Enter", "Open it"), ("l", "Live traces on or off")],
    ),
    (
        "Trace",
        &[
            ("j k ↓ ↑", "Next, previous span"),
            ("← →", "Collapse, expand"),
            ("Enter", "Go to the span's details"),
            ("n N", "Next, previous match of the search"),
            ("+ −", "Zoom to and from the selected span"),
            ("0", "Show the whole trace"),
            ("t", "Waterfall or flame graph"),
        ],
    ),
];

/// The dialog; `open` is set to show it.
#[component]
pub(crate) fn Help(open: RwSignal<bool>) -> AnyView {
    let dialog: NodeRef<html::Dialog> = NodeRef::new();
    Effect::new(move |_| {
        if let (true, Some(dialog)) = (open.get(), dialog.get())
            && !dialog.open()
        {
            let _ = dialog.show_modal();
        }
    });
    let close = move || {
        if let Some(dialog) = dialog.get_untracked() {
            dialog.close();
        }
    };
    let groups = GROUPS
        .into_iter()
        .map(|(title, keys)| {
            let rows = keys
                .iter()
                .map(|(keys, words)| {
                    let keys =
                        keys.split(' ').map(|key| view! { <kbd>{key}</kbd> }.into_any()).collect_view();
                    view! { <div class="shortcut"><dt>{keys}</dt><dd>{*words}</dd></div> }.into_any()
                })
                .collect_view();
            view! { <section><h3>{title}</h3><dl>{rows}</dl></section> }.into_any()
        })
        .collect_view();
    view! {
        <dialog
            node_ref=dialog
            class="help"
            aria-labelledby="help-title"
            on:close=plain(move |_| open.set(false))
            on:click=mouse(move |event| if event.target() == event.current_target() { close() })
        >
            <div class="help-body">
                <header>
                    <h2 id="help-title">"Keyboard"</h2>
                    <button type="button" class="icon-button" aria-label="Close help" on:click=mouse(move |_| close())>
                        {icon("close")}
                    </button>
                </header>
                <div class="help-groups">{groups}</div>
            </div>
        </dialog>
    }
    .into_any()
}

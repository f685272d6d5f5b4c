//! What is open on the trace page, kept in step with the address bar.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use infertrace_ui_model::route::{Route, Tab, TraceView};
use infertrace_ui_model::scale::Viewport;
use infertrace_ui_model::search;
use infertrace_ui_model::trace::{SpanIndex, TraceModel};
use infertrace_ui_model::waterfall;
use leptos::prelude::*;

use crate::browser;
use crate::parts::Colours;
use crate::router::Router;

/// A span under the pointer.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Hover {
    pub(super) span: SpanIndex,
    /// Pixels from the window's left and top.
    pub(super) x: i32,
    pub(super) y: i32,
}

#[derive(Clone, Copy)]
pub(super) struct TraceState {
    model: StoredValue<Arc<TraceModel>>,
    /// Classes of the services' colours, by service index.
    colours: StoredValue<Vec<String>>,
    pub(super) tab: RwSignal<Tab>,
    pub(super) collapsed: RwSignal<HashSet<SpanIndex>>,
    pub(super) rows: Memo<Arc<Vec<SpanIndex>>>,
    pub(super) viewport: RwSignal<Viewport>,
    pub(super) selected: RwSignal<Option<SpanIndex>>,
    pub(super) search: RwSignal<String>,
    pub(super) matches: Memo<Arc<Vec<SpanIndex>>>,
    pub(super) matched: Memo<HashSet<SpanIndex>>,
    pub(super) hover: RwSignal<Option<Hover>>,
    /// A span to bring on screen.
    pub(super) reveal: RwSignal<Option<SpanIndex>>,
}

impl TraceState {
    /// Starts with what the address says, and keeps the two in step from then on.
    pub(super) fn new(model: Arc<TraceModel>) -> Self {
        let colours = Colours::get();
        let classes = model.services.iter().map(|part| colours.class(&part.name)).collect();
        let collapsed = RwSignal::new(HashSet::new());
        let search = RwSignal::new(String::new());
        let stored = StoredValue::new(model.clone());
        let matches = Memo::new(move |_| {
            Arc::new(search.with(|text| stored.with_value(|model| search::matches(model, text))))
        });
        let state =
            Self {
                model: stored,
                colours: StoredValue::new(classes),
                tab: RwSignal::new(Tab::Waterfall),
                collapsed,
                rows: Memo::new(move |_| {
                    Arc::new(collapsed.with(|collapsed| {
                        stored.with_value(|model| waterfall::visible_rows(model, collapsed))
                    }))
                }),
                viewport: RwSignal::new(Viewport::full(model.duration)),
                selected: RwSignal::new(None),
                search,
                matches,
                matched: Memo::new(move |_| matches.with(|matches| matches.iter().copied().collect())),
                hover: RwSignal::new(None),
                reveal: RwSignal::new(None),
            };
        state.follow_address();
        state
    }

    pub(super) fn model(self) -> Arc<TraceModel> {
        self.model.get_value()
    }

    pub(super) fn colour(self, service: u32) -> String {
        self.colours.with_value(|colours| colours.get(service as usize).cloned().unwrap_or_default())
    }

    /// Selects a span and brings it on screen.
    pub(super) fn select(self, index: SpanIndex) {
        self.selected.set(Some(index));
        let hidden = self.collapsed.with_untracked(|collapsed| {
            self.model
                .with_value(|model| model.ancestors(index).any(|ancestor| collapsed.contains(&ancestor)))
        });
        if hidden {
            self.collapsed.update(|collapsed| {
                self.model.with_value(|model| waterfall::reveal(model, collapsed, index));
            });
        }
        self.reveal.set(Some(index));
    }

    /// Closes the details.
    pub(super) fn deselect(self) {
        self.selected.set(None);
        browser::focus("waterfall");
    }

    /// Collapses or expands a span.
    pub(super) fn toggle(self, index: SpanIndex) {
        self.collapsed.update(|collapsed| {
            if !collapsed.remove(&index) {
                collapsed.insert(index);
            }
        });
    }

    /// Selects the next or previous match of the search.
    pub(super) fn step_match(self, forward: bool) {
        let selected = self.selected.get_untracked();
        let next = self.matches.with_untracked(|matches| {
            self.model.with_value(|model| search::step(model, matches, selected, forward))
        });
        if let Some(next) = next {
            self.select(next);
        }
    }

    /// Shows the whole trace.
    pub(super) fn reset_zoom(self) {
        self.viewport.set(Viewport::full(self.duration()));
    }

    pub(super) fn is_zoomed(self) -> bool {
        self.viewport.get() != Viewport::full(self.duration())
    }

    pub(super) fn duration(self) -> i64 {
        self.model.with_value(|model| model.duration)
    }

    fn view(self) -> TraceView {
        let viewport = self.viewport.get();
        let zoomed = viewport != Viewport::full(self.duration());
        TraceView {
            tab: self.tab.get(),
            span: self
                .selected
                .get()
                .map(|index| self.model.with_value(|model| model.span(index).span_id.clone()))
                .unwrap_or_default(),
            search: self.search.get(),
            zoom: zoomed
                .then_some((viewport.start as i64, viewport.end.ceil() as i64))
                .filter(|(from, to)| from < to),
        }
    }

    fn apply(self, view: &TraceView) {
        self.tab.set(view.tab);
        if self.search.with_untracked(|search| *search != view.search) {
            self.search.set(view.search.clone());
        }
        let duration = self.duration();
        self.viewport.set(view.zoom.map_or(Viewport::full(duration), |(from, to)| {
            Viewport::within(duration, from as f64, to as f64)
        }));
        match self.model.with_value(|model| model.find(&view.span)) {
            Some(index) => self.select(index),
            None => self.selected.set(None),
        }
    }

    /// The address leads when it changes by a link or the history; else it follows, a moment later, so that a drag is
    /// one change.
    fn follow_address(self) {
        let router = Router::get();
        let own_id = self.model.with_value(|model| model.detail.trace_id.clone());
        let written = StoredValue::new(None::<TraceView>);
        Effect::new(move |_| {
            router.route().with(|route| {
                if let Route::Trace { view, .. } = route
                    && written.with_value(|written| written.as_ref() != Some(view))
                {
                    untrack(|| self.apply(view));
                }
            });
        });
        let timer = StoredValue::new(None::<TimeoutHandle>);
        let started = StoredValue::new(false);
        Effect::new(move |_| {
            let view = self.view();
            if !started.get_value() {
                return started.set_value(true);
            }
            if let Some(handle) = timer.get_value() {
                handle.clear();
            }
            let own_id = own_id.clone();
            let write = move || {
                let id = router.route().with_untracked(|route| match route {
                    Route::Trace { id, .. } if *id == own_id || own_id.is_empty() => Some(id.clone()),
                    _ => None,
                });
                if let Some(id) = id {
                    let _ = written.try_set_value(Some(view.clone()));
                    router.replace(Route::Trace { id, view: view.clone() });
                }
            };
            timer.set_value(set_timeout_with_handle(write, Duration::from_millis(150)).ok());
        });
        on_cleanup(move || {
            if let Some(handle) = timer.try_get_value().flatten() {
                handle.clear();
            }
        });
    }
}

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
use crate::erase::Spot;
use crate::parts::Colours;
use crate::router::Router;

/// What never changes while a trace is open.
struct Fixed {
    model: Arc<TraceModel>,
    /// Classes of the services' colours, by service index.
    colours: Vec<String>,
}

/// What is known of the address.
#[derive(Default)]
struct Address {
    /// What was written last; the address leads when it says anything else.
    written: Option<TraceView>,
    /// Writes in a moment.
    timer: Option<TimeoutHandle>,
    /// Whether the first state, which came from the address, is past.
    started: bool,
}

#[derive(Clone, Copy)]
pub(super) struct TraceState {
    fixed: StoredValue<Fixed>,
    pub(super) tab: RwSignal<Tab>,
    pub(super) collapsed: RwSignal<HashSet<SpanIndex>>,
    pub(super) rows: Memo<Arc<Vec<SpanIndex>>>,
    pub(super) viewport: RwSignal<Viewport>,
    pub(super) selected: RwSignal<Option<SpanIndex>>,
    pub(super) search: RwSignal<String>,
    pub(super) matches: Memo<Arc<Vec<SpanIndex>>>,
    /// The row under the pointer, pixels from the window's left and top.
    pub(super) hover: RwSignal<Option<Spot>>,
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
        let fixed = StoredValue::new(Fixed { model: model.clone(), colours: classes });
        let matches = Memo::new(move |_| {
            Arc::new(search.with(|text| fixed.with_value(|fixed| search::matches(&fixed.model, text))))
        });
        let state = Self {
            fixed,
            tab: RwSignal::new(Tab::Waterfall),
            collapsed,
            rows: Memo::new(move |_| {
                Arc::new(collapsed.with(|collapsed| {
                    fixed.with_value(|fixed| waterfall::visible_rows(&fixed.model, collapsed))
                }))
            }),
            viewport: RwSignal::new(Viewport::full(model.duration)),
            selected: RwSignal::new(None),
            search,
            matches,
            hover: RwSignal::new(None),
            reveal: RwSignal::new(None),
        };
        state.follow_address();
        state
    }

    pub(super) fn model(self) -> Arc<TraceModel> {
        self.fixed.with_value(|fixed| fixed.model.clone())
    }

    fn with_model<T>(self, read: impl FnOnce(&TraceModel) -> T) -> T {
        self.fixed.with_value(|fixed| read(&fixed.model))
    }

    pub(super) fn is_match(self, index: SpanIndex) -> bool {
        self.matches.with(|matches| matches.contains(&index))
    }

    pub(super) fn colour(self, service: u32) -> String {
        self.fixed.with_value(|fixed| fixed.colours.get(service as usize).cloned().unwrap_or_default())
    }

    /// Selects a span and brings it on screen.
    pub(super) fn select(self, index: SpanIndex) {
        self.selected.set(Some(index));
        let hidden = self.collapsed.with_untracked(|collapsed| {
            self.with_model(|model| model.ancestors(index).any(|ancestor| collapsed.contains(&ancestor)))
        });
        if hidden {
            self.collapsed.update(|collapsed| {
                self.with_model(|model| waterfall::reveal(model, collapsed, index));
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
            self.with_model(|model| search::step(model, matches, selected, forward))
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
        self.with_model(|model| model.duration)
    }

    fn view(self) -> TraceView {
        let viewport = self.viewport.get();
        let zoomed = viewport != Viewport::full(self.duration());
        TraceView {
            tab: self.tab.get(),
            span: self
                .selected
                .get()
                .map(|index| self.with_model(|model| model.span(index).span_id.clone()))
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
        match self.with_model(|model| model.find(&view.span)) {
            Some(index) => self.select(index),
            None => self.selected.set(None),
        }
    }

    /// The address leads when it changes by a link or the history; else it follows, a moment later, so that a drag is
    /// one change.
    fn follow_address(self) {
        let router = Router::get();
        let own_id = self.with_model(|model| model.detail.trace_id.clone());
        let address = StoredValue::new(Address::default());
        Effect::new(move |_| {
            router.route().with(|route| {
                if let Route::Trace { view, .. } = route
                    && address.with_value(|address| address.written.as_ref() != Some(view))
                {
                    untrack(|| self.apply(view));
                }
            });
        });
        Effect::new(move |_| {
            let view = self.view();
            let pending = address.try_update_value(|address| {
                let first = !std::mem::replace(&mut address.started, true);
                (first, address.timer.take())
            });
            let Some((false, pending)) = pending else {
                return;
            };
            if let Some(handle) = pending {
                handle.clear();
            }
            let own_id = own_id.clone();
            let write = move || {
                let id = router.route().with_untracked(|route| match route {
                    Route::Trace { id, .. } if *id == own_id || own_id.is_empty() => Some(id.clone()),
                    _ => None,
                });
                if let Some(id) = id {
                    let _ = address.try_update_value(|address| address.written = Some(view.clone()));
                    router.replace(Route::Trace { id, view: view.clone() });
                }
            };
            let handle = set_timeout_with_handle(write, Duration::from_millis(150)).ok();
            let _ = address.try_update_value(|address| address.timer = handle);
        });
        on_cleanup(move || {
            if let Some(handle) = address.try_update_value(|address| address.timer.take()).flatten() {
                handle.clear();
            }
        });
    }
}

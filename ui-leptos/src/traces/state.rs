//! The list and how it follows the filter and the clock.
//!
//! Lives as long as the app, so that the way back from a trace shows the list at once. Each request has a generation; an
//! answer to a question that nobody asks any more is dropped. While a person points at the table or moves in it, new
//! traces wait, so that no row moves away under a click.

use std::collections::HashSet;
use std::time::Duration;

use infertrace_ui_model::filter::{Filter, Page, StatusFilter};
use infertrace_ui_model::route::Route;
use infertrace_ui_model::summary::{self, TraceList, TraceSummary};
use leptos::prelude::*;
use leptos::task::spawn_local;

use crate::browser;
use crate::net::{self, LoadError, Phase};
use crate::router::Router;

/// Traces a request.
const PAGE: usize = 50;
/// Traces kept while live; "load more" may show more than that.
const MOST_LIVE: usize = 300;
/// What is said when traces come faster than they are asked for.
const FLOODED: &str = "Traces arrive faster than this list can follow; filter to see all of some of them.";
/// Between live requests.
const POLL: Duration = Duration::from_secs(1);

/// What was asked of the server.
#[derive(Default)]
struct Asked {
    /// The filter of what is listed.
    filter: Option<Filter>,
    /// Counts questions for a first page.
    generation: u64,
    /// Whether a live request is under way.
    polling: bool,
}

/// State of the list.
#[derive(Clone, Copy)]
pub(crate) struct ListState {
    pub(super) filter: Memo<Filter>,
    pub(super) traces: RwSignal<Vec<TraceSummary>>,
    pub(super) is_empty: Memo<bool>,
    pub(super) phase: RwSignal<Phase>,
    pub(super) cursor: RwSignal<Option<String>>,
    /// The same of "load more".
    pub(super) more: RwSignal<Phase>,
    /// Greatest duration in the list, nanoseconds.
    pub(super) longest: RwSignal<i64>,
    /// Whether a person wants live updates.
    pub(super) live: RwSignal<bool>,
    /// Whether the last live request failed.
    pub(super) offline: RwSignal<bool>,
    /// Whether a person is at the table.
    pub(super) held: RwSignal<bool>,
    /// Ids that the last update brought.
    pub(super) fresh: RwSignal<Vec<String>>,
    /// What the server left out, in words.
    pub(super) notice: RwSignal<Option<String>>,
    pub(super) services: RwSignal<Vec<String>>,
    pub(super) models: RwSignal<Vec<String>>,
    pending: RwSignal<Vec<TraceSummary>>,
    asked: StoredValue<Asked>,
    router: Router,
}

impl ListState {
    pub(crate) fn new(router: Router) -> Self {
        let filter = Memo::new(move |previous: Option<&Filter>| {
            router.route().with(|route| match route {
                Route::Traces(filter) => filter.clone(),
                // While a trace is open, the list keeps the filter that it was left with.
                _ => previous.cloned().unwrap_or_default(),
            })
        });
        let traces: RwSignal<Vec<TraceSummary>> = RwSignal::new(Vec::new());
        let pending: RwSignal<Vec<TraceSummary>> = RwSignal::new(Vec::new());
        Self {
            filter,
            traces,
            is_empty: Memo::new(move |_| traces.with(Vec::is_empty)),
            phase: RwSignal::new(Phase::Loading),
            cursor: RwSignal::new(None),
            more: RwSignal::new(Phase::Ready),
            longest: RwSignal::new(1),
            live: RwSignal::new(true),
            offline: RwSignal::new(false),
            held: RwSignal::new(false),
            fresh: RwSignal::new(Vec::new()),
            notice: RwSignal::new(None),
            services: RwSignal::new(Vec::new()),
            models: RwSignal::new(Vec::new()),
            pending,
            asked: StoredValue::new(Asked::default()),
            router,
        }
    }

    pub(crate) fn get() -> Self {
        expect_context()
    }

    /// Loads when the filter changes and polls while live, as long as the calling component lives.
    pub(super) fn follow(self) {
        self.held.set(false);
        self.load_names();
        Effect::new(move |_| {
            let filter = self.filter.get();
            let known = self.asked.with_value(|asked| asked.filter.as_ref() == Some(&filter));
            if known && self.phase.get_untracked() == Phase::Ready {
                self.poll();
            } else {
                self.reload();
            }
        });
        Effect::new(move |_| {
            if !self.held.get() {
                self.release();
            }
        });
        let tick = move || {
            let wanted = self.live.get_untracked()
                && self.filter.with_untracked(Filter::can_be_live)
                && self.phase.with_untracked(|phase| *phase == Phase::Ready);
            if wanted && !document().hidden() {
                self.poll();
            }
        };
        if let Ok(handle) = set_interval_with_handle(tick, POLL) {
            on_cleanup(move || handle.clear());
        }
    }

    /// Changes the filter; the address follows, and the list follows the address.
    pub(super) fn change(self, edit: impl FnOnce(&mut Filter)) {
        let mut filter = self.filter.get_untracked();
        edit(&mut filter);
        self.router.go(Route::Traces(filter));
    }

    /// Asks anew for the first page.
    pub(super) fn reload(self) {
        let filter = self.filter.get_untracked();
        let generation = self.next_generation();
        self.asked.update_value(|asked| asked.filter = Some(filter.clone()));
        self.pending.set(Vec::new());
        self.phase.set(Phase::Loading);
        spawn_local(async move {
            let answer = self.request(&filter, Page::First).await;
            if self.generation() != generation {
                return;
            }
            match answer {
                Ok(list) => {
                    self.fresh.set(Vec::new());
                    self.take_rest(&list);
                    self.update_list(|shown| *shown = list.traces);
                    self.offline.set(false);
                    self.phase.set(Phase::Ready);
                }
                Err(error) => self.phase.set(Phase::Failed(error)),
            }
        });
    }

    /// Asks for the next page.
    pub(super) fn load_more(self) {
        let Some(cursor) = self.cursor.get_untracked() else {
            return;
        };
        let filter = self.filter.get_untracked();
        let generation = self.generation();
        self.more.set(Phase::Loading);
        spawn_local(async move {
            let answer = self.request(&filter, Page::After(&cursor)).await;
            self.more.set(Phase::Ready);
            if self.generation() != generation {
                return;
            }
            match answer {
                Ok(list) => {
                    self.take_rest(&list);
                    self.update_list(|known| {
                        summary::merge(known, list.traces, usize::MAX);
                    });
                }
                Err(error) => self.more.set(Phase::Failed(error)),
            }
        });
    }

    /// Shows what waits.
    pub(super) fn release(self) {
        let newer = self.pending.get_untracked();
        if newer.is_empty() {
            return;
        }
        self.pending.set(Vec::new());
        let known: HashSet<String> =
            self.traces.with_untracked(|list| list.iter().map(|trace| trace.trace_id.clone()).collect());
        self.fresh
            .set(newer.iter().map(|trace| trace.trace_id.clone()).filter(|id| !known.contains(id)).collect());
        let changed = self
            .traces
            .with_untracked(|list| newer.iter().any(|trace| !list.iter().any(|known| known == trace)));
        if changed {
            self.update_list(|list| {
                let most = MOST_LIVE.max(list.len());
                summary::merge(list, newer, most);
            });
        }
    }

    fn poll(self) {
        if self.asked.with_value(|asked| asked.polling) {
            return;
        }
        self.asked.update_value(|asked| asked.polling = true);
        let filter = self.filter.get_untracked();
        let generation = self.generation();
        spawn_local(async move {
            let answer = self.request(&filter, Page::Recent).await;
            self.asked.update_value(|asked| asked.polling = false);
            if self.generation() != generation {
                return;
            }
            self.offline.set(answer.is_err());
            let Ok(list) = answer else {
                return;
            };
            let known = |trace: &TraceSummary| {
                self.traces.with_untracked(|shown| shown.iter().any(|known| known.trace_id == trace.trace_id))
            };
            let flooded = list.traces.len() == PAGE && !list.traces.iter().any(known);
            if flooded && !self.is_empty.get_untracked() {
                self.notice.set(Some(FLOODED.to_owned()));
            }
            self.pending.update(|pending| {
                summary::merge(pending, list.traces, MOST_LIVE);
            });
            if !self.held.get_untracked() {
                self.release();
            }
        });
    }

    fn take_rest(self, list: &TraceList) {
        self.cursor.set(list.next_cursor.clone().filter(|cursor| !cursor.is_empty()));
        let told = list.warnings.first().cloned();
        let truncated = list.truncated == Some(true);
        self.notice.set(told.or_else(|| {
            truncated.then(|| {
                "The search reached its limit before it saw everything; narrow it to see the rest.".to_owned()
            })
        }));
    }

    async fn request(self, filter: &Filter, page: Page<'_>) -> Result<TraceList, LoadError> {
        let query = filter.to_api_query(browser::now_ms(), PAGE, page);
        net::get(&format!("/api/v1/traces?{query}"), TraceList::parse).await
    }

    fn load_names(self) {
        for (member, names) in [("services", self.services), ("models", self.models)] {
            spawn_local(async move {
                if let Ok(text) = net::get_text(&format!("/api/v1/{member}")).await {
                    let found = infertrace_ui_model::api::names_from(&text, member);
                    if names.with_untracked(|known| *known != found) {
                        names.set(found);
                    }
                }
            });
        }
    }

    fn next_generation(self) -> u64 {
        self.asked.update_value(|asked| asked.generation += 1);
        self.generation()
    }

    fn generation(self) -> u64 {
        self.asked.with_value(|asked| asked.generation)
    }

    /// New traces that wait while the list is held.
    pub(super) fn waiting(self) -> usize {
        self.pending.with(|pending| {
            self.traces.with(|list| {
                pending
                    .iter()
                    .filter(|trace| !list.iter().any(|known| known.trace_id == trace.trace_id))
                    .count()
            })
        })
    }

    fn update_list(self, edit: impl FnOnce(&mut Vec<TraceSummary>)) {
        let mut list = self.traces.get_untracked();
        edit(&mut list);
        self.longest.set(list.iter().map(|trace| trace.duration_nano.0).max().unwrap_or(1).max(1));
        self.traces.set(list);
    }
}

/// What the status buttons say, and mean.
pub(super) const STATUSES: [(StatusFilter, &str, &str); 3] = [
    (StatusFilter::Any, "All", "Traces with any status"),
    (StatusFilter::Ok, "OK", "Traces with a span whose status was set to OK"),
    (StatusFilter::Error, "Errors", "Traces with a failed span"),
];

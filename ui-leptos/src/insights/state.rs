//! The list of insights, the number of open ones, and the stream that keeps both up to date.
//!
//! The stream is open while the page is visible: browsers allow few connections a server, and hidden pages would use them
//! up. What changed meanwhile is asked for when the page is seen again; the number of open ones also every half minute.

use std::cell::RefCell;
use std::time::Duration;

use infertrace_ui_model::insight::filter::InsightFilter;
use infertrace_ui_model::insight::{self, Insight, InsightList};
use infertrace_ui_model::route::Route;
use leptos::prelude::*;
use leptos::task::spawn_local;
use serde_json::Value;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use web_sys::{EventSource, MessageEvent};

use crate::net::{self, LoadError, Phase};
use crate::parts::Now;
use crate::router::Router;

/// Insights a request.
const PAGE: usize = 50;
/// Insights that are looked at for the names of models and kinds.
const NAMES: usize = 500;
/// Between requests for the number of open ones.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// Times in words are written anew so often.
const CLOCK_MS: i64 = 10_000;

/// State of the insights; lives as long as the app.
#[derive(Clone, Copy)]
pub(crate) struct InsightsState {
    /// The filter, as the address has it.
    query: RwSignal<String>,
    pub(super) list: RwSignal<Vec<Insight>>,
    pub(super) phase: RwSignal<Phase>,
    pub(super) cursor: RwSignal<Option<String>>,
    pub(super) loading_more: RwSignal<bool>,
    pub(super) notice: RwSignal<Option<String>>,
    pub(super) models: RwSignal<Vec<String>>,
    pub(super) kinds: RwSignal<Vec<String>>,
    /// The insight that changed last; empty when any may have.
    pub(super) changed: RwSignal<String>,
    open: RwSignal<i64>,
    /// Of the open ones those that page.
    paging: RwSignal<i64>,
    /// Counts questions for a first page.
    asked: RwSignal<i64>,
}

impl InsightsState {
    pub(crate) fn install() -> Self {
        let state = Self {
            query: RwSignal::new(String::new()),
            list: RwSignal::new(Vec::new()),
            phase: RwSignal::new(Phase::Loading),
            cursor: RwSignal::new(None),
            loading_more: RwSignal::new(false),
            notice: RwSignal::new(None),
            models: RwSignal::new(Vec::new()),
            kinds: RwSignal::new(Vec::new()),
            changed: RwSignal::new(String::new()),
            open: RwSignal::new(0),
            paging: RwSignal::new(0),
            asked: RwSignal::new(0),
        };
        state.count();
        state.listen();
        let tick = move || {
            if !document().hidden() {
                state.count();
            }
        };
        if let Ok(handle) = set_interval_with_handle(tick, COUNT_EVERY) {
            on_cleanup(move || handle.clear());
        }
        state
    }

    pub(crate) fn get() -> Self {
        expect_context()
    }

    /// What a person wants to see.
    pub(super) fn filter(self) -> InsightFilter {
        InsightFilter::from_query(&self.query.get())
    }

    /// Milliseconds since 1970, coarse.
    pub(super) fn clock(self) -> i64 {
        let now: Now = expect_context();
        now.0.get() / CLOCK_MS * CLOCK_MS
    }

    /// The number of open insights for the navigation; nothing while there is none.
    pub(crate) fn badge(self) -> Option<AnyView> {
        let open = self.open.get();
        let class = if self.paging.get() > 0 { "nav-badge sev-page" } else { "nav-badge" };
        (open > 0).then(|| {
            view! { <span class=class>{open.to_string()}<span class="visually-hidden">" open"</span></span> }
                .into_any()
        })
    }

    /// Loads when the address changes, as long as the calling component lives.
    pub(super) fn follow(self) {
        let router = Router::get();
        Effect::new(move |_| {
            router.route().with(|route| {
                if let Route::Insights(filter) = route {
                    self.query.set(filter.to_query());
                    self.reload();
                }
            });
        });
        let query =
            InsightFilter { state: "all".to_owned(), ..InsightFilter::default() }.to_api_query(NAMES, None);
        spawn_local(async move {
            let Ok(found) = request(&query).await else { return };
            let names = |of: fn(&Insight) -> &String| {
                let mut names: Vec<String> = Vec::new();
                for name in found.insights.iter().map(of) {
                    if !name.is_empty() && !names.contains(name) {
                        names.push(name.clone());
                    }
                }
                names.sort();
                names
            };
            self.models.set(names(|one| &one.model));
            self.kinds.set(names(|one| &one.kind));
        });
    }

    /// Asks anew for the first page.
    pub(super) fn reload(self) {
        let query = untrack(move || self.filter()).to_api_query(PAGE, None);
        let asked = self.asked.get_untracked() + 1;
        self.asked.set(asked);
        spawn_local(async move {
            let answer = request(&query).await;
            if self.asked.get_untracked() != asked {
                return;
            }
            match answer {
                Ok(found) => {
                    self.cursor.set(found.cursor);
                    self.notice.set((!found.warnings.is_empty()).then(|| found.warnings.join(" ")));
                    self.list.set(found.insights);
                    self.phase.set(Phase::Ready);
                }
                Err(error) => self.phase.set(Phase::Failed(error)),
            }
        });
    }

    /// Asks for the next page.
    pub(super) fn load_more(self) {
        let cursor = self.cursor.get_untracked();
        let query = untrack(move || self.filter()).to_api_query(PAGE, cursor.as_deref());
        let asked = self.asked.get_untracked();
        self.loading_more.set(true);
        spawn_local(async move {
            let answer = request(&query).await;
            self.loading_more.set(false);
            if self.asked.get_untracked() != asked {
                return;
            }
            match answer {
                Ok(found) => {
                    self.cursor.set(found.cursor);
                    let mut list = self.list.get_untracked();
                    found.insights.into_iter().for_each(|one| insight::merge(&mut list, one, true));
                    self.list.set(list);
                }
                Err(error) => self.notice.set(Some(error.words().0)),
            }
        });
    }

    fn count(self) {
        let query = InsightFilter::default().to_api_query(1, None);
        spawn_local(async move {
            if let Ok(found) = request(&query).await {
                self.open.set(found.open);
                self.paging.set(found.paging);
            }
        });
    }

    /// An insight opened, changed or resolved.
    fn take(self, insight: Insight) {
        let keep = untrack(move || self.filter()).passes(&insight);
        let id = insight.id.clone();
        let mut list = self.list.get_untracked();
        insight::merge(&mut list, insight, keep);
        self.list.set(list);
        self.changed.set(id);
        self.count();
    }

    /// Listens while the page is visible, as long as the app lives.
    fn listen(self) {
        let take = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let text = event.data().as_string().unwrap_or_default();
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                self.take(Insight::of(&value));
            }
        });
        let take = take.into_js_value();
        let stream: RefCell<Option<EventSource>> = RefCell::new(None);
        let turn = move || {
            let mut stream = stream.borrow_mut();
            if document().hidden() {
                if let Some(open) = stream.take() {
                    open.close();
                }
            } else if stream.is_none()
                && let Ok(open) = EventSource::new("/api/v1/insights/stream")
            {
                let _ = open.add_event_listener_with_callback("insight", take.unchecked_ref());
                *stream = Some(open);
            }
        };
        turn();
        window_event_listener_untyped("visibilitychange", move |_| {
            turn();
            if !document().hidden() {
                self.count();
                if self.phase.get_untracked() == Phase::Ready {
                    self.reload();
                }
                self.changed.set(String::new());
            }
        });
    }
}

async fn request(query: &str) -> Result<InsightList, LoadError> {
    let found = net::get_value(&format!("/api/v1/insights?{query}")).await?;
    Ok(InsightList::of(&found))
}

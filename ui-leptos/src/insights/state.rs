//! The list of insights, the number of open ones, and the stream that keeps both up to date.
//!
//! The stream is open while the page is visible: browsers allow few connections a server, and hidden pages would use them
//! up. What changed meanwhile is asked for when the page is seen again; the number of open ones also every half minute.

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

use crate::net::{self, LoadError};
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

/// Where the list stands.
#[derive(Clone, PartialEq)]
pub(crate) enum Phase {
    /// Nothing to show yet.
    Loading,
    /// Shown.
    Ready,
    /// Nothing to show, and why.
    Failed(LoadError),
}

/// State of the insights; lives as long as the app.
#[derive(Clone, Copy)]
pub(crate) struct InsightsState {
    pub(super) filter: Memo<InsightFilter>,
    pub(super) list: RwSignal<Vec<Insight>>,
    pub(super) is_empty: Memo<bool>,
    pub(super) phase: RwSignal<Phase>,
    pub(super) cursor: RwSignal<Option<String>>,
    pub(super) loading_more: RwSignal<bool>,
    pub(super) notice: RwSignal<Option<String>>,
    pub(super) models: RwSignal<Vec<String>>,
    pub(super) kinds: RwSignal<Vec<String>>,
    /// Milliseconds since 1970, coarse.
    pub(super) clock: Memo<i64>,
    /// The insight that changed last.
    pub(super) changed: RwSignal<String>,
    /// Open ones, and of them those that page.
    open: RwSignal<(u64, u64)>,
    asked: RwSignal<u64>,
}

impl InsightsState {
    pub(crate) fn install(router: Router) -> Self {
        let filter = Memo::new(move |previous: Option<&InsightFilter>| {
            router.route().with(|route| match route {
                Route::Insights(filter) => filter.clone(),
                _ => previous.cloned().unwrap_or_default(),
            })
        });
        let list: RwSignal<Vec<Insight>> = RwSignal::new(Vec::new());
        let now: Now = expect_context();
        let state = Self {
            filter,
            list,
            is_empty: Memo::new(move |_| list.with(Vec::is_empty)),
            phase: RwSignal::new(Phase::Loading),
            cursor: RwSignal::new(None),
            loading_more: RwSignal::new(false),
            notice: RwSignal::new(None),
            models: RwSignal::new(Vec::new()),
            kinds: RwSignal::new(Vec::new()),
            clock: Memo::new(move |_| now.0.get() / CLOCK_MS * CLOCK_MS),
            changed: RwSignal::new(String::new()),
            open: RwSignal::new((0, 0)),
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

    /// The number of open insights for the navigation; nothing while there is none.
    pub(crate) fn badge(self) -> Option<AnyView> {
        let (open, page) = self.open.get();
        let class = if page > 0 { "nav-badge sev-page" } else { "nav-badge" };
        (open > 0).then(|| {
            view! { <span class=class>{open.to_string()}<span class="visually-hidden">" open"</span></span> }.into_any()
        })
    }

    /// Loads when the filter changes, as long as the calling component lives.
    pub(super) fn follow(self) {
        Effect::new(move |_| {
            self.filter.track();
            self.reload();
        });
        let query =
            InsightFilter { state: "all".to_owned(), ..InsightFilter::default() }.to_api_query(NAMES, None);
        spawn_local(async move {
            let Ok(found) = request(&query).await else { return };
            let names = |of: fn(&Insight) -> &String| {
                let mut names: Vec<String> = found
                    .insights
                    .iter()
                    .map(|one| of(one).clone())
                    .filter(|name| !name.is_empty())
                    .collect();
                names.sort();
                names.dedup();
                names
            };
            self.models.set(names(|one| &one.model));
            self.kinds.set(names(|one| &one.kind));
        });
    }

    /// Asks anew for the first page.
    pub(super) fn reload(self) {
        let query = self.filter.get_untracked().to_api_query(PAGE, None);
        let asked = self.asked.get_untracked() + 1;
        self.asked.set(asked);
        if self.phase.get_untracked() != Phase::Ready {
            self.phase.set(Phase::Loading);
        }
        spawn_local(async move {
            let answer = request(&query).await;
            if self.asked.get_untracked() != asked {
                return;
            }
            match answer {
                Ok(found) => {
                    self.cursor.set(found.cursor);
                    self.open.set(found.open);
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
        let query = self.filter.get_untracked().to_api_query(PAGE, cursor.as_deref());
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
            if let Ok(found) = request(&query).await
                && self.open.get_untracked() != found.open
            {
                self.open.set(found.open);
            }
        });
    }

    /// An insight opened, changed or resolved.
    fn take(self, insight: Insight) {
        let keep = self.filter.with_untracked(|filter| filter.passes(&insight));
        let id = insight.id.clone();
        let mut list = self.list.get_untracked();
        insight::merge(&mut list, insight, keep);
        self.list.set(list);
        self.changed.set(id);
        self.count();
    }

    fn listen(self) {
        let stream: StoredValue<Option<EventSource>, LocalStorage> = StoredValue::new_local(None);
        let take = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let text = event.data().as_string().unwrap_or_default();
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                self.take(Insight::of(&value));
            }
        });
        let take = take.into_js_value();
        let turn = move || {
            stream.update_value(|stream| {
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
            });
        };
        turn();
        // Lives as long as the app.
        window_event_listener_untyped("visibilitychange", move |_| {
            turn();
            if !document().hidden() {
                self.count();
                if matches!(self.phase.get_untracked(), Phase::Ready) {
                    self.reload();
                }
                self.changed.set(String::new());
            }
        });
    }
}

async fn request(query: &str) -> Result<InsightList, LoadError> {
    let found: Value = net::get_json(&format!("/api/v1/insights?{query}")).await?;
    Ok(InsightList::of(&found))
}

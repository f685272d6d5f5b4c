//! The address bar as a signal. Links are plain `<a href>`; clicks on those that stay inside the app are taken over.

use infertrace_ui_model::route::Route;
use leptos::ev;
use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};

/// The current page and the way to others.
#[derive(Clone, Copy)]
pub(crate) struct Router {
    route: RwSignal<Route>,
    /// Address of the list as it was left, for the way back from a trace.
    list: RwSignal<String>,
    /// The same of the insights.
    insights: RwSignal<String>,
}

impl Router {
    /// Starts to follow the address bar; once, by the app.
    pub(crate) fn install() -> Self {
        let kept = |path: &str| RwSignal::new(path.to_owned());
        let router =
            Self { route: RwSignal::new(current()), list: kept("/traces"), insights: kept("/insights") };
        router.remember();
        window_event_listener(ev::popstate, move |_| {
            router.route.set(current());
            router.remember();
        });
        window_event_listener(ev::click, move |event| {
            if let Some(target) = internal_link(&event) {
                event.prevent_default();
                let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                router.go(Route::parse(path, query));
            }
        });
        router
    }

    /// The one that a parent provided.
    pub(crate) fn get() -> Self {
        expect_context()
    }

    pub(crate) fn route(self) -> RwSignal<Route> {
        self.route
    }

    pub(crate) fn list_url(self) -> String {
        self.list.get()
    }

    pub(crate) fn insights_url(self) -> String {
        self.insights.get()
    }

    /// Opens a page; a new entry in the history unless it is already there.
    pub(crate) fn go(self, route: Route) {
        if self.route.with_untracked(|now| *now == route) {
            return;
        }
        let other_page = self.route.with_untracked(|now| page_key(now) != page_key(&route));
        if let Ok(history) = window().history() {
            let _ = history.push_state_with_url(&JsValue::NULL, "", Some(&route.to_url()));
        }
        self.route.set(route);
        self.remember();
        if other_page {
            window().scroll_to_with_x_and_y(0.0, 0.0);
        }
    }

    /// Changes the address of the current page without a new entry in the history.
    pub(crate) fn replace(self, route: Route) {
        if self.route.with_untracked(|now| *now == route) {
            return;
        }
        if let Ok(history) = window().history() {
            let _ = history.replace_state_with_url(&JsValue::NULL, "", Some(&route.to_url()));
        }
        self.route.set(route);
    }

    fn remember(self) {
        self.route.with_untracked(|route| match route {
            Route::Traces(_) => self.list.set(route.to_url()),
            Route::Insights(_) => self.insights.set(route.to_url()),
            _ => {}
        });
    }
}

fn page_key(route: &Route) -> &str {
    match route {
        Route::Traces(_) => "",
        Route::Trace { id, .. } => id,
        Route::Insights(_) => "insights",
        Route::Insight(id) => id,
        Route::Unknown(path) => path,
    }
}

fn current() -> Route {
    let location = window().location();
    Route::parse(&location.pathname().unwrap_or_default(), &location.search().unwrap_or_default())
}

/// Where a click leads, if it is a plain click on a link inside the app.
fn internal_link(event: &web_sys::MouseEvent) -> Option<String> {
    if event.default_prevented()
        || event.button() != 0
        || event.ctrl_key()
        || event.meta_key()
        || event.shift_key()
        || event.alt_key()
    {
        return None;
    }
    let element: web_sys::Element = event.target()?.dyn_into().ok()?;
    let link = element.closest("a[href]").ok().flatten()?;
    let href = link.get_attribute("href")?;
    let stays = href.starts_with('/') && !href.starts_with("/api/") && !link.has_attribute("target");
    stays.then_some(href)
}

//! One insight. It is asked for again when the stream says that it changed.

use std::sync::Arc;

use infertrace_ui_model::insight::page::{self, Frame};
use infertrace_ui_model::insight::{Insight, chart, triage, with_details_of};
use infertrace_ui_model::node::Node;
use infertrace_ui_model::query_string;
use leptos::prelude::*;
use leptos::task::spawn_local;
use wasm_bindgen::JsCast;

use super::state::InsightsState;
use crate::browser;
use crate::erase::{mouse, view_of};
use crate::net::{self, Phase};
use crate::parts::{Heading, failure, icon, region, statement};
use crate::router::Router;

/// `/insights/{id}`.
#[component]
pub(crate) fn InsightPage(id: String) -> AnyView {
    let state = InsightsState::get();
    let router = Router::get();
    let phase = RwSignal::new(Phase::Loading);
    // The insight, once it is there.
    let shown: RwSignal<Vec<Insight>> = RwSignal::new(Vec::new());
    let id: Arc<str> = id.into();
    let load = {
        let id = Arc::clone(&id);
        move || {
            let mut url = "/api/v1/insights/".to_owned();
            query_string::encode_segment(&id, &mut url);
            spawn_local(async move {
                match net::get_value(&url).await {
                    Ok(found) => {
                        let mut insight = Insight::of(&found);
                        insight.chart = shown.try_get_untracked().and_then(|mut shown| shown.pop()?.chart);
                        let _ = shown.try_set(vec![insight.clone()]);
                        let _ = phase.try_set(Phase::Ready);
                        insight.chart = draw_chart(&insight).await;
                        let _ = shown.try_set(vec![insight]);
                    }
                    Err(error) => _ = phase.try_set(Phase::Failed(error)),
                }
            });
        }
    };
    document().set_title("Insight · InferTrace");
    let again = load.clone();
    let own = Arc::clone(&id);
    Effect::new(move |before: Option<()>| {
        let changed = state.changed.get();
        if before.is_none() || changed.is_empty() || *changed == *own {
            again();
        }
    });
    focus_if_lost("main");
    let refused: RwSignal<Option<String>> = RwSignal::new(None);
    let decide = {
        let id = Arc::clone(&id);
        move |event: web_sys::MouseEvent| {
            let Some(name) = button_name(&event) else { return };
            let Some(insight) = shown.with_untracked(|shown| shown.first().cloned()) else { return };
            let Some((method, body)) = triage::request(&insight, &name, browser::now_ms()) else { return };
            let mut url = "/api/v1/insights/".to_owned();
            query_string::encode_segment(&id, &mut url);
            url.push_str("/triage");
            spawn_local(async move {
                match net::send(method, &url, body.as_deref()).await {
                    Ok(found) => {
                        let _ = shown.try_update(|shown| {
                            if let Some(known) = shown.first_mut() {
                                *known = with_details_of(Insight::of(&found), known);
                            }
                        });
                        let _ = refused.try_set(None);
                        focus_if_lost("triage");
                    }
                    Err(error) => {
                        let (title, detail) = error.words();
                        let _ = refused.try_set(Some(format!("{title}: {detail}")));
                    }
                }
            });
        }
    };
    let notice = move || {
        refused.get().map(|words| {
            view! { <p class="notice is-error" role="alert">{icon("alert")}<span>{words}</span></p> }
                .into_any()
        })
    };
    let tree = move || {
        let frame = Frame {
            now_ms: state.clock(),
            offset_minutes: browser::offset_minutes(browser::now_ms()),
            list_url: router.insights_url(),
        };
        shown.with(|shown| match shown.first() {
            Some(insight) => {
                document().set_title(&format!("{} · InferTrace", insight.title));
                page::all(insight, &frame)
            }
            None => Node::default(),
        })
    };
    let body = move || match phase.get() {
        Phase::Loading => skeleton(),
        Phase::Ready => region("", tree),
        Phase::Failed(error) if error.status() == 404 => not_found(&id, load.clone()),
        Phase::Failed(error) => {
            let load = load.clone();
            failure(Heading::Page, &error, load)
        }
    };
    view! { <div class="page insight" on:click=mouse(decide)>{view_of(notice)}{view_of(body)}</div> }
        .into_any()
}

/// Gives the focus to an element once all is drawn, if what had it is gone.
fn focus_if_lost(id: &'static str) {
    request_animation_frame(move || {
        if document().active_element().is_none_or(|active| active.tag_name() == "BODY") {
            browser::focus(id);
        }
    });
}

/// The name of the button that was pressed, if it was one that has a name.
fn button_name(event: &web_sys::MouseEvent) -> Option<String> {
    let pressed: web_sys::Element = event.target()?.dyn_into().ok()?;
    pressed.closest("button[name]").ok()??.get_attribute("name")
}

/// The course of the evidence over its baseline; none where there is nothing to draw.
async fn draw_chart(insight: &Insight) -> Option<Node> {
    let evidence = chart::drawn(insight)?;
    let now_ns = browser::now_ms() * 1_000_000;
    let rollups = chart::rollup_query(insight, now_ns);
    let rollups = net::get_value(&format!("/api/v1/rollups?{rollups}")).await.ok()?;
    let baselines = chart::baseline_query(insight, evidence);
    let baselines = net::get_value(&format!("/api/v1/baselines?{baselines}")).await.unwrap_or_default();
    let course = chart::Course::of(&rollups, evidence)?;
    let band = chart::band(&baselines, insight, evidence);
    let offset = browser::offset_minutes(browser::now_ms());
    Some(chart::chart(insight, evidence, &course, band, offset))
}

fn not_found(id: &str, retry: impl Fn() + 'static) -> AnyView {
    let list = Router::get().insights_url();
    let action = view! {
        <button type="button" class="button primary" on:click=mouse(move |_| retry())>{icon("refresh")} "Look again"</button>
        <a class="button" href=list>"Back to the insights"</a>
    }
    .into_any();
    let words = format!("{id} is not held. Insights are kept for some days after their last change.");
    statement(Heading::Page, "search", "Insight not found".to_owned(), words, action)
}

fn skeleton() -> AnyView {
    let rows = (0..6)
        .map(|_| view! { <div class="skeleton-row"><i></i><i></i><i></i></div> }.into_any())
        .collect_view();
    view! {
        <div class="skeleton" role="status" aria-label="Loading the insight">
            <div class="skeleton-title"></div>
            <div class="skeleton-stats"></div>
            {rows}
        </div>
    }
    .into_any()
}

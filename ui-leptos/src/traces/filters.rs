//! The filter bar. Every change is an entry in the history.

use infertrace_ui_model::filter::{Filter, PRESETS, StatusFilter, TimeRange, is_query, parse_attribute};
use infertrace_ui_model::format;
use infertrace_ui_model::route::{Route, is_trace_id};
use leptos::prelude::*;

use super::state::{ListState, STATUSES};
use crate::browser;
use crate::erase::{key, live, mouse, plain, submit, view_of};
use crate::parts::icon;
use crate::router::Router;

#[component]
pub(super) fn FilterBar(state: ListState) -> AnyView {
    let open = RwSignal::new(false);
    let narrowed = move || state.filter.with(Filter::is_narrowed);
    view! {
        <div class="filters" class:is-open=live(move || open.get()) role="search" aria-label="Filter traces">
            <div class="filters-main">
                <Query state=state/>
                <Range state=state/>
                <button
                    type="button"
                    class="button filters-toggle"
                    class:is-set=live(narrowed)
                    aria-expanded=live(move || open.get().to_string())
                    aria-controls="filter-fields"
                    on:click=mouse(move |_| open.update(|open| *open = !*open))
                >
                    {icon("filter")} "Filters"
                </button>
            </div>
            <div class="filters-fields" id="filter-fields">
                {choice("Service", "All services", state.services, state, |filter| &filter.service, |filter, value| filter.service = value)}
                {choice("Model", "All models", state.models, state, |filter| &filter.model, |filter, value| filter.model = value)}
                <Status state=state/>
                <label class="field">
                    <span>"Operation"</span>
                    <input
                        type="text"
                        placeholder="Any"
                        spellcheck="false"
                        autocomplete="off"
                        prop:value=live(move || state.filter.with(|filter| filter.operation.clone()))
                        on:change=plain(move |event| {
                            let value = event_target_value(&event).trim().to_owned();
                            state.change(|filter| filter.operation = value);
                        })
                    />
                </label>
                <Durations state=state/>
                {view_of(move || narrowed().then(|| view! {
                    <button
                        type="button"
                        class="button quiet clear"
                        on:click=mouse(move |_| state.change(|filter| *filter = Filter { range: filter.range, ..Filter::default() }))
                    >
                        {icon("close")} "Clear"
                    </button>
                }.into_any()))}
            </div>
            <Chips state=state/>
            {view_of(move || narrowed().then(|| view! { <p class="filters-hint">"Listed are traces in which one span passes all filters, and the query if there is one."</p> }.into_any()))}
        </div>
    }
    .into_any()
}

/// A select over names that the server knows; a name from the address bar that it does not know is kept.
fn choice(
    label: &'static str,
    all: &'static str,
    names: RwSignal<Vec<String>>,
    state: ListState,
    read: fn(&Filter) -> &String,
    write: fn(&mut Filter, String),
) -> AnyView {
    let current = move || state.filter.with(|filter| read(filter).clone());
    let options = move || {
        let mut names = names.get();
        let current = current();
        if !current.is_empty() && !names.contains(&current) {
            names.insert(0, current.clone());
        }
        names
            .into_iter()
            .map(|name| {
                let selected = name == current;
                view! { <option value=name.clone() prop:selected=selected>{name.clone()}</option> }.into_any()
            })
            .collect_view()
    };
    view! {
        <label class="field">
            <span>{label}</span>
            <select
                class:is-set=live(move || !current().is_empty())
                on:change=plain(move |event| {
                    let value = event_target_value(&event);
                    state.change(|filter| write(filter, value));
                })
            >
                <option value="" prop:selected=live(move || current().is_empty())>{all}</option>
                {view_of(options)}
            </select>
        </label>
    }
    .into_any()
}

#[component]
fn Status(state: ListState) -> AnyView {
    let buttons = STATUSES
        .into_iter()
        .map(|(status, words, meaning)| {
            let chosen = move || state.filter.with(|filter| filter.status == status);
            view! {
                <button
                    type="button"
                    class:is-chosen=live(chosen)
                    title=meaning
                    class:is-error=status == StatusFilter::Error
                    aria-pressed=live(move || chosen().to_string())
                    on:click=mouse(move |_| state.change(|filter| filter.status = status))
                >
                    {words}
                </button>
            }
            .into_any()
        })
        .collect_view();
    view! { <div class="field"><span id="status-label">"Status"</span><div class="segmented" role="group" aria-labelledby="status-label">{buttons}</div></div> }
        .into_any()
}

#[component]
fn Durations(state: ListState) -> AnyView {
    let problem = RwSignal::new(None::<String>);
    let input = |label: &'static str,
                 placeholder: &'static str,
                 read: fn(&Filter) -> Option<u64>,
                 write: fn(&mut Filter, Option<u64>)| {
        view! {
            <input
                type="text"
                aria-label=label
                placeholder=placeholder
                spellcheck="false"
                autocomplete="off"
                aria-describedby="duration-problem"
                prop:value=live(move || state.filter.with(read).map(format::duration_input).unwrap_or_default())
                on:change=plain(move |event| match format::parse_duration_micros(&event_target_value(&event)) {
                    Ok(value) => {
                        problem.set(None);
                        state.change(|filter| write(filter, value));
                    }
                    Err(words) => problem.set(Some(words)),
                })
            />
        }.into_any()
    };
    view! {
        <div class="field durations">
            <span>"Duration"</span>
            <div class="pair">
                {input("Least duration", "min 50ms", |filter| filter.min_duration, |filter, value| filter.min_duration = value)}
                <span aria-hidden="true">"–"</span>
                {input("Greatest duration", "max 2s", |filter| filter.max_duration, |filter, value| filter.max_duration = value)}
            </div>
            <p class="field-problem" id="duration-problem" role="alert">{view_of(move || problem.get())}</p>
        </div>
    }
    .into_any()
}

#[component]
fn Range(state: ListState) -> AnyView {
    let range = move || state.filter.with(|filter| filter.range);
    let presets = PRESETS
        .into_iter()
        .enumerate()
        .map(|(index, (name, words, _))| {
            view! { <option value=name prop:selected=live(move || range() == TimeRange::Preset(index))>{words}</option> }.into_any()
        })
        .collect_view();
    let choose = move |value: String| {
        if value == "custom" {
            let now = browser::now_ms();
            let (start, _) = state.filter.with_untracked(|filter| filter.range).bounds(now);
            state.change(|filter| {
                filter.range = TimeRange::Custom { start_ms: start.unwrap_or(now - 3_600_000), end_ms: now };
            });
        } else if let Some(index) = PRESETS.iter().position(|preset| preset.0 == value) {
            state.change(|filter| filter.range = TimeRange::Preset(index));
        }
    };
    let is_custom = move || matches!(range(), TimeRange::Custom { .. });
    view! {
        <div class="range">
            <select aria-label="Time range" on:change=plain(move |event| choose(event_target_value(&event)))>
                {presets}
                <option value="custom" prop:selected=live(is_custom)>"Custom range"</option>
            </select>
            <div class="custom-range" hidden=live(move || !is_custom())>
                {moment("From", state, |range| range.0, |range, start| (start, range.1))}
                {moment("To", state, |range| range.1, |range, end| (range.0, end))}
            </div>
        </div>
    }
    .into_any()
}

/// One end of a custom range, local time. An end that would empty the range is not taken.
fn moment(
    label: &'static str,
    state: ListState,
    read: fn((i64, i64)) -> i64,
    write: fn((i64, i64), i64) -> (i64, i64),
) -> AnyView {
    let range = move || match state.filter.with(|filter| filter.range) {
        TimeRange::Custom { start_ms, end_ms } => Some((start_ms, end_ms)),
        TimeRange::Preset(_) => None,
    };
    let text = move || {
        let Some(value_ms) = range().map(read) else {
            return String::new();
        };
        let text = format::absolute(value_ms * 1_000_000, browser::offset_minutes(value_ms));
        text.get(..19).unwrap_or_default().replace(' ', "T")
    };
    let apply = move |event: web_sys::Event| {
        let typed = browser::parse_local(&event_target_value(&event));
        if let Some((typed, range)) = typed.zip(untrack(range)) {
            let (start_ms, end_ms) = write(range, typed);
            if start_ms < end_ms {
                state.change(|filter| filter.range = TimeRange::Custom { start_ms, end_ms });
            }
        }
    };
    view! {
        <label class="moment">
            <span>{label}</span>
            <input type="datetime-local" step="1" prop:value=live(text) on:change=plain(apply)/>
        </label>
    }
    .into_any()
}

/// Takes a query of the query language, which stays where it can be edited, `key=value`, or a trace id and opens it.
#[component]
fn Query(state: ListState) -> AnyView {
    let router = Router::get();
    let query = Memo::new(move |_| state.filter.with(|filter| filter.query.clone()));
    let text = RwSignal::new(String::new());
    Effect::new(move |_| text.set(query.get()));
    let problem = RwSignal::new(false);
    let send = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let typed = text.get_untracked();
        let typed = typed.trim();
        if is_trace_id(typed) {
            router.go(Route::trace(&typed.to_ascii_lowercase()));
        } else if is_query(typed) || typed.is_empty() {
            if typed != query.get_untracked() {
                let typed = typed.to_owned();
                state.change(|filter| filter.query = typed);
            }
        } else if let Some(pair) = parse_attribute(typed) {
            text.set(query.get_untracked());
            state.change(|filter| {
                if !filter.attributes.contains(&pair) {
                    filter.attributes.push(pair);
                }
            });
        } else {
            problem.set(true);
        }
    };
    view! {
        <form class="query" on:submit=submit(send)>
            {icon("search")}
            <input
                id="filter-query"
                type="text"
                aria-label="Query, attribute as key=value, or a trace id"
                placeholder="{ llm:ttft > 500ms }, attribute=value, or a trace id"
                spellcheck="false"
                autocomplete="off"
                autocapitalize="off"
                enterkeyhint="search"
                aria-invalid=live(move || problem.get().to_string())
                prop:value=live(move || text.get())
                on:input=plain(move |event| {
                    problem.set(false);
                    text.set(event_target_value(&event));
                })
                on:keydown=key(move |event| {
                    if event.key() == "Escape" {
                        text.set(query.get_untracked());
                        browser::focus("main");
                    }
                })
            />
            <kbd class="query-key" aria-hidden="true">"/"</kbd>
            <p class="field-problem" role="alert">
                {view_of(move || problem.get().then_some("Write a query in braces, key=value, or the 32 hexadecimal digits of a trace id."))}
            </p>
        </form>
    }
    .into_any()
}

#[component]
fn Chips(state: ListState) -> AnyView {
    let chips = move || {
        let attributes = state.filter.with(|filter| filter.attributes.clone());
        (!attributes.is_empty()).then(|| {
            let items = attributes
                .into_iter()
                .map(|pair| {
                    let label = format!("Remove {}={}", pair.0, pair.1);
                    let (key, value) = pair.clone();
                    let remove = move |_| {
                        let pair = pair.clone();
                        state.change(move |filter| filter.attributes.retain(|known| *known != pair));
                    };
                    view! {
                        <li class="chip">
                            <span class="mono">{key}<span class="muted">"="</span>{value}</span>
                            <button type="button" class="icon-button" aria-label=label on:click=mouse(remove)>{icon("close")}</button>
                        </li>
                    }.into_any()
                })
                .collect_view();
            view! { <ul class="chips" aria-label="Attributes">{items}</ul> }.into_any()
        })
    };
    view! { {view_of(chips)} }.into_any()
}

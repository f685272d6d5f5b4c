//! The filter bar. Every change is an entry in the history.

use infertrace_ui_model::filter::{Filter, PRESETS, StatusFilter, TimeRange, parse_attribute};
use infertrace_ui_model::format;
use infertrace_ui_model::route::{Route, is_trace_id};
use leptos::prelude::*;

use super::state::{ListState, STATUSES};
use crate::browser;
use crate::parts::icon;
use crate::router::Router;

#[component]
pub(super) fn FilterBar(state: ListState) -> AnyView {
    let open = RwSignal::new(false);
    let narrowed = move || state.filter.with(Filter::is_narrowed);
    view! {
        <div class="filters" class:is-open=move || open.get() role="search" aria-label="Filter traces">
            <div class="filters-main">
                <Query state=state/>
                <Range state=state/>
                <button
                    type="button"
                    class="button filters-toggle"
                    aria-expanded=move || open.get().to_string()
                    aria-controls="filter-fields"
                    on:click=move |_| open.update(|open| *open = !*open)
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
                        prop:value=move || state.filter.with(|filter| filter.operation.clone())
                        on:change:target=move |event| {
                            let value = event.target().value().trim().to_owned();
                            state.change(|filter| filter.operation = value);
                        }
                    />
                </label>
                <Durations state=state/>
                {move || narrowed().then(|| view! {
                    <button
                        type="button"
                        class="button quiet clear"
                        on:click=move |_| state.change(|filter| *filter = Filter { range: filter.range, ..Filter::default() })
                    >
                        {icon("close")} "Clear"
                    </button>
                })}
            </div>
            <Chips state=state/>
            {move || narrowed().then(|| view! { <p class="filters-hint">"Listed are traces in which one span passes all filters."</p> })}
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
    let current = Memo::new(move |_| state.filter.with(|filter| read(filter).clone()));
    let options = move || {
        let mut names = names.get();
        let current = current.get();
        if !current.is_empty() && !names.contains(&current) {
            names.insert(0, current.clone());
        }
        names
            .into_iter()
            .map(|name| {
                let selected = name == current;
                view! { <option value=name.clone() prop:selected=selected>{name.clone()}</option> }
            })
            .collect_view()
    };
    view! {
        <label class="field">
            <span>{label}</span>
            <select
                class:is-set=move || !current.get().is_empty()
                on:change:target=move |event| {
                    let value = event.target().value();
                    state.change(|filter| write(filter, value));
                }
            >
                <option value="" prop:selected=move || current.get().is_empty()>{all}</option>
                {options}
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
                    class:is-chosen=chosen
                    title=meaning
                    class:is-error=status == StatusFilter::Error
                    aria-pressed=move || chosen().to_string()
                    on:click=move |_| state.change(|filter| filter.status = status)
                >
                    {words}
                </button>
            }
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
                prop:value=move || state.filter.with(read).map(format::duration_input).unwrap_or_default()
                on:change:target=move |event| match format::parse_duration_micros(&event.target().value()) {
                    Ok(value) => {
                        problem.set(None);
                        state.change(|filter| write(filter, value));
                    }
                    Err(words) => problem.set(Some(words)),
                }
            />
        }
    };
    view! {
        <div class="field durations">
            <span>"Duration"</span>
            <div class="pair">
                {input("Least duration", "min 50ms", |filter| filter.min_duration, |filter, value| filter.min_duration = value)}
                <span aria-hidden="true">"–"</span>
                {input("Greatest duration", "max 2s", |filter| filter.max_duration, |filter, value| filter.max_duration = value)}
            </div>
            <p class="field-problem" id="duration-problem" role="alert">{move || problem.get()}</p>
        </div>
    }
    .into_any()
}

#[component]
fn Range(state: ListState) -> AnyView {
    let range = Memo::new(move |_| state.filter.with(|filter| filter.range));
    let presets = PRESETS
        .into_iter()
        .enumerate()
        .map(|(index, (name, words, _))| {
            view! { <option value=name prop:selected=move || range.get() == TimeRange::Preset(index)>{words}</option> }
        })
        .collect_view();
    let choose = move |value: String| {
        if value == "custom" {
            let now = browser::now_ms();
            let (start, _) = range.get_untracked().bounds(now);
            state.change(|filter| {
                filter.range = TimeRange::Custom { start_ms: start.unwrap_or(now - 3_600_000), end_ms: now };
            });
        } else if let Some(index) = PRESETS.iter().position(|preset| preset.0 == value) {
            state.change(|filter| filter.range = TimeRange::Preset(index));
        }
    };
    let custom = move || match range.get() {
        TimeRange::Preset(_) => None,
        TimeRange::Custom { start_ms, end_ms } => Some(view! {
            <div class="custom-range">
                {moment("From", start_ms, move |start_ms| (start_ms < end_ms).then_some(TimeRange::Custom { start_ms, end_ms }), state)}
                {moment("To", end_ms, move |end_ms| (start_ms < end_ms).then_some(TimeRange::Custom { start_ms, end_ms }), state)}
            </div>
        }),
    };
    let is_custom = move || matches!(range.get(), TimeRange::Custom { .. });
    view! {
        <div class="range">
            <select aria-label="Time range" on:change:target=move |event| choose(event.target().value())>
                {presets}
                <option value="custom" prop:selected=is_custom>"Custom range"</option>
            </select>
            {custom}
        </div>
    }
    .into_any()
}

fn moment(
    label: &'static str,
    value_ms: i64,
    apply: impl Fn(i64) -> Option<TimeRange> + 'static,
    state: ListState,
) -> AnyView {
    let text = format::absolute(value_ms * 1_000_000, browser::offset_minutes(value_ms));
    let value = text.get(..19).unwrap_or_default().replace(' ', "T");
    view! {
        <label class="moment">
            <span>{label}</span>
            <input
                type="datetime-local"
                step="1"
                prop:value=value
                on:change:target=move |event| {
                    if let Some(range) = browser::parse_local(&event.target().value()).and_then(&apply) {
                        state.change(|filter| filter.range = range);
                    }
                }
            />
        </label>
    }
    .into_any()
}

/// Takes `key=value`, or a trace id and opens it.
#[component]
fn Query(state: ListState) -> AnyView {
    let router = Router::get();
    let text = RwSignal::new(String::new());
    let problem = RwSignal::new(false);
    let submit = move |event: web_sys::SubmitEvent| {
        event.prevent_default();
        let typed = text.get_untracked();
        let typed = typed.trim();
        if is_trace_id(typed) {
            router.go(Route::trace(&typed.to_ascii_lowercase()));
        } else if let Some(pair) = parse_attribute(typed) {
            text.set(String::new());
            state.change(|filter| {
                if !filter.attributes.contains(&pair) {
                    filter.attributes.push(pair);
                }
            });
        } else {
            problem.set(!typed.is_empty());
        }
    };
    view! {
        <form class="query" on:submit=submit>
            {icon("search")}
            <input
                id="filter-query"
                type="text"
                aria-label="Attribute as key=value, or a trace id"
                placeholder="attribute=value, or a trace id"
                spellcheck="false"
                autocomplete="off"
                autocapitalize="off"
                enterkeyhint="search"
                aria-invalid=move || problem.get().to_string()
                prop:value=move || text.get()
                on:input:target=move |event| {
                    problem.set(false);
                    text.set(event.target().value());
                }
                on:keydown=move |event| {
                    if event.key() == "Escape" {
                        text.set(String::new());
                        browser::focus("main");
                    }
                }
            />
            <kbd class="query-key" aria-hidden="true">"/"</kbd>
            <p class="field-problem" role="alert">
                {move || problem.get().then_some("Write key=value, or the 32 hexadecimal digits of a trace id.")}
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
                            <button type="button" class="icon-button" aria-label=label on:click=remove>{icon("close")}</button>
                        </li>
                    }
                })
                .collect_view();
            view! { <ul class="chips" aria-label="Attributes">{items}</ul> }
        })
    };
    view! { {chips} }.into_any()
}

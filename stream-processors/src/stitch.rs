//! Which spans are sightings of a request, and what they say of it: from columns to
//! [`Sighting`]s, which [`infertrace_analytics::stitch`] brings together.
//!
//! A span is an *engine's* sighting if a serving engine reports it outside the client's side, at no stage or at
//! `inference`, under a request id; a *proxy's* if a proxy reports that it calls a model; a *client's* if it is of
//! kind CLIENT and names a model, a provider or a response, or if OpenInference says that it is a call of a model. Anything
//! else is none: an HTTP client's span, an engine's start, a stage.
//!
//! A caller's request id is the response's id; OpenInference does not report it but keeps the response's JSON, which
//! begins with it. Streams have neither there, so such callers stay without an id.

use std::{collections::HashMap, sync::Arc};

use arrow::array::RecordBatch;
use infertrace_analytics::stitch::{Role, Sighting, normalized, response_id_of};
use infertrace_schemas::{
    columns::status,
    view::{AttributeValue, SpanView, ViewError},
};

/// OTLP's span kind of a caller.
const CLIENT: u8 = 3;
const INFERENCE: &str = "inference";
/// Frameworks that stand between client and engine.
const PROXIES: &[&str] = &["litellm"];
const OPENINFERENCE: &str = "openinference";
pub(crate) const OPENINFERENCE_KIND: &str = "openinference.span.kind";
/// The response's id as OpenTelemetry's conventions name it.
pub(crate) const RESPONSE_ID: &str = "gen_ai.response.id";
/// OpenInference's attribute that holds the response as JSON.
pub(crate) const RESPONSE: &str = "output.value";
/// Kinds of OpenInference that are calls of a model.
const OPENINFERENCE_CALLS: &[&str] = &["LLM", "EMBEDDING"];
/// Bytes of an id that are compared at most; a longer one is none.
const MAX_ID_BYTES: usize = 256;

/// The sightings among the spans of a batch.
pub struct Sightings<'a> {
    view: SpanView<'a>,
    texts: HashMap<&'a str, Arc<str>>,
    /// By number of a scope: whether OpenInference made its spans.
    is_openinference: Vec<bool>,
}

impl<'a> Sightings<'a> {
    /// Views a batch of the span schema.
    ///
    /// # Errors
    /// [`ViewError`] when it has another schema.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, ViewError> {
        let view = SpanView::new(batch)?;
        let scopes = view.scope_column().values();
        let is_openinference =
            scopes.iter().map(|scope| scope.is_some_and(|json| json.contains(OPENINFERENCE)));
        Ok(Self { is_openinference: is_openinference.collect(), texts: HashMap::new(), view })
    }

    /// What span `row` says of a request, if it is of one.
    pub fn of(&mut self, row: usize) -> Option<Sighting> {
        let role = self.role(row)?;
        let view = &self.view;
        let id = match role {
            Role::Engine => view.request_id(row),
            Role::Client | Role::Proxy => self.response_id(row),
        };
        let id = id.filter(|id| id.len() <= MAX_ID_BYTES).unwrap_or("");
        let request: Arc<str> = normalized(id, role).into();
        let has_parent = view.parent_span_id(row).is_some();
        if role == Role::Engine && request.is_empty() {
            return None;
        }
        let (start_ns, end_ns) = (view.start_ns(row), view.end_ns(row));
        let (trace_id, span_id) = (*view.trace_id(row), *view.span_id(row));
        let is_error = view.status_code(row) == status::ERROR;
        let prompt_tokens = view.input_tokens(row);
        let (tenant, service) = (view.tenant(row), view.service(row));
        let model = view.model_name(row).unwrap_or("");
        Some(Sighting {
            start_ns,
            trace_id,
            span_id,
            role,
            end_ns,
            is_error,
            has_parent,
            request,
            prompt_tokens,
            tenant: self.shared(tenant),
            service: self.shared(service),
            model: self.shared(model),
        })
    }

    fn role(&self, row: usize) -> Option<Role> {
        let view = &self.view;
        if view.stage(row).is_some_and(|stage| stage != INFERENCE) {
            return None;
        }
        let framework = view.framework(row).unwrap_or("");
        let is_proxy = PROXIES.contains(&framework);
        let names_a_call = || {
            view.request_id(row).is_some() || view.model_name(row).is_some() || view.provider(row).is_some()
        };
        if view.kind(row) == CLIENT {
            let role = if is_proxy { Role::Proxy } else { Role::Client };
            return names_a_call().then_some(role);
        }
        if self.is_openinference.get(view.scope_column().key(row)).copied().unwrap_or(false) {
            let is_call = |kind: &&str| view.attribute_equals(row, OPENINFERENCE_KIND, kind);
            return OPENINFERENCE_CALLS.iter().any(is_call).then_some(Role::Client);
        }
        let is_served = !is_proxy
            && (!framework.is_empty()
                || view.stage(row).is_some()
                || view.queue_wait_ms(row).is_some()
                || view.batch_size(row).is_some()
                || view.gpu_device_id(row).is_some());
        (is_served && view.request_id(row).is_some()).then_some(Role::Engine)
    }

    /// The id of the response that a caller got.
    fn response_id(&self, row: usize) -> Option<&str> {
        let text = |key: &str| match self.view.attribute(row, key) {
            Some(AttributeValue::String(text)) => Some(text),
            _ => None,
        };
        text(RESPONSE_ID)
            .or_else(|| self.view.request_id(row))
            .or_else(|| text(RESPONSE).and_then(response_id_of))
    }

    fn shared(&mut self, text: &'a str) -> Arc<str> {
        Arc::clone(self.texts.entry(text).or_insert_with(|| text.into()))
    }
}

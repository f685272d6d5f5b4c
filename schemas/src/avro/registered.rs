//! The ids that a schema registry gave to this program's schemas: one table a process, set once before roles start.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock, RwLock},
};

use super::{
    AvroError, AvroRecord, Baseline, EmbeddedSchema, Insight, OWN, RequestLink, Rollup, SchemaIds,
    TraceSummary, Triage, parse_schema, split,
};
use crate::topics;

/// A topic's values and the schema that they are written with; its subject in a registry is `<topic>-value`.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Topic.
    pub topic: &'static str,
    /// This build's schema.
    pub schema: &'static EmbeddedSchema,
}

impl Subject {
    /// Its name in a registry, by Confluent's default strategy.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-value", self.topic)
    }
}

/// Every topic with Avro values.
#[must_use]
pub fn subjects() -> [Subject; 6] {
    [
        Subject { topic: topics::TRACES, schema: TraceSummary::<'static>::schema() },
        Subject { topic: topics::ROLLUPS, schema: Rollup::schema() },
        Subject { topic: topics::BASELINES, schema: Baseline::schema() },
        Subject { topic: topics::INSIGHTS, schema: Insight::schema() },
        Subject { topic: topics::LINKS, schema: RequestLink::schema() },
        Subject { topic: topics::TRIAGE, schema: Triage::schema() },
    ]
}

/// A schema's text, or why it is not to be had.
pub type SchemaText<'a> = Pin<Box<dyn Future<Output = Result<String, String>> + Send + 'a>>;

/// Tells the schemas of ids that are met while records are read: a registry.
pub trait SchemaSource: Send + Sync {
    /// The schema of `id`. It answers within seconds, also where nobody is there, and does not ask in vain over and over.
    fn schema(&self, id: u32) -> SchemaText<'_>;
}

static REGISTERED: OnceLock<Vec<(u32, SchemaIds)>> = OnceLock::new();

/// Uses `ids` from now on, by the embedded id of the schema each belongs to, and asks `source` for those that values name
/// later. `false` if ids were set before.
pub fn use_registered(ids: Vec<(u32, SchemaIds)>, source: Arc<dyn SchemaSource>) -> bool {
    let with_source = |(of, ids): (u32, SchemaIds)| (of, ids.with_source(Arc::clone(&source)));
    REGISTERED.set(ids.into_iter().map(with_source).collect()).is_ok()
}

impl SchemaIds {
    /// The ids that a registry gave, if one is used; else the embedded ones.
    #[must_use]
    pub fn current<R: AvroRecord>() -> Self {
        let own = R::schema().id;
        let registered = REGISTERED.get().into_iter().flatten().find(|(of, _)| *of == own);
        registered.map_or_else(Self::embedded::<R>, |(_, ids)| ids.clone())
    }

    /// The embedded ids of `schema`, to which a registry's are added.
    #[must_use]
    pub fn of(schema: &EmbeddedSchema) -> Self {
        let own = std::iter::once((schema.id, &schema.schema));
        let former = schema.former.iter().map(|(id, schema)| (*id, schema));
        let known = own.chain(former).map(|(id, schema)| (id, Arc::new(schema.clone()))).collect();
        Self { write: schema.id, known: Arc::new(RwLock::new(known)), source: None }
    }

    /// Asks `source` for ids that values name and that are not known.
    #[must_use]
    pub fn with_source(self, source: Arc<dyn SchemaSource>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Learns the schema that `value` was written with, if it is not known and a registry may: called before
    /// [`SchemaIds::decode`] by who reads what others write.
    ///
    /// # Errors
    /// [`AvroError::NotLearnt`] when the registry does not tell it or what it tells is no Avro schema; a value that is
    /// not framed and an id that no registry gives are left to [`SchemaIds::decode`].
    pub async fn learn_of(&self, value: &[u8]) -> Result<(), AvroError> {
        let (Ok((id, _)), Some(source)) = (split(value), &self.source) else { return Ok(()) };
        if id & OWN != 0 || self.writer(id).is_some() {
            return Ok(());
        }
        let not_learnt = |detail| AvroError::NotLearnt { id, detail };
        let text = source.schema(id).await.map_err(not_learnt)?;
        let schema = parse_schema(&text).map_err(|error| not_learnt(error.to_string()))?;
        self.learn(id, schema);
        Ok(())
    }

    /// Writes with `id`, which a registry gave to `schema`.
    pub fn write_as(&mut self, id: u32, schema: &EmbeddedSchema) {
        self.learn(id, schema.schema.clone());
        self.write = id;
    }
}

//! The ids that a schema registry gave to this program's schemas: one table a process, set once before roles start.

use std::sync::OnceLock;

use super::{AvroRecord, Baseline, EmbeddedSchema, Insight, RequestLink, Rollup, SchemaIds, TraceSummary};
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
pub fn subjects() -> [Subject; 5] {
    [
        Subject { topic: topics::TRACES, schema: TraceSummary::<'static>::schema() },
        Subject { topic: topics::ROLLUPS, schema: Rollup::schema() },
        Subject { topic: topics::BASELINES, schema: Baseline::schema() },
        Subject { topic: topics::INSIGHTS, schema: Insight::schema() },
        Subject { topic: topics::LINKS, schema: RequestLink::schema() },
    ]
}

static REGISTERED: OnceLock<Vec<(u32, SchemaIds)>> = OnceLock::new();

/// Uses `ids` from now on, by the embedded id of the schema each belongs to. `false` if ids were set before.
pub fn use_registered(ids: Vec<(u32, SchemaIds)>) -> bool {
    REGISTERED.set(ids).is_ok()
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
        Self { write: schema.id, known: vec![(schema.id, schema.schema.clone())] }
    }

    /// Writes with `id`, which a registry gave to `schema`.
    pub fn write_as(&mut self, id: u32, schema: &EmbeddedSchema) {
        self.learn(id, schema.schema.clone());
        self.write = id;
    }
}

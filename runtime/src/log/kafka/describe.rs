//! Topics as the cluster has them: partitions and copies from its metadata, the rest from its configuration.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    admin::{AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier},
    consumer::Consumer as _,
};

use super::{CALL_TIMEOUT, KafkaLog, errors};
use crate::log::{LogError, topic_state::TopicState};

impl KafkaLog {
    /// The topics of these names, in their order; `None` for one that is not there.
    ///
    /// # Errors
    /// When the cluster does not answer or does not let this client describe a topic.
    pub async fn describe(&self, names: &[&str]) -> Result<Vec<Option<TopicState>>, LogError> {
        let found = self.placements(names).await?;
        let there: Vec<ResourceSpecifier<'_>> = names
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_some())
            .map(|(name, _)| ResourceSpecifier::Topic(name))
            .collect();
        let mut configs = HashMap::new();
        if !there.is_empty() {
            let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
            let described = self.admin.describe_configs(&there, &options).await;
            for config in described.map_err(|error| errors::classify(&error))? {
                let config = config.map_err(|code| {
                    errors::classify_code(code, &format!("cannot describe a topic's configuration: {code}"))
                })?;
                if let OwnedResourceSpecifier::Topic(name) = &config.specifier {
                    configs.insert(name.clone(), config);
                }
            }
        }
        let state_of = |name: &str, placement: Option<(u32, u16)>| {
            let Some((partitions, replication)) = placement else { return Ok(None) };
            let config = configs.get(name).ok_or_else(|| {
                LogError::Unavailable(format!(
                    "the cluster did not describe {name}; was it removed just now?"
                ))
            })?;
            Ok(Some(state(partitions, replication, config)))
        };
        names.iter().zip(found).map(|(name, placement)| state_of(name, placement)).collect()
    }

    /// Partitions and the fewest copies of any of them.
    async fn placements(&self, names: &[&str]) -> Result<Vec<Option<(u32, u16)>>, LogError> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        self.inspect(CALL_TIMEOUT, move |inspector| {
            // All topics at once: asking for one by name would create it where brokers do that.
            let metadata =
                inspector.fetch_metadata(None, CALL_TIMEOUT).map_err(|error| errors::classify(&error))?;
            Ok(names
                .iter()
                .map(|name| {
                    let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
                    let copies =
                        topic.partitions().iter().map(|partition| partition.replicas().len()).min()?;
                    Some((topic.partitions().len() as u32, copies as u16))
                })
                .collect())
        })
        .await
    }
}

fn state(partitions: u32, replication: u16, config: &ConfigResource) -> TopicState {
    let value = |name: &str| {
        let entry = config.entries.iter().find(|entry| entry.name == name)?;
        entry.value.as_deref()
    };
    let positive = |name: &str| value(name)?.parse::<i64>().ok().and_then(|value| u64::try_from(value).ok());
    TopicState {
        partitions,
        replication: Some(replication),
        min_in_sync: positive("min.insync.replicas").map(|count| count as u16),
        retention: positive("retention.ms").map(Duration::from_millis),
        compacted: value("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
        retention_bytes: positive("retention.bytes"),
    }
}

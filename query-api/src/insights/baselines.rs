//! The baselines, the latest a key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use infertrace_schemas::avro::Baseline;

/// What a baseline takes besides its text, about: numbers, indexes, strings' headers.
const OVERHEAD: usize = 512;

/// What a baseline is about: model first, so that those of one model lie together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    model: String,
    tenant: String,
    version: String,
    stage: String,
    metric: String,
    hour_of_week: Option<i32>,
}

/// Which baselines are meant; absent filters match everything.
#[derive(Clone, Debug, Default)]
pub struct BaselineFilter {
    /// Model, exact.
    pub model: Option<String>,
    /// Tenant, exact.
    pub tenant: Option<String>,
    /// Model version, exact.
    pub version: Option<String>,
    /// Stage, exact.
    pub stage: Option<String>,
    /// Metric, exact.
    pub metric: Option<String>,
}

impl BaselineFilter {
    fn matches(&self, key: &Key) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|wanted| wanted == text);
        is(&self.model, &key.model)
            && is(&self.tenant, &key.tenant)
            && is(&self.version, &key.version)
            && is(&self.stage, &key.stage)
            && is(&self.metric, &key.metric)
    }
}

/// The baselines.
#[derive(Default)]
pub struct Baselines {
    by_key: BTreeMap<Arc<Key>, Baseline>,
    by_age: BTreeSet<(i64, Arc<Key>)>,
    bytes: usize,
}

fn size_of_baseline(key: &Key) -> usize {
    let text = [&key.model, &key.tenant, &key.version, &key.stage, &key.metric];
    2 * text.iter().map(|text| text.len()).sum::<usize>() + OVERHEAD
}

impl Baselines {
    /// Takes a baseline in, unless a later one of its key is there, and keeps to `max_bytes`.
    pub fn apply(&mut self, baseline: Baseline, max_bytes: usize) {
        let key = Arc::new(Key {
            model: baseline.model.clone(),
            tenant: baseline.tenant.clone(),
            version: baseline.model_version.clone(),
            stage: baseline.stage.clone(),
            metric: baseline.metric.clone(),
            hour_of_week: baseline.hour_of_week,
        });
        if self.by_key.get(&key).is_some_and(|held| held.computed_unix_nanos > baseline.computed_unix_nanos) {
            return;
        }
        self.remove(&key);
        self.bytes += size_of_baseline(&key);
        self.by_age.insert((baseline.computed_unix_nanos, Arc::clone(&key)));
        self.by_key.insert(key, baseline);
        while self.bytes > max_bytes
            && let Some((_, oldest)) = self.by_age.first().cloned()
        {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Arc<Key>) {
        let Some((key, held)) = self.by_key.remove_entry(key) else { return };
        self.bytes -= size_of_baseline(&key);
        self.by_age.remove(&(held.computed_unix_nanos, key));
    }

    /// At most `limit` baselines in the order of their keys; and whether there are more.
    #[must_use]
    pub fn list(&self, filter: &BaselineFilter, limit: usize) -> (Vec<&Baseline>, bool) {
        let first = Arc::new(Key {
            model: filter.model.clone().unwrap_or_default(),
            tenant: String::new(),
            version: String::new(),
            stage: String::new(),
            metric: String::new(),
            hour_of_week: None,
        });
        let mut matching = self
            .by_key
            .range(first..)
            .take_while(|(key, _)| filter.model.as_ref().is_none_or(|model| *model == key.model))
            .filter(|(key, _)| filter.matches(key))
            .map(|(_, baseline)| baseline);
        let page = matching.by_ref().take(limit).collect();
        (page, matching.next().is_some())
    }

    /// Baselines held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Memory, about.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(model: &str, metric: &str, hour: Option<i32>, computed: i64) -> Baseline {
        Baseline {
            model: model.into(),
            metric: metric.into(),
            hour_of_week: hour,
            computed_unix_nanos: computed,
            ..Baseline::default()
        }
    }

    fn listed(baselines: &Baselines, model: &str) -> Vec<(String, Option<i32>, i64)> {
        let filter = BaselineFilter { model: Some(model.into()), ..BaselineFilter::default() };
        let (page, more) = baselines.list(&filter, 100);
        assert!(!more);
        page.iter().map(|one| (one.metric.clone(), one.hour_of_week, one.computed_unix_nanos)).collect()
    }

    /// Scenario: baselines of several models, some computed again, one record out of order. Guarantee: the latest a
    /// key, of the model that was asked for, in order.
    #[test]
    fn the_latest_a_key() {
        let mut held = Baselines::default();
        for one in [
            baseline("b", "ttft_micros", None, 1),
            baseline("a", "ttft_micros", Some(3), 1),
            baseline("a", "ttft_micros", None, 2),
            baseline("a", "ttft_micros", None, 5),
            baseline("a", "ttft_micros", None, 4),
            baseline("a", "duration_micros", None, 4),
            baseline("ab", "ttft_micros", None, 1),
        ] {
            held.apply(one, usize::MAX);
        }
        let wanted = [
            ("duration_micros".to_owned(), None, 4),
            ("ttft_micros".to_owned(), None, 5),
            ("ttft_micros".to_owned(), Some(3), 1),
        ];
        assert_eq!(listed(&held, "a"), wanted);
        let (page, more) = held.list(&BaselineFilter::default(), 2);
        assert_eq!((page.len(), more, held.len()), (2, true, 5));
    }

    /// Scenario: more baselines than memory is given. Guarantee: the bytes stay inside the limit, the oldest went.
    #[test]
    fn memory_is_bounded() {
        let mut held = Baselines::default();
        for hour in 0..168 {
            held.apply(baseline("m", "ttft_micros", Some(hour), i64::from(hour)), 10_000);
        }
        assert!(held.bytes() <= 10_000 && held.len() > 10);
        let left = listed(&held, "m");
        assert_eq!(left.last().map(|one| one.1), Some(Some(167)));
        assert_eq!(left.len(), held.len());
        assert!(left.iter().all(|one| one.2 >= 168 - held.len() as i64));
    }
}

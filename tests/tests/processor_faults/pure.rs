//! The oracle without any machinery: both stages as plain calls on one thread, no groups, transactions, clocks or restarts.
//!
//! The first stage reads the spans topic and has to count what the committed partials of spans count; the second reads the
//! committed partials and has to tell, record by record, what the committed outputs tell.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use infertrace_analytics::{analyst::Analyst, config::AnalystConfig, output::Output};
use infertrace_processors::{
    Config,
    insights::{self, convert},
    partials::{self, Route, SAMPLE_SOURCES, route},
    replay::stages::{Counted, Resumed, Stage1},
};
use infertrace_runtime::log::Log;
use infertrace_schemas::{
    avro::{Baseline, Insight, Rollup, SchemaIds},
    topics,
};

use super::oracle::{Cells, add_partial, kept, read};

/// What the first stage counts of the spans in `log`.
pub(super) async fn cells(log: &dyn Log, config: &Config) -> anyhow::Result<Cells> {
    let pricer = config.pricer().map_err(anyhow::Error::msg)?;
    let partitions = log.partitions(topics::PARTIALS).await?;
    let mut stage = Stage1::new(config, pricer);
    for source in 0..log.partitions(topics::SPANS).await? {
        stage.assign(source, 0, Resumed { rolled_to: 0, watermark_ms: None });
    }
    let mut counted = Vec::new();
    stage.records(&read(log, topics::SPANS).await?, &mut counted)?;
    let mut cells = Cells::new();
    for Counted { source, partials, .. } in counted {
        for partial in partials {
            match route(&partial.key, partitions) {
                Route::One(partition) => add_partial(&mut cells, partition, source, &partial),
                Route::All => {
                    (0..partitions)
                        .for_each(|partition| add_partial(&mut cells, partition, source, &partial));
                }
            }
        }
    }
    Ok(cells)
}

/// Values by topic, sorted.
type Values = HashMap<&'static str, Vec<Vec<u8>>>;

/// What the second stage tells of the committed partials in `log`.
async fn told(log: &dyn Log) -> anyhow::Result<Values> {
    let service = insights::Config::default();
    let partitions = log.partitions(topics::PARTIALS).await?;
    let sources =
        partials::all_sources(log.partitions(topics::SPANS).await?, log.partitions(topics::GPU).await?);
    let mut analysts: Vec<Analyst> = (0..partitions)
        .map(|partition| {
            let config = AnalystConfig {
                lateness_ms: service.lateness_ms,
                idle_after_ms: super::IDLE_AFTER_MS,
                most_behind_ms: super::IDLE_AFTER_MS,
                partition,
                partitions,
                ..AnalystConfig::default()
            };
            let mut analyst = Analyst::new(config);
            analyst.set_sources(&sources);
            analyst
        })
        .collect();
    let (rollups, baselines, insights) = (
        SchemaIds::embedded::<Rollup>(),
        SchemaIds::embedded::<Baseline>(),
        SchemaIds::embedded::<Insight>(),
    );
    let (mut values, mut outputs) = (Values::new(), Vec::new());
    let mut latest = HashMap::new();
    for record in read(log, topics::PARTIALS).await? {
        let payload = record.payload.as_deref().context("a record of partials without a value")?;
        let batch = partials::decode(payload)?;
        let analyst = &mut analysts[record.from.partition as usize];
        batch.partials.into_iter().for_each(|partial| analyst.partial(batch.source, partial));
        if let Some(watermark_ms) = batch.watermark_ms {
            analyst.watermark(batch.source, watermark_ms, &mut outputs);
        }
        for output in outputs.drain(..) {
            let (topic, value) = match output {
                Output::Rollup(rollup) => {
                    (topics::ROLLUPS, rollups.encode(&convert::rollup_record(&rollup))?)
                }
                Output::Baseline(one) => {
                    let value = baselines.encode(&convert::baseline_record(&one))?;
                    latest.insert(
                        (one.model, one.tenant, one.version, one.stage, one.metric, one.hour_of_week),
                        value,
                    );
                    continue;
                }
                Output::Insight(one) => (topics::INSIGHTS, insights.encode(&convert::insight_record(&one))?),
                Output::Closed { .. } => continue,
            };
            values.entry(topic).or_default().push(value);
        }
    }
    values.insert(topics::BASELINES, latest.into_values().collect());
    values.values_mut().for_each(|values| values.sort_unstable());
    Ok(values)
}

/// Fails unless the committed outputs of the second stage are what the pure code tells of its committed input.
pub(super) async fn ensure_told(log: &dyn Log) -> anyhow::Result<()> {
    let mut expected = told(log).await?;
    for topic in [topics::ROLLUPS, topics::BASELINES, topics::INSIGHTS] {
        let records = kept(topic, read(log, topic).await?).into_iter();
        let mut found: Vec<Vec<u8>> = records.filter_map(|record| Some(record.payload?.to_vec())).collect();
        found.sort_unstable();
        let expected = expected.remove(topic).unwrap_or_default();
        ensure!(
            found == expected,
            "{topic}: {} records, the pure code tells {}, and {} of them are the same",
            found.len(),
            expected.len(),
            expected.iter().filter(|value| found.binary_search(value).is_ok()).count()
        );
    }
    Ok(())
}

/// Fails unless the committed counts of spans are those of the pure code.
pub(super) fn ensure_counted(committed: &Cells, pure: &Cells) -> anyhow::Result<()> {
    let of_spans = committed.iter().filter(|((_, source, ..), _)| *source < SAMPLE_SOURCES);
    ensure!(
        of_spans.clone().count() == pure.len(),
        "{} cells of spans, the pure code counts {}",
        of_spans.count(),
        pure.len()
    );
    let different: Vec<_> = of_spans.filter(|(place, cell)| pure.get(*place) != Some(*cell)).collect();
    let shown = different.iter().take(5).map(|(place, cell)| {
        format!("\ncell {place:?} is {cell:?}, of the pure code {:?}", pure.get(*place))
    });
    ensure!(
        different.is_empty(),
        "{} cells of spans are not the pure code's:{}",
        different.len(),
        shown.collect::<String>()
    );
    Ok(())
}

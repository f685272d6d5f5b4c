//! `infertrace topics`: the topics as they should be, as they are, and who may do what with them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use infertrace_runtime::{
    log::{
        TopicSpec,
        topic_state::{TopicState, age, differences},
    },
    table::Table,
};
use infertrace_schemas::{access, topics};

use super::{block_on, exit, open};
use crate::{
    cli::Flags,
    config::Config,
    platform::{Backend, topic_specs},
};

/// What to do with the topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Topics {
    /// Shows what `create` would do, and the rights each role needs; changes nothing
    Plan(Plan),
    /// Creates the topics that are missing; existing ones stay as they are
    Create(Plain),
    /// Compares the topics with what they should be; exit code 1 when something differs
    Check(Plain),
}

/// Flags of `topics plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    flags: Flags,
    /// Principal of each role in the printed rights; {role} stands for its name
    #[arg(long, default_value = "User:infertrace-{role}")]
    principal: String,
}

/// Flags of the others.
#[derive(Debug, Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(command: &Topics) -> anyhow::Result<ExitCode> {
    let (Topics::Plan(Plan { flags, .. }) | Topics::Create(Plain { flags }) | Topics::Check(Plain { flags })) =
        command;
    let config = crate::load(flags)?;
    block_on(&config, async {
        // An embedded log that does not exist yet has no topics; looking must not make it.
        let is_new = !config.uses_kafka() && !config.data_dir.join("log").is_dir();
        if is_new && !matches!(command, Topics::Create(_)) {
            return Ok(report(command, &config, &[]));
        }
        let backend = if is_new { Backend::open(&config)? } else { open(&config).await? };
        let outcome = act(command, &config, &backend).await;
        backend.close().await;
        outcome
    })
}

async fn act(command: &Topics, config: &Config, backend: &Backend) -> anyhow::Result<ExitCode> {
    let specs = topic_specs(config);
    let found = describe(backend, &specs).await?;
    if !matches!(command, Topics::Create(_)) {
        return Ok(report(command, config, &found));
    }
    let missing: Vec<TopicSpec> =
        specs.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(spec, _)| spec.clone()).collect();
    if !missing.is_empty() {
        backend.log().create_topics(&missing).await?;
    }
    for spec in &missing {
        println!("created {}", spec.name);
    }
    println!("{} created, {} were there", missing.len(), specs.len() - missing.len());
    let found = describe(backend, &specs).await?;
    print_differences(&specs, &found);
    Ok(ExitCode::SUCCESS)
}

async fn describe(backend: &Backend, specs: &[TopicSpec]) -> anyhow::Result<Vec<Option<TopicState>>> {
    let names: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
    Ok(match backend {
        Backend::Kafka(log) => log.describe(&names).await?,
        Backend::Embedded(log) => names.iter().map(|name| log.describe(name)).collect(),
    })
}

/// Prints a table and the differences; exit code 1 for a `check` that found some.
fn report(command: &Topics, config: &Config, found: &[Option<TopicState>]) -> ExitCode {
    let specs = topic_specs(config);
    let state = |index: usize| found.get(index).and_then(Option::as_ref);
    let mut table = Table::new(&["topic", "partitions", "copies", "retention", "cleanup", "key", "is"]);
    for (index, (spec, topic)) in specs.iter().zip(topics::all(config.partitions)).enumerate() {
        let is = match state(index) {
            None => "to be created".to_owned(),
            Some(found) if differences(spec, Some(found)).is_empty() => "as it should be".to_owned(),
            Some(found) => one_line(found),
        };
        let copies = if config.uses_kafka() { spec.replication.to_string() } else { "1".to_owned() };
        let cleanup = if spec.compacted { "compact" } else { "delete" };
        table.row([
            spec.name.to_string(),
            spec.partitions.to_string(),
            copies,
            age(spec.retention),
            cleanup.to_owned(),
            topic.key.to_owned(),
            is,
        ]);
    }
    print!("{table}");
    match command {
        Topics::Plan(plan) => {
            let there: Vec<Option<TopicState>> =
                (0..specs.len()).map(|index| state(index).cloned()).collect();
            print_existing_differences(&specs, &there);
            if config.uses_kafka() {
                print_rights(config, &plan.principal);
            }
            ExitCode::SUCCESS
        }
        _ => {
            let there: Vec<Option<TopicState>> =
                (0..specs.len()).map(|index| state(index).cloned()).collect();
            exit(print_differences(&specs, &there) == 0)
        }
    }
}

fn one_line(found: &TopicState) -> String {
    let copies = found.replication.map_or_else(String::new, |copies| format!(", {copies} copies"));
    let cleanup = if found.compacted { "compact" } else { "delete" };
    format!("{} partitions{copies}, {}, {cleanup}", found.partitions, age(found.retention))
}

fn print_existing_differences(specs: &[TopicSpec], found: &[Option<TopicState>]) {
    for (spec, found) in specs.iter().zip(found).filter(|(_, found)| found.is_some()) {
        for difference in differences(spec, found.as_ref()) {
            println!("left as it is: {difference}");
        }
    }
}

fn print_differences(specs: &[TopicSpec], found: &[Option<TopicState>]) -> usize {
    let mut count = 0;
    for (spec, found) in specs.iter().zip(found) {
        for difference in differences(spec, found.as_ref()) {
            println!("{difference}");
            count += 1;
        }
    }
    count
}

fn print_rights(config: &Config, principal: &str) {
    let groups = access::Groups {
        processor: &config.processor.group,
        samples: &config.processor.samples_group,
        insights: &config.insights.group,
        stitching: &config.stitching.group,
        delivery: &config.delivery.group,
        sink: &config.sink.group,
        clickhouse: &config.sink.clickhouse.group,
    };
    println!("\n# The least rights of each role: append each line to");
    println!(
        "#   kafka-acls.sh --bootstrap-server {} --command-config admin.properties",
        config.kafka.brokers
    );
    for role in access::all(groups) {
        println!("\n# infertrace {}", role.role);
        for line in role.lines(&principal.replace("{role}", role.role)) {
            println!("{line}");
        }
    }
}

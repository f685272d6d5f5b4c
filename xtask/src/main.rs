//! Project tasks. `cargo xtask` builds only this small program; it installs and builds the rest when asked.

mod bench;
mod build;
mod setup;
mod test;
mod up;

use anyhow::bail;

const USAGE: &str = "\
cargo xtask up [FLAGS]      build everything, start `infertrace up FLAGS`, feed it with the load generator
cargo xtask test [FILTER]   install what tests need, run all tests
cargo xtask bench NAME      gateway | path | overload | reader | transcode | parquet | processor | query | log | loadgen
cargo xtask faults NAME     ledger (5 M spans into Kafka while every role is killed twice) | processor (20 rounds of kills,
                            zombies, rebalances and broker deaths; what is committed equals an undisturbed run)
cargo xtask ui              build the web UI
cargo xtask setup           install what the tests need
cargo xtask lint            rustfmt, clippy, cargo deny where it is installed";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("up") => up::run(rest),
        Some("test") => test::run(rest),
        Some("bench") => bench::run(rest),
        Some("faults") => test::faults(rest),
        Some("ui") => build::ui().map(|dist| println!("{}", dist.display())),
        Some("setup") => setup::for_tests(),
        Some("lint") => test::lint(),
        Some("help" | "--help" | "-h") | None => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("unknown task {other:?}\n{USAGE}"),
    }
}

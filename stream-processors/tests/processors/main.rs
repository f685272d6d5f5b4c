//! The processors over logs in memory, with faults on demand, and over the embedded log.

mod cost;
mod delivery;
mod insights;
mod replay;
mod replay_live;
mod samples;
mod service;
mod standby;
mod stitch;
mod stitching;
mod support;

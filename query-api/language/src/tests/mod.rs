//! Properties of the whole, and its tiers against one another.

mod differential;
mod properties;
mod strategies;

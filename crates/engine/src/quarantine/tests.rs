//! The quarantine as a whole. Each part has its own file below.

mod admission;
mod csv;
mod desk;
mod guard;
mod model;
mod seed_table;
mod support;
mod trial;

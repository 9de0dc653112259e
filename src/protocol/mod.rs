//! PostgreSQL's wire format (protocol 3.0 to 3.2) as pure code: no descriptor, clock or logger.
//!
//! Layers, lowest first: [`reader`] (bytes) and [`walker`] (message headers in a stream of chunks, the relay's hot
//! path) → [`startup`], [`options`] and [`settings`] (a client's first packet), [`backend`] (views of server messages),
//! [`parameters`] → [`write`](mod@write) (messages of both directions) → [`tracker`] (what a stream means for pooling).
//! Only `net` and its users do I/O with them. Nothing a peer sends makes any of this panic.
//!
//! **Source**: PostgreSQL's documentation, chapter "Frontend/Backend Protocol", and the C functions named at each item.

#![forbid(unsafe_code)]

pub mod backend;
pub mod options;
pub mod parameters;
pub mod reader;
pub mod report;
pub mod settings;
pub mod startup;
pub mod tags;
pub mod tracker;
#[cfg(test)]
mod tracker_model;
pub mod walker;
pub mod write;

pub use report::{Report, Severity, SqlState};
pub use tags::{BackendTag, FrontendTag};

//! `reconciled` holds a Linux server at the state that a git repository describes.
//!
//! The pipeline, one module each, in reading order:
//!
//! ```text
//!  git ──► source ──► manifest ──► kind ──► plan ──► policy ──► rehearse ──► apply ──► probe ──► committed
//!          worker,     resources    look:    order,   approved    guards in    swap,     healthy    (or: invert,
//!          no root                  claims   wakes    or why not  the future   wake      or why     wake, probe)
//! ```
//!
//! `cycle` reads like this picture. `journal` and `state` make it survive a crash at any point; `audit` records it.

pub mod accounts;
pub mod apply;
pub mod audit;
pub mod bus;
pub mod change;
pub mod client;
pub mod config;
pub mod ctl;
pub mod cycle;
pub mod daemon;
pub mod desk;
pub mod diagnose;
pub mod digest;
pub mod facts;
pub mod failpoint;
pub mod guard;
pub mod host;
pub mod journal;
pub mod kind;
pub mod ledger;
pub mod lifeline;
pub mod manifest;
pub mod packages;
pub mod path;
pub mod plan;
pub mod policy;
pub mod postgres;
pub mod probe;
pub mod push;
pub mod rehearse;
pub mod report;
pub mod secrets;
pub mod source;
pub mod state;
pub mod subtree;
pub mod tasks;
pub mod timespan;
pub mod ufw;
pub mod units;
pub mod venv;
pub mod verbs;
pub mod watch;
pub mod worker;

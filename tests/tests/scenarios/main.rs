//! Scenarios on booted hosts, from the built package: each file is about one subject. One program, so that none of them waits for the
//! slowest of another file.

mod accounts;
mod audit;
mod bad_input;
mod commands;
mod crash;
mod diagnose;
mod django;
mod drift;
mod events;
mod files;
mod guards;
mod handover;
mod harness;
mod install;
mod layers;
mod lifelines;
mod operate;
mod packages;
mod postgres;
mod probes;
mod pull;
mod push;
mod recovery;
mod rehearsal;
mod restarts;
mod secrets;
mod shop;
mod ufw;
mod unit_files;
mod units;
mod venv;

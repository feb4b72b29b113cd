//! Test hosts and scenarios.

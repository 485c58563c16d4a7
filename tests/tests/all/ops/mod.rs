//! The operator's view and tools: status, metrics, traces, health, dead letters.

mod dead_letters;
mod dead_letters_tool;
mod health;
mod telemetry;

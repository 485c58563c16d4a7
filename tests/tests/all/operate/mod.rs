//! A server seen and handled from outside its programs: pauses, removals, plans, and what an inspector shows.

mod audit;
mod inspector;
mod pause;
mod remove;

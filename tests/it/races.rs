//! Contested changes by many callers at once: in process, where every order of steps can be walked, and over NATS
//! against the program.

mod in_process;
mod over_nats;

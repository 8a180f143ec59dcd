//! The program on its data directory: killed, started again, and with everything wrong that can be with a disk.

mod kills;
mod restarts;

mod disks;
mod refusals;

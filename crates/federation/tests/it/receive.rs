//! What comes by transactions: the answer per event, the queue, gaps, EDUs.

mod edus;
mod gaps;
mod policy;
mod transactions;

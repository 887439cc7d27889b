//! Everything that leaves the server over HTTP leaves here: one connector with a filter on addresses, bounds on time and
//! size, and extra certificate authorities.

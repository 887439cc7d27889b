//! Keys of devices and users.

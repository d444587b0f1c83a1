//! The life of a message, decided.
//!
//! The engine never acts. It is told what happened ([`event::Event`]) and at what time, and answers what
//! should be done ([`event::Command`]). It owns no clock, socket, file, thread or source of chance.

pub mod work;

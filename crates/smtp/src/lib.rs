//! SMTP, LMTP, POP3 and IMAP conversations as state machines over octets.
//!
//! Nothing here owns a socket, a clock, a thread or a source of chance. The shell feeds octets and
//! the time, writes out what it is given, and carries out the few events that need the world: a TLS
//! handshake, a password check, a commit to disk. So the same sessions run live, in tests as
//! transcripts, and in the simulator on a virtual clock.
//!
//! - [`client`]: the sending side, with PIPELINING across messages (RFC 5321, 2920, 3207, 1870,
//!   6152, 6531, 2033).
//! - [`server`]: the receiving side of the submission and bounce listeners (RFC 6409, 4954, 3030).
//! - [`mailbox`], [`pop3`], [`imap`]: fetching mail from mailboxes (RFC 1939, 2449, 2595, 9051).
//! - [`reply_reader`]: octets to replies, tolerant in form and strict in size.
//! - [`content`]: dot-stuffing and the check that content can travel at all.

pub mod client;
pub mod content;
pub mod imap;
pub mod mailbox;
pub mod pop3;
pub mod reply_reader;
pub mod server;

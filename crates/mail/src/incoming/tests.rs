//! Tests of reading mail.

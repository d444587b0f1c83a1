//! Who may log in, and what their mail gets.
//!
//! Passwords are compared by their digests, all of them and in constant time, so that neither the
//! length of a password nor how much of it was right can be measured, and an unknown name costs what a known
//! one does.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use mail::id::Priority;

use crate::config::SubmissionUser;

/// A user and what the user's mail gets.
pub(super) struct User {
    name: String,
    password: Digest,
    /// Affinity of the mail, unless the message says otherwise.
    pub(super) affinity: String,
    /// Priority of the mail, unless the message says otherwise.
    pub(super) priority: Priority,
}

/// All users.
pub(super) struct Users(Vec<User>);

impl Users {
    pub(super) fn new(users: &[SubmissionUser]) -> Self {
        let user = |user: &SubmissionUser| User {
            name: user.name.clone(),
            password: digest(&SHA256, user.password.expose().as_bytes()),
            affinity: user.affinity.clone(),
            priority: user.priority,
        };
        Self(users.iter().map(user).collect())
    }

    /// Whether this name and password belong together.
    pub(super) fn may_log_in(&self, name: &str, password: &str) -> bool {
        let given = digest(&SHA256, password.as_bytes());
        let mut allowed = false;
        for user in &self.0 {
            let right = verify_slices_are_equal(user.password.as_ref(), given.as_ref()).is_ok();
            allowed |= right & (user.name == name);
        }
        allowed
    }

    /// The user of this name.
    pub(super) fn get(&self, name: &str) -> Option<&User> {
        self.0.iter().find(|user| user.name == name)
    }
}

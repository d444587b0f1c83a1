//! `GET /metrics`: OpenMetrics text for Prometheus.
//!
//! Labels come from closed or short lists: rule names, wait reasons, states. Domains and addresses are never labels,
//! because their number has no bound and they are personal data.

use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use engine::explain::GroupView;
use engine::quarantine::Channel;
use node::deliverability::SyncOutcome;
use node::inmail::InmailCounts;
use node::node::Questions;
use node::nondeliverables::NonDeliverables;
use node::submission::SubmissionCounts;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use quota::SourceDayView;
use store::Totals;

use crate::app::{Shared, asked, stored};
use web::Problem;

type Labels = [(&'static str, String); 1];
type Gauges = Family<Labels, Gauge>;

/// `GET /metrics`
pub(crate) async fn metrics(State(app): State<Shared>) -> Result<Response, Problem> {
    let questions = &app.questions;
    let groups = asked(questions.groups()).await?;
    let sizes = asked(questions.sizes()).await?;
    let version = asked(questions.rules()).await?.version();
    let totals = stored(app.intake.read(|reads| reads.totals())).await?;
    let alerts = stored(questions.alerts()).await?;
    let reactions = asked(questions.reactions()).await?;
    let mut registry = Registry::with_prefix("mailweir");
    let about = Info::new(vec![
        ("node", questions.config().node.name.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    registry.register("node", "This process", about);
    events(&mut registry, &app);
    nondeliverables(&mut registry, app.questions.nondeliverables());
    if let Some(counts) = app.questions.submission() {
        submission(&mut registry, counts);
    }
    queue_sizes(&mut registry, &totals);
    let by_code = Gauges::default();
    for alert in &alerts {
        by_code.get_or_create(&[("code", alert.code.clone())]).inc();
    }
    registry.register("alerts", "Alerts that stand", by_code);
    let by_rule = Gauges::default();
    for reaction in &reactions.in_force {
        by_rule.get_or_create(&[("rule", reaction.rule.clone())]).inc();
    }
    registry.register("reactions", "Reactions in force", by_rule);
    engine_sizes(&mut registry, sizes, &groups);
    let healthy = i64::from(app.intake.health().is_ok());
    gauge(&mut registry, "store_healthy", "1: the store commits; 0: it does not", healthy);
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    gauge(&mut registry, "rules_version", "Version of the MX rules in force", version);
    deliverability(&mut registry, questions);
    let (sources, open) = asked(questions.warm_up_figures()).await?;
    warm_up(&mut registry, &sources, open);
    // Seconds are what Prometheus counts in; the loss of digits is far below the clock's own error.
    #[allow(clippy::cast_precision_loss)]
    let drift = questions.clock_drift_micros() as f64 / 1e6;
    registry.register_with_unit(
        "clock_drift",
        "How far the node's time is ahead of the wall clock",
        Unit::Seconds,
        ConstGauge::new(drift),
    );
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|fault| Problem::try_later(format!("the metrics cannot be written: {fault}")))?;
    let mut response = text.into_response();
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    Ok(response)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    registry.register(name, help, ConstGauge::new(value));
}

/// The bundle in force and the instance that it comes from.
fn deliverability(registry: &mut Registry, questions: &Questions) {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let now = questions.now();
    let in_force = questions.in_force();
    let published = in_force.layer.published();
    let version = published.map_or(0, |published| number(published.version));
    gauge(registry, "bundle_version", "The bundle of rules in force; 0: none", version);
    if let Some(published) = published {
        let age = number(now.since(published.created).as_secs());
        gauge(registry, "bundle_age_seconds", "Time since the bundle in force was made", age);
        let left = number(published.expires.since(now).as_secs());
        gauge(registry, "bundle_left_seconds", "Time until it expires; 0: it has", left);
    }
    let Some(instance) = questions.instance() else { return };
    let heard = instance.last_contact.or(instance.since).unwrap_or(now);
    for (name, help, value) in [
        (
            "instance_silent_seconds",
            "Time since the deliverability instance answered as it should",
            now.since(heard).as_secs(),
        ),
        ("instance_failures", "Failures since then", instance.failures.into()),
        (
            "instance_reports_waiting",
            "Reports that the instance has not taken yet",
            instance.reports_waiting as u64,
        ),
    ] {
        gauge(registry, name, help, number(value));
    }
    let counts = questions.sync_counts();
    let syncs = Counters::<1>::default();
    for outcome in SyncOutcome::ALL {
        let label = [("outcome", outcome.word().to_owned())];
        syncs.get_or_create(&label).inc_by(counts.of(outcome));
    }
    registry.register("bundle_syncs", "Synchronisations by outcome", syncs);
    let texts = Counters::<1>::default();
    for (word, value) in [("taken", &counts.texts), ("held_back", &counts.texts_held_back)] {
        texts.get_or_create(&[("what", word.to_owned())]).inc_by(value.load(Relaxed));
    }
    registry.register("texts_shared", "Unknown texts on their way to the instance", texts);
}

/// What sources sent within a day, beside their caps, and what waits for a person. Sources are few.
fn warm_up(registry: &mut Registry, sources: &[SourceDayView], open: usize) {
    let (sent, caps) = (Gauges::default(), Gauges::default());
    for source in sources {
        let labels = [("source", source.source.0.to_string())];
        sent.get_or_create(&labels).set(i64::try_from(source.used_in_day).unwrap_or(i64::MAX));
        if let Some(cap) = source.per_day {
            caps.get_or_create(&labels).set(cap.into());
        }
    }
    let help = "Messages of a source in any 24 hours up to now";
    registry.register("source_day_messages", help, sent);
    let help = "The warm-up cap on them; absent for sources that are warm";
    registry.register("warm_up_day_messages_most", help, caps);
    let open = i64::try_from(open).unwrap_or(i64::MAX);
    gauge(registry, "level_proposals_open", "Proposals that wait for a person", open);
}

/// Counters of what happened since the start of the process.
fn events(registry: &mut Registry, app: &Shared) {
    let counts = app.questions.counts();
    for (name, help, value) in [
        ("messages_sent", "Messages taken by remote servers", &counts.sent),
        ("messages_failed", "Messages refused for good", &counts.failed),
        ("attempts_deferred", "Attempts after which the message waits again", &counts.deferred),
        ("messages_ended", "Messages that expired or were cancelled", &counts.ended),
        ("connections", "Connections begun", &counts.connections),
        ("sessions_failed", "Conversations that failed as a whole", &counts.sessions_failed),
    ] {
        registry.register(name, help, ConstCounter::new(value.load(Relaxed)));
    }
    let lost = app.questions.log_lines_lost();
    let help = "Lines of the delivery log that could not be written";
    registry.register("log_lines_lost", help, ConstCounter::new(lost));
    let in_doubt = i64::try_from(app.questions.in_doubt()).unwrap_or(i64::MAX);
    let help = "Messages taken by servers whose outcomes are not on the disk";
    gauge(registry, "messages_in_doubt", help, in_doubt);
}

type Counters<const LABELS: usize> = Family<[(&'static str, String); LABELS], Counter>;

/// What servers say of addresses and what follows from it, and mail that comes in.
fn nondeliverables(registry: &mut Registry, all: &NonDeliverables) {
    let counts = all.counts();
    let failures = Counters::<3>::default();
    for (reason, failure_type, channel, count) in counts.failures() {
        let way = match channel {
            Channel::Synchronous => "session",
            Channel::Asynchronous => "mail",
        };
        let labels = [
            ("reason", reason.to_string()),
            ("type", failure_type.to_string()),
            ("way", way.into()),
        ];
        failures.get_or_create(&labels).inc_by(count);
    }
    registry.register("failures", "Failures by reason, type and way", failures);
    let kinds = Counters::<1>::default();
    for (kind, count) in counts.kinds() {
        kinds.get_or_create(&[("kind", kind.to_string())]).inc_by(count);
    }
    registry.register("returned_mails", "Mails that came back, by kind", kinds);
    let families: [(_, _, _, &[_]); 3] = [
        (
            "bounces_uncounted",
            "Reports that change nothing",
            "why",
            &[
                ("forged", &counts.forged),
                ("foreign", &counts.foreign),
                ("repeated", &counts.repeated),
            ],
        ),
        (
            "addresses_changed",
            "Addresses that came into a state",
            "to",
            &[
                ("quarantined", &counts.quarantined),
                ("denylisted", &counts.denylisted),
                ("released", &counts.released),
            ],
        ),
        (
            "recipients_not_admitted",
            "Recipients to whom nothing was sent",
            "where",
            &[("intake", &counts.refused), ("queue", &counts.withdrawn)],
        ),
    ];
    for (name, help, label, values) in families {
        let family = Counters::<1>::default();
        for (word, value) in values {
            family.get_or_create(&[(label, (*word).to_owned())]).inc_by(value.load(Relaxed));
        }
        registry.register(name, help, family);
    }
    for (name, help, value) in [
        ("unsubscribed", "Unsubscriptions", &counts.unsubscribed),
        ("evidence_left_out", "Evidence left out because the store was slow", &counts.left_out),
        ("outage_alerts", "Times that the outage guard tripped", &counts.guard_alerts),
    ] {
        registry.register(name, help, ConstCounter::new(value.load(Relaxed)));
    }
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let snapshot = all.snapshot();
    let addresses = Family::<[(&'static str, String); 2], Gauge>::default();
    for (state, reason, count) in &snapshot.addresses {
        let reason = reason.map_or_else(String::new, |reason| reason.to_string());
        let labels = [("state", state.to_string()), ("reason", reason)];
        addresses.get_or_create(&labels).set(number(*count));
    }
    registry.register("addresses", "Addresses that are known, by state and reason", addresses);
    for (name, help, value) in [
        ("texts_to_qualify", "Texts that nobody has qualified", snapshot.texts_to_qualify),
        ("outage_holds", "Providers held by the outage guard", snapshot.holds),
        ("quarantine_tasks", "Tasks of the quarantine that are not done", snapshot.tasks),
        ("addresses_in_memory", "Addresses that admission knows", all.known_addresses() as u64),
    ] {
        gauge(registry, name, help, number(value));
    }
    if let Some(counts) = all.inmail() {
        inmail(registry, counts);
    }
}

/// The submission listener.
fn submission(registry: &mut Registry, counts: &SubmissionCounts) {
    for (name, help, label, values) in [
        (
            "submission_connections",
            "Connections to the submission listener",
            "admission",
            [("accepted", &counts.connections_accepted), ("refused", &counts.connections_refused)],
        ),
        (
            "submission_messages",
            "Messages by SMTP that were answered with 250",
            "kind",
            [("new", &counts.messages_accepted), ("repeated", &counts.messages_repeated)],
        ),
        (
            "submission_replies",
            "Refusals by SMTP, of whatever",
            "kind",
            [("temporary", &counts.replies_temporary), ("permanent", &counts.replies_permanent)],
        ),
        (
            "submission_logins",
            "Logins by SMTP",
            "result",
            [("accepted", &counts.logins_accepted), ("failed", &counts.logins_failed)],
        ),
    ] {
        let family = Counters::<1>::default();
        for (word, value) in values {
            family.get_or_create(&[(label, word.to_owned())]).inc_by(value.load(Relaxed));
        }
        registry.register(name, help, family);
    }
    for (name, help, value) in [
        ("submission_recipients", "Recipients accepted by SMTP", &counts.recipients_accepted),
        ("submission_octets", "Octets of messages accepted by SMTP", &counts.octets_accepted),
    ] {
        registry.register(name, help, ConstCounter::new(value.load(Relaxed)));
    }
    let open = i64::try_from(counts.connections_open.load(Relaxed)).unwrap_or(i64::MAX);
    gauge(registry, "submission_connections_open", "Open connections of submitters", open);
}

fn inmail(registry: &mut Registry, counts: &InmailCounts) {
    let what = Counters::<1>::default();
    for (word, value) in [
        ("kept", &counts.kept),
        ("repeated", &counts.repeated),
        ("not_kept", &counts.not_kept),
        ("processed", &counts.processed),
        ("put_off", &counts.put_off),
        ("kept_aside", &counts.kept_aside),
        ("dropped_aside", &counts.dropped_aside),
        ("forwarded", &counts.forwarded),
        ("not_forwarded", &counts.not_forwarded),
        ("spooled", &counts.spooled),
        ("relay_denied", &counts.relay_denied),
    ] {
        what.get_or_create(&[("what", word.to_owned())]).inc_by(value.load(Relaxed));
    }
    registry.register("inmail", "Mail that came in, by what became of it", what);
    let waiting = i64::try_from(counts.waiting.load(Relaxed)).unwrap_or(i64::MAX);
    gauge(registry, "inmail_waiting", "Mails that wait to be processed", waiting);
    let (fetched, failed) = (Counters::<1>::default(), Counters::<1>::default());
    for mailbox in &counts.mailboxes {
        let label = [("mailbox", mailbox.name.clone())];
        fetched.get_or_create(&label).inc_by(mailbox.fetched.load(Relaxed));
        failed.get_or_create(&label).inc_by(mailbox.sessions_failed.load(Relaxed));
    }
    registry.register("mailbox_fetched", "Mails fetched from a mailbox", fetched);
    registry.register("mailbox_failed_sessions", "Sessions with a mailbox that failed", failed);
}

fn queue_sizes(registry: &mut Registry, totals: &Totals) {
    let all = &totals.counters;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    gauge(registry, "queue_messages", "Messages that wait in the queue", number(all.queued()));
    gauge(
        registry,
        "claimed_messages",
        "Messages taken from the queue and not settled",
        number(all.in_flight),
    );
    let deliveries = Gauges::default();
    // A state without deliveries is a 0, not a gap.
    for (state, count) in [
        ("draft", totals.draft),
        ("running", totals.running),
        ("paused", totals.paused),
        ("cancelled", totals.cancelled),
        ("finished", totals.finished),
    ] {
        deliveries.get_or_create(&[("state", state.to_owned())]).set(number(count));
    }
    registry.register("deliveries", "Deliveries by state", deliveries);
    let recipients = Gauges::default();
    for (what, count) in
        [("accepted", all.accepted), ("refused", all.refused), ("duplicate", all.duplicates)]
    {
        recipients.get_or_create(&[("admission", what.to_owned())]).set(number(count));
    }
    registry.register(
        "recipients",
        "Recipients of all deliveries that ever were, by admission",
        recipients,
    );
}

fn engine_sizes(registry: &mut Registry, sizes: (usize, usize, usize), groups: &[GroupView]) {
    let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let (window, connections, domains) = sizes;
    gauge(registry, "window_messages", "Messages in the engine's windows", number(window));
    gauge(registry, "connections_open", "Connections open or being opened", number(connections));
    gauge(registry, "domains_known", "Domains that the engine knows", number(domains));
    gauge(registry, "groups", "MX groups that the engine knows", number(groups.len()));
    let (waiting, windows, open) = (Gauges::default(), Gauges::default(), Gauges::default());
    for group in groups {
        if let Some(found) = &group.waiting {
            waiting.get_or_create(&[("reason", found.reason.name().to_owned())]).inc();
        }
        let rule = [("rule", group.rule.clone())];
        windows.get_or_create(&rule).inc_by(number(group.window));
        open.get_or_create(&rule).inc_by(number(group.connections));
    }
    registry.register("groups_waiting", "MX groups with mail that waits, by reason", waiting);
    registry.register("rule_window_messages", "Messages in windows by MX rule", windows);
    registry.register("rule_connections_open", "Connections by MX rule", open);
}

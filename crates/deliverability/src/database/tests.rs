use super::*;
use crate::tests::author;

/// What is old is found by an index, however many rows there are: nothing is read from end to end.
#[test]
fn what_is_old_is_found_by_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path()).unwrap();
    for (table, column) in
        [("fetch", "at"), ("report", "at"), ("trail", "at"), ("text", "stated_at")]
    {
        let plan = format!("EXPLAIN QUERY PLAN DELETE FROM {table} WHERE {column} < 7");
        let plan: String =
            database.connection.query_row(&plan, [], |row| row.get("detail")).unwrap();
        assert!(plan.starts_with("SEARCH") && plan.contains("INDEX"), "{table}: {plan}");
    }
}

#[test]
fn accepted_rules_have_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let mut database = Database::open(folder.path()).unwrap();
    let fill = "WITH RECURSIVE counted (number) AS \
                (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < ?1) \
                INSERT INTO accepted_rule SELECT 'rule-' || number, '', 'anna', 1, '' FROM counted";
    database.connection.execute(fill, [signed(MOST_ACCEPTED_RULES - 1)]).unwrap();
    let qualification = rules::bounce::Qualification {
        reason: mail::failure::Reason::Refused,
        failure_type: mail::failure::FailureType::Soft,
        status: rules::bounce::QualificationStatus::Keep,
    };
    let mut keep = |name| {
        let rule = Some((name, "the rule"));
        let saying = Saying { said_of: "c-1", texts: &[], qualification, rule, what: "said" };
        database.qualify(&saying, Timestamp::from_secs(7), &author("")).unwrap()
    };
    for (name, wanted) in [
        ("the-last", Kept::Kept),
        ("one-more", Kept::TooManyRules),
        // One that is there is said otherwise.
        ("rule-3", Kept::Kept),
    ] {
        assert_eq!(keep(name), wanted, "{name}");
    }
    assert_eq!(database.accepted_rules().unwrap().len() as u64, MOST_ACCEPTED_RULES);
    assert_eq!(database.trail(9).unwrap().len(), 2, "what is refused leaves no line");
}

/// A database of the program before: what clients were only offered, or what another instance has published, does not count.
#[test]
fn a_database_without_holders_knows_what_clients_said_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let before = Layout {
        application_id: LAYOUT.application_id,
        migrations: &[include_str!("schema_1.sql")],
    };
    let path = folder.path().join(DATABASE_FILE);
    let connection = sqlite_file::open(&path, &before, CACHE, &|_| Ok(())).unwrap();
    connection
        .execute_batch(
            "INSERT INTO bundle VALUES (7, '7-ab', 1, 2, '0.1.0', 'k', '', 1, 'anna', 100, 0, 1, 1, '', 1, x'00', x'00');
             INSERT INTO client VALUES ('has', x'01', 1, 'anna', 7, 7, '', 5);
             INSERT INTO client VALUES ('offered', x'02', 1, 'anna', 7, 3, '', 5);
             INSERT INTO client VALUES ('foreign', x'03', 1, 'anna', 0, 99, '', NULL);",
        )
        .unwrap();
    drop(connection);
    let database = Database::open(folder.path()).unwrap();
    let standings = database.standings().unwrap();
    let has: Vec<(&str, u64)> =
        standings.iter().map(|client| (client.name.as_str(), client.has)).collect();
    assert_eq!(has, [("foreign", 0), ("has", 7), ("offered", 0)]);
    let totals = database.stage_totals(7).unwrap();
    assert_eq!(totals.given, 1);
}

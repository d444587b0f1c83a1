use std::sync::atomic::AtomicUsize;

use tokio::net::TcpListener;

use super::*;

const HEADER: &[u8] = b"Message-ID: <i-a-b-c@shop.example>\r\nTo: ann@x.example\r\n\r\nbody";

fn taken(wording: Wording) -> Taken<'static> {
    Taken {
        sender: b"b-a-b-c@bounces.shop.example",
        recipient: b"ann@x.example",
        header: HEADER,
        host: "mx.x.example",
        wording,
        number: 17,
    }
}

fn returns(to: SocketAddr) -> Arc<Returns> {
    let after = Span::from_millis(1);
    Arc::new(Returns::new(ReturnsConfig { to, after, complaints_to: None }))
}

#[test]
fn each_dialect_names_recipient_cause_and_message() {
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    for (wording, part) in [
        (Wording::Generic, "Status: 5.1.1"),
        (Wording::Microsoft, "Status: 5.5.0"),
        (Wording::Gmx, "X-Failed-Recipients: ann@x.example"),
        (Wording::Yahoo, "<ann@x.example>:\r\n"),
    ] {
        let returns = returns(to);
        returns.send_back(Return::Bounce(Situation::UnknownUser), &taken(wording));
        let waiting = lock(&returns.waiting);
        let letter = &waiting[0];
        assert_eq!(letter.to, "b-a-b-c@bounces.shop.example");
        assert!(letter.text.contains(part), "{wording:?}: {}", letter.text);
        assert!(letter.text.contains("<i-a-b-c@shop.example>"), "{wording:?}");
        assert!(!letter.text.contains("body"), "the header alone comes back");
    }
}

#[test]
fn some_providers_say_not_who_complains() {
    let returns = returns(SocketAddr::from(([127, 0, 0, 1], 9)));
    returns.send_back(Return::Complaint, &taken(Wording::Yahoo));
    returns.send_back(Return::Complaint, &taken(Wording::Microsoft));
    let waiting = lock(&returns.waiting);
    assert_eq!(waiting[0].to, "complaints@bounces.shop.example");
    assert!(!waiting[0].text.contains("ann@x.example"));
    assert!(waiting[1].text.contains("Original-Rcpt-To: <ann@x.example>"));
}

#[test]
fn nothing_answers_the_null_sender_or_an_address_that_is_none() {
    let returns = returns(SocketAddr::from(([127, 0, 0, 1], 9)));
    for sender in [&b""[..], b"nobody", b"a@x\r\nRCPT TO:<b@y>"] {
        let taken = Taken { sender, ..taken(Wording::Generic) };
        returns.send_back(Return::OutOfOffice, &taken);
    }
    assert_eq!(returns.report().waiting, 0);
}

#[test]
fn only_this_machine_gets_returns() {
    let config = |to: &str, complaints_to: Option<&str>| ReturnsConfig {
        to: to.parse().unwrap(),
        after: Span::from_millis(1),
        complaints_to: complaints_to.map(str::to_owned),
    };
    assert!(config("192.0.2.1:25", None).check().is_err());
    assert!(config("127.0.0.1:25", Some("a b@c")).check().is_err());
    config("127.0.0.1:25", Some("fbl@shop.example")).check().unwrap();
}

/// A listener that answers each line with what `answer` says, and counts final dots.
async fn listener(answer: fn(&str) -> &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dots = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dots);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let _ = stream.write_all(b"220 here\r\n").await;
            let (mut line, mut in_data) = (String::new(), false);
            while matches!(stream.read_line(&mut line).await, Ok(1..)) {
                if !in_data || line == ".\r\n" {
                    counted.fetch_add(usize::from(in_data), Ordering::Relaxed);
                    let said = answer(&line);
                    in_data = said.starts_with("354");
                    let _ = stream.write_all(said.as_bytes()).await;
                }
                line.clear();
            }
        }
    });
    (address, dots)
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to it");
}

#[tokio::test]
async fn returns_arrive_over_smtp() {
    let (address, dots) = listener(|line| match line.get(..4) {
        Some("DATA") => "354 go on\r\n",
        Some("QUIT") => "221 bye\r\n",
        Some("RCPT") if line.contains("complaints@") => "550 not here\r\n",
        _ => "250 ok\r\n",
    })
    .await;
    let returns = returns(address);
    let running = tokio::spawn(Arc::clone(&returns).carry());
    returns.send_back(Return::Bounce(Situation::MailboxFull), &taken(Wording::Generic));
    returns.send_back(Return::OutOfOffice, &taken(Wording::Generic));
    returns.send_back(Return::Complaint, &taken(Wording::Generic));
    until(|| {
        let report = returns.report();
        report.bounces == 1 && report.out_of_office == 1 && report.refused == 1
    })
    .await;
    let report = returns.report();
    assert_eq!(report.bounces_by_cause, [(Situation::MailboxFull, 1)].into());
    assert_eq!((report.taken(), report.waiting), (2, 0));
    assert_eq!(dots.load(Ordering::Relaxed), 2);
    running.abort();
}

#[tokio::test]
async fn a_listener_that_is_not_there_is_tried_some_times() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let returns = returns(address);
    let running = tokio::spawn(Arc::clone(&returns).carry());
    returns.send_back(Return::OutOfOffice, &taken(Wording::Generic));
    until(|| returns.report().failed == 1).await;
    assert_eq!(returns.report().waiting, 0);
    running.abort();
}

#[tokio::test]
async fn none_is_left_behind_where_a_connection_ends() {
    let (address, dots) = listener(|line| match line.get(..4) {
        Some("DATA") => "354 go on\r\n",
        Some("QUIT") => "221 bye\r\n",
        _ => "250 ok\r\n",
    })
    .await;
    let returns = returns(address);
    let many = 2 * PER_CONNECTION as usize + 1;
    for _ in 0..many {
        returns.send_back(Return::OutOfOffice, &taken(Wording::Generic));
    }
    let running = tokio::spawn(Arc::clone(&returns).carry());
    until(|| returns.report().out_of_office == many as u64).await;
    assert_eq!(dots.load(Ordering::Relaxed), many);
    running.abort();
}

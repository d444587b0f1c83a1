use super::*;

/// A node in a folder of its own that can reach nobody.
fn alone() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = "data_dir = \"data\"\n[[source]]\npublic_id = 1\naddress = \"127.0.0.41\"\n\
                helo = \"m1.sender.example\"\n[dns]\nservers = [\"127.0.0.1:9\"]\n\
                [safety]\nonly_targets = [\"127.0.0.0/8\"]\n[submission]\nlisten = []\n\
                [http]\nlisten = []\n";
    let config = Config::parse(text, "test.toml", folder.path()).unwrap();
    (Node::start(config).unwrap(), folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_loop_panics_is_known_to_have_ended() {
    let (node, _folder) = alone();

    let questions = node.questions();
    assert!(questions.sizes().await.is_some());
    let ended = node.ended();
    let early = tokio::time::timeout(Duration::from_millis(50), node.ended()).await;
    assert!(early.is_err(), "it has not ended");
    let _ = node.inputs.send(Input::Ask(Box::new(|_| panic!("for this test"))));
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert!(questions.sizes().await.is_none());
    node.shutdown().await;
}

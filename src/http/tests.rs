//! The endpoints over real connections. `tests/archive/test_metrics.py` holds the format of all metrics.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn start() -> (HttpServer, HttpState) {
    let state = HttpState { metrics: Metrics::new(), readiness: Readiness::default(), runtime: Runtime::production() };
    let server = HttpServer::start("127.0.0.1:0".parse().unwrap(), state.clone()).await.unwrap();
    (server, state)
}

/// Asks for a path and gives status line and body.
async fn get(server: &HttpServer, path: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn readiness_tells_its_reasons_until_there_are_none() {
    let (server, state) = start().await;
    state.readiness.not_ready("recovery", "replaying the journal");
    let (status, body) = get(&server, "/health/ready").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(body, r#"{"ready":false,"reasons":{"recovery":"replaying the journal"}}"#);
    state.readiness.ready("recovery");
    assert_eq!(
        get(&server, "/health/ready").await,
        ("HTTP/1.1 200 OK".into(), r#"{"ready":true,"reasons":{}}"#.into())
    );
    assert_eq!(get(&server, "/health/live").await.0, "HTTP/1.1 200 OK");
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn an_unknown_path_is_not_found_and_says_what_there_is() {
    let (server, _) = start().await;
    let (status, body) = get(&server, "/admin").await;
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert!(body.contains("there is no /admin; there are /health/live"), "{body}");
}

#[tokio::test]
async fn metrics_show_the_memory_of_the_process() {
    let (server, _) = start().await;
    let (status, body) = get(&server, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let resident = body.lines().find_map(|line| line.strip_prefix("alluvium_process_resident_bytes ")).unwrap();
    assert!(resident.parse::<u64>().unwrap() > 1 << 20, "{resident}");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_another_to_end() {
    let (server, _) = start().await;
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(tokio::net::TcpStream::connect(server.address()).await.unwrap());
    }
    let waiting = tokio::time::timeout(Duration::from_millis(100), get(&server, "/health/live")).await;
    assert!(waiting.is_err(), "served beyond the limit");
    held.clear();
    // Half a request is no reason to be waited for, nor is one that was answered.
    for request in ["G", "GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"] {
        for _ in 0..MAX_CONNECTIONS {
            let mut connection = tokio::net::TcpStream::connect(server.address()).await.unwrap();
            connection.write_all(request.as_bytes()).await.unwrap();
            held.push(connection);
        }
        let waiting = tokio::time::timeout(CONNECTION_LIFETIME / 2, get(&server, "/health/live")).await;
        assert_eq!(waiting.expect("probes wait for those that do not go on").0, "HTTP/1.1 200 OK");
    }
}

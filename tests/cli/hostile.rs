//! Client commands against a broker whose answers are damaged or lie: one line and an exit code, whatever it sends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::{command, standard_error};

/// What a broker supports that knows Metadata 4 alone, in version 3 of ApiVersions, behind the correlation id.
const METADATA_4: &[u8] = &[0, 0, 2, 0, 3, 0, 4, 0, 4, 0, 0, 0, 0, 0, 0];

/// Reads a request, and answers it with a body.
fn answer(stream: &mut TcpStream, body: &[u8]) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut request).unwrap();
    let correlation_id = &request[4..8];
    let length = u32::try_from(4 + body.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, correlation_id, body].concat()).unwrap();
}

/// Has topics listed by a broker that gives these answers; the line that the command fails with.
fn failure(answers: &[&[u8]]) -> String {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker.local_addr().unwrap().to_string();
    let child = command(&["topic", "list", "--bootstrap", &address]).spawn().unwrap();
    let (mut stream, _) = broker.accept().unwrap();
    answers.iter().for_each(|body| answer(&mut stream, body));
    let output = child.wait_with_output().unwrap();
    let error = standard_error(&output);
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{answers:?}: {error}");
    error
}

#[test]
fn a_count_that_the_answer_can_not_hold_takes_no_memory() {
    // A broker that refuses the version of the question answers in the first one.
    let versions_0 = [0, 35, 0x7f, 0xff, 0xff, 0xff];
    let versions_3 = [0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    for lie in [&versions_0[..], &versions_3] {
        let error = failure(&[lie]);
        assert!(error.starts_with("error: the broker's answer to ApiVersions is not understood: "), "{error}");
        assert!(error.contains("field=api_keys"), "{error}");
    }
    let error = failure(&[METADATA_4, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]]);
    assert!(error.starts_with("error: the broker's answer to Metadata is not understood: "), "{error}");
}

#[test]
fn an_answer_that_ends_early_is_one_line_that_says_where() {
    // No throttling, one broker, `h:1` without a rack, no id of the cluster, the controller, and no topics.
    let broker = [0, 0, 0, 1, 0, 0, 0, 0, 0, 1, b'h', 0, 0, 0, 1, 0xff, 0xff];
    let metadata = [&[0; 4][..], &broker, &[0xff, 0xff], &[0; 4], &[0; 4]].concat();
    for end in 0..metadata.len() {
        let error = failure(&[METADATA_4, &metadata[..end]]);
        assert!(error.contains("Metadata is not understood: message is truncated field="), "{end}: {error}");
    }
    for end in 0..METADATA_4.len() {
        let error = failure(&[&METADATA_4[..end]]);
        assert!(error.contains("ApiVersions is not understood: message is truncated field="), "{end}: {error}");
    }
}

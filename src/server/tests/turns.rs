//! Requests that take long leave others their turn.

use kafka_protocol::messages::DescribeConfigsRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;

use super::*;

const TOPIC_RESOURCE: i8 = 2;

#[test]
fn a_resource_that_is_named_very_often_holds_up_no_other_connection() {
    // On one thread, which looks at its sockets after each step.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.event_interval(1).enable_all().build().unwrap().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let server = start(directory.path(), ConnectionLimits::default()).await;
        let (mut one, mut other) = (Client::connect(&server).await, Client::connect(&server).await);
        one.send(&[create(1)]).await;
        one.receive().await;
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(StrBytes::from_static_str(TOPIC))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource; 2000]);
        one.send(&[frame(&request, 1, 2)]).await;
        let mut described = Box::pin(one.receive());
        let mut answered = 0;
        loop {
            let asked = async {
                other.send(&[frame(&ApiVersionsRequest::default(), 0, 3)]).await;
                other.receive().await
            };
            tokio::select! {
                biased;
                (number, _) = &mut described => {
                    assert_eq!(number, 2);
                    break;
                }
                _ = asked => answered += 1,
            }
        }
        // A few come in before the other request does.
        assert!(answered > 20, "{answered}");
        drop(described);
        server.shutdown().await;
    });
}

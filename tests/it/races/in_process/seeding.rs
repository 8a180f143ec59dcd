//! Bootstrap, by several, and by some who die under way.

use serde_json::json;

use super::stage::{Ask, nobody, service};
use super::{Race, run};

fn api() -> Ask {
    nobody("bootstrap", json!({}))
}

fn svc() -> Ask {
    service("bootstrap", json!({}))
}

#[test]
fn seeding_succeeds_once() {
    run(vec![
        Race::new("bootstrap by two", [api(), svc()]).unseeded().winners(1),
        Race::new("bootstrap by three", [api(), svc(), api()]).unseeded().winners(1),
        Race::new("bootstrap by two on one replica", [api(), api()]).unseeded().on_one_replica().winners(1),
        Race::new("bootstrap against its status", [api(), nobody("bootstrap-status", json!({}))]).unseeded(),
        Race::new("bootstrap of what is seeded", [api(), svc()]).winners(0),
    ]);
}

#[test]
fn seeding_that_dies_is_finished_or_done_anew() {
    run(vec![
        Race::new("bootstrap dies beside another", [api(), svc()]).unseeded().on_one_replica().mortal(0),
        Race::new("bootstrap dies beside two", [api(), svc(), api()]).unseeded().mortal(1),
    ]);
}

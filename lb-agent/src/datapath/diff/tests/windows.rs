//! For how long the rows of before are named, and which.
use super::*;
use crate::datapath::state::UDP_WINDOW_S;
use lb_common::maps::Service;

/// The one Service, by UDP.
fn udp_service(model: &Model) -> Service {
    *model.contents.services.values().next().unwrap()
}

#[test]
fn previous_rows_are_named_for_a_window_and_only_while_they_say_something() {
    let mut model = Model::new(UNIT * 64);
    let mut state = restarted(&model);
    let (uplinks, reach) = (uplinks(), Reach::default());
    let mut made = Made::default();
    let mut apply = |model: &mut Model, seed, seconds: u64| {
        model.now += seconds * 1_000_000_000;
        let mut spec = one_service(1);
        spec.services = [(1, (1, seed, 0x81))].into();
        let plan = spec.plan_with(&mut made);
        let plan = Plan {
            services: plan
                .services
                .into_iter()
                .map(|(at, s)| (at, Arc::new(PlannedService { affinity_s: None, ..(*s).clone() })))
                .collect(),
            ..plan
        };
        let inputs = Inputs { plan: &plan, me: "me", uplinks: &uplinks, reach: &reach };
        let changes = model.apply(&mut state, inputs);
        (udp_service(model), changes.retry_at)
    };
    let (first, _) = apply(&mut model, 0, 0);
    assert_eq!((first.changed_s, first.previous_rows), (3600, 0));
    // Too young to say that flows have been where it says.
    let (young, _) = apply(&mut model, 1, 10);
    assert_eq!((young.changed_s, young.previous_rows), (3610, 0));
    let (second, again) = apply(&mut model, 2, 130);
    assert_eq!((second.changed_s, second.previous_rows), (3740, UNIT));
    assert_eq!((second.previous_start, second.previous_mask), (young.rows_start, UNIT - 1));
    let end = u64::from(3740 + UDP_WINDOW_S) * 1_000_000_000;
    assert_eq!(again, Some(end));
    // Back to what it was, while another was in between: nothing is known any more.
    let (third, _) = apply(&mut model, 1, 10);
    assert_eq!((third.changed_s, third.previous_rows), (3750, 0));
    let (fourth, _) = apply(&mut model, 3, 130);
    assert_eq!(fourth.previous_start, third.rows_start);
    let (after, again) = apply(&mut model, 3, 120);
    assert_eq!((after.changed_s, after.previous_rows, again), (fourth.changed_s, 0, None));
}

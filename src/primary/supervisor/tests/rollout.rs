//! Replacing those who serve: what operators are promised of reloads, recycling and scaling.

use super::*;

const NEW_A: WorkerId = WorkerId(3);
const NEW_B: WorkerId = WorkerId(4);

#[test]
fn a_reload_goes_slot_by_slot_and_the_new_one_is_ready_before_the_old_one_drains() {
    let mut rig = Rig::replacing(PLAN);
    assert_eq!(rig.hear(Event::ReloadRequested), [Effect::Start(Slot(0))]);
    assert_eq!(rig.supervisor.generation(), 1);
    assert_eq!(rig.start_succeeds(0), []);
    assert_eq!(rig.takes_over(NEW_A), [Effect::Seat(NEW_A), Effect::Drain(A), Effect::Start(Slot(1))]);
    assert_eq!(rig.exits(A, true), [], "nobody replaces the replaced");
    rig.start_succeeds(0);
    let end = Effect::ReloadEnded(ReloadEnd::Done { generation: 1 });
    assert_eq!(rig.takes_over(NEW_B), [Effect::Seat(NEW_B), Effect::Drain(B), end]);
    rig.exits(B, true);
    assert_eq!(rig.due_in(), None);
}

#[test]
fn a_worker_that_wants_to_finish_does_and_its_exit_decides_whether_somebody_follows() {
    for (respawn, is_success, follows) in
        [(Respawn::Always, true, true), (Respawn::OnFailure, true, false), (Respawn::OnFailure, false, true)]
    {
        let mut rig = Rig::ready(Plan { respawn, ..PLAN });
        rig.pass(SETTLED);
        assert_eq!(rig.leaves(A), [Effect::Drain(A)], "nobody is started before it has gone");
        let effects = rig.exits(A, is_success);
        assert_eq!(effects, if follows { vec![Effect::Start(Slot(0))] } else { vec![] }, "{respawn:?} {is_success}");
    }
}

#[test]
fn a_worker_that_wants_to_finish_and_does_not_is_hurried() {
    let mut rig = Rig::ready(PLAN);
    rig.leaves(A);
    assert_eq!(rig.due_in(), Some(PLAN.shutdown_timeout));
    assert_eq!(rig.pass_to_deadline(), [Effect::Terminate(A)]);
    assert_eq!(rig.due_in(), Some(PLAN.kill_delay));
    assert_eq!(rig.pass_to_deadline(), [Effect::Kill(A, KillReason::KillDelay)]);
    assert_eq!(rig.due_in(), None);
}

#[test]
fn a_reload_replaces_also_who_is_leaving_and_does_not_tell_it_again() {
    let mut rig = Rig::replacing(PLAN);
    rig.leaves(A);
    assert_eq!(rig.hear(Event::ReloadRequested), [Effect::Start(Slot(0))]);
    rig.start_succeeds(0);
    assert_eq!(rig.becomes_ready(NEW_A), [Effect::Seat(NEW_A), Effect::Start(Slot(1))], "nobody to take over from");
    assert_eq!(rig.exits(A, true), [], "nobody replaces the replaced");
}

#[test]
fn a_replacement_that_wants_to_finish_does_not_take_over_and_the_old_one_stays() {
    let mut rig = Rig::replacing(PLAN);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    let effects = rig.leaves(NEW_A);
    assert_eq!(effects, [Effect::Drain(NEW_A), Effect::ReloadEnded(ReloadEnd::NotReady)]);
    assert_eq!(rig.becomes_ready(NEW_A), [], "whatever it still says");
    assert_eq!(rig.pass(SETTLING), []);
    assert_eq!(rig.exits(NEW_A, true), []);
}

#[test]
fn in_a_stop_a_worker_that_wants_to_finish_hears_the_same_as_all() {
    let mut rig = Rig::ready(PLAN);
    rig.stop(Stop::Graceful);
    assert_eq!(rig.leaves(A), [Effect::Disconnect(A)]);
    assert_eq!(rig.hear(Event::ListenersEnded), [Effect::Disconnect(A), Effect::Disconnect(B)]);
}

#[test]
fn a_reload_does_not_go_on_when_a_stop_shows() {
    let mut rig = Rig::replacing(PLAN);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    rig.becomes_ready(NEW_A);
    rig.stop(Stop::Graceful);
    assert_eq!(rig.exits(A, true), [Effect::Seat(NEW_A)], "and nobody is started in slot 1");
}

#[test]
fn a_reload_in_parallel_replaces_as_many_at_a_time() {
    let mut rig = Rig::replacing(Plan { worker_count: 3, reload_parallel: 2, ..PLAN });
    assert_eq!(rig.hear(Event::ReloadRequested), [Effect::Start(Slot(0)), Effect::Start(Slot(1))]);
    rig.start_succeeds(0);
    rig.start_succeeds(0);
    assert_eq!(rig.takes_over(WorkerId(5)), [Effect::Seat(WorkerId(5)), Effect::Drain(B), Effect::Start(Slot(2))]);
}

#[test]
fn a_reload_stops_when_a_new_worker_does_not_come_up_and_the_old_ones_stay() {
    for how in ["exits", "is not ready in time", "cannot be started"] {
        let mut rig = Rig::replacing(PLAN);
        rig.hear(Event::ReloadRequested);
        let effects = match how {
            "exits" => {
                rig.start_succeeds(0);
                rig.exits(NEW_A, false)
            }
            "is not ready in time" => {
                rig.start_succeeds(0);
                assert_eq!(rig.pass_to_deadline(), [Effect::Kill(NEW_A, KillReason::StartTimeout)]);
                rig.exits(NEW_A, false)
            }
            _ => rig.start_fails(0, true),
        };
        assert_eq!(effects, [Effect::ReloadEnded(ReloadEnd::NotReady)], "{how}");
        assert_eq!((rig.living.len(), rig.ordered.len()), (2, 0), "{how}");
        assert_eq!(rig.due_in(), None, "{how}");
    }
}

#[test]
fn a_second_reload_is_queued_once() {
    let mut rig = Rig::replacing(ONE_WORKER);
    for _ in 0..4 {
        rig.hear(Event::ReloadRequested);
    }
    rig.start_succeeds(0);
    let end = |generation| Effect::ReloadEnded(ReloadEnd::Done { generation });
    assert_eq!(rig.takes_over(B), [Effect::Seat(B), Effect::Drain(A), end(1), Effect::Start(Slot(0))]);
    rig.start_succeeds(0);
    assert_eq!(rig.takes_over(WorkerId(3)), [Effect::Seat(WorkerId(3)), Effect::Drain(B), end(2)]);
    assert_eq!(rig.supervisor.generation(), 2);
}

#[test]
fn a_new_worker_that_listens_and_dies_at_once_does_not_cost_the_old_one() {
    let mut rig = Rig::replacing(ONE_WORKER);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    assert_eq!(rig.becomes_ready(B), []);
    assert!(rig.supervisor.expects(B) && rig.supervisor.holds_slot(A));
    assert!(rig.supervisor.may_serve(B), "it may go on to listen on its other listeners");
    rig.pass(SETTLING - TICK);
    assert_eq!(rig.exits(B, false), [Effect::ReloadEnded(ReloadEnd::NotReady)]);
    assert!(rig.supervisor.holds_slot(A));
    assert_eq!(rig.due_in(), None);
}

#[test]
fn an_old_worker_that_dies_while_the_new_one_settles_is_followed_at_once() {
    let mut rig = Rig::replacing(ONE_WORKER);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    rig.becomes_ready(B);
    let end = Effect::ReloadEnded(ReloadEnd::Done { generation: 1 });
    assert_eq!(rig.exits(A, false), [Effect::Seat(B), end]);
}

#[test]
fn an_old_worker_that_dies_during_its_replacement_leaves_its_slot_to_the_new_one() {
    let mut rig = Rig::replacing(ONE_WORKER);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    assert_eq!(rig.exits(A, false), []);
    assert_eq!(rig.becomes_ready(B), [Effect::ReloadEnded(ReloadEnd::Done { generation: 1 })]);
}

#[test]
fn one_that_was_turned_away_gets_no_seat_when_it_says_that_it_listens() {
    let mut rig = Rig::replacing(PLAN);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    assert!(rig.supervisor.may_serve(A) && rig.supervisor.may_serve(NEW_A));
    assert_eq!(rig.pass_to_deadline(), [Effect::Kill(NEW_A, KillReason::StartTimeout)]);
    assert!(rig.supervisor.may_serve(A) && !rig.supervisor.may_serve(NEW_A));
}

#[test]
fn one_that_serves_until_somebody_is_ready_finishes_though_that_one_is_to_be_replaced_itself() {
    let mut rig = Rig::replacing(ONE_WORKER);
    rig.sitting_max = 2;
    rig.hear(Event::DisconnectRequested(A));
    assert!(rig.supervisor.may_serve(A), "nobody else is ready");
    rig.start_succeeds(0);
    rig.hear(Event::ReloadRequested);
    assert_eq!(rig.becomes_ready(B), [Effect::Drain(A)]);
    assert!(!rig.supervisor.may_serve(A) && rig.supervisor.may_serve(B));
}

#[test]
fn a_replaced_worker_that_does_not_finish_is_terminated_then_killed() {
    let mut rig = Rig::replacing(ONE_WORKER);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    rig.takes_over(B);
    assert_eq!(rig.due_in(), Some(PLAN.shutdown_timeout));
    assert_eq!(rig.pass_to_deadline(), [Effect::Terminate(A)]);
    assert_eq!(rig.pass_to_deadline(), [Effect::Kill(A, KillReason::KillDelay)]);
    assert_eq!(rig.exits(A, false), []);
    assert_eq!(rig.due_in(), None);
}

#[test]
fn workers_are_recycled_one_at_a_time() {
    let mut rig = Rig::replacing(PLAN);
    assert_eq!(rig.hear(Event::RecycleDue(B)), [Effect::Start(Slot(1))]);
    assert_eq!(rig.hear(Event::RecycleDue(A)), []);
    rig.start_succeeds(0);
    assert_eq!(rig.takes_over(NEW_A), [Effect::Seat(NEW_A), Effect::Drain(B), Effect::Start(Slot(0))]);
    rig.start_succeeds(0);
    assert_eq!(rig.takes_over(NEW_B), [Effect::Seat(NEW_B), Effect::Drain(A)]);
    assert_eq!(rig.supervisor.generation(), 0, "recycling is no reload");
    assert_eq!(rig.hear(Event::RecycleDue(A)), [], "it has gone already");
}

#[test]
fn scaling_adds_slots_at_the_end_and_takes_them_from_there() {
    let mut rig = Rig::replacing(PLAN);
    assert_eq!(rig.hear(Event::ScaleRequested(3)), [Effect::Start(Slot(2))]);
    rig.start_succeeds(0);
    rig.becomes_ready(WorkerId(3));
    assert_eq!(rig.hear(Event::ScaleRequested(1)), [Effect::Drain(WorkerId(3)), Effect::Drain(B)]);
    assert_eq!(rig.exits(B, true), [], "nobody replaces it");
    assert_eq!(rig.hear(Event::ScaleRequested(0)), [], "one is the least");
    assert_eq!(rig.supervisor.worker_count(), 1);
}

#[test]
fn scaling_down_keeps_the_last_one_that_serves_until_another_one_does() {
    let mut rig = Rig::started(PLAN);
    rig.becomes_ready(B);
    assert_eq!(rig.hear(Event::ScaleRequested(1)), []);
    assert_eq!(rig.becomes_ready(A), [Effect::Drain(B)]);
}

#[test]
fn a_worker_that_is_told_to_disconnect_is_replaced_at_once() {
    let mut rig = Rig::replacing(PLAN);
    assert_eq!(rig.hear(Event::DisconnectRequested(B)), [Effect::Drain(B), Effect::Start(Slot(1))]);
    assert_eq!(rig.hear(Event::DisconnectRequested(B)), [], "it has lost its slot already");
    assert_eq!(rig.exits(B, true), []);
}

#[test]
fn the_only_one_that_serves_disconnects_when_its_successor_is_ready() {
    let mut rig = Rig::replacing(ONE_WORKER);
    assert_eq!(rig.hear(Event::DisconnectRequested(A)), [Effect::Start(Slot(0))]);
    rig.start_succeeds(0);
    assert_eq!(rig.becomes_ready(B), [Effect::Drain(A)]);
}

#[test]
fn a_worker_that_disconnects_during_a_reload_makes_way_for_the_one_that_replaces_it() {
    let mut rig = Rig::replacing(ONE_WORKER);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    assert_eq!(rig.hear(Event::DisconnectRequested(A)), []);
    let effects = rig.becomes_ready(B);
    assert!(effects.contains(&Effect::Drain(A)), "{effects:?}");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::ReloadEnded(ReloadEnd::Done { .. }))), "{effects:?}");
}

#[test]
fn a_stop_ends_a_rollout_with_everybody_in_it() {
    let mut rig = Rig::replacing(PLAN);
    rig.hear(Event::ReloadRequested);
    rig.start_succeeds(0);
    rig.stop(Stop::Fast);
    assert_eq!(rig.hear(Event::ReloadRequested), [Effect::ReloadEnded(ReloadEnd::Stopping)]);
    for worker in [A, B, NEW_A] {
        assert_eq!(rig.finished, None);
        rig.exits(worker, true);
    }
    assert_eq!(rig.finished, Some(Outcome::Stopped));
}

// Without workers.

#[test]
fn a_cluster_goes_on_without_workers_and_a_stop_ends_it() {
    let mut rig = Rig::new(Plan { worker_count: 0, ..CLUSTER });
    assert_eq!(rig.hear(Event::Begun), []);
    assert_eq!(rig.hear(Event::ReloadRequested), [Effect::ReloadEnded(ReloadEnd::Done { generation: 1 })]);
    assert_eq!(rig.hear(Event::ScaleRequested(1)), [Effect::Start(Slot(0))]);
    rig.start_succeeds(0);
    rig.becomes_ready(A);
    assert_eq!(rig.hear(Event::ScaleRequested(0)), [Effect::Disconnect(A)], "nobody goes on with what it has");
    assert_eq!(rig.exits(A, true), []);
    let end = [Effect::EndListeners, Effect::CloseListeners, Effect::Finish(Outcome::Stopped)];
    assert_eq!(rig.stop(Stop::Graceful), end);
}

#[test]
fn a_cluster_whose_workers_are_not_replaced_outlives_the_last_one() {
    let mut rig = Rig::ready(Plan { worker_count: 1, respawn: Respawn::Never, ..CLUSTER });
    assert_eq!(rig.exits(A, false), []);
    assert!(rig.supervisor.is_running() && rig.finished.is_none());
    rig.forks();
    assert_eq!(rig.living[&B].0, Slot(0), "in the place of the one that has gone");
    assert_eq!(rig.supervisor.worker_count(), 1);
}

#[test]
fn one_more_worker_has_a_slot_of_its_own_and_is_replaced_like_the_others() {
    let mut rig = Rig::ready(PLAN);
    assert_eq!(rig.forks(), []);
    assert_eq!((rig.supervisor.worker_count(), rig.living[&WorkerId(3)].0), (3, Slot(2)));
    assert_eq!(rig.due_in(), Some(PLAN.start_timeout));
    rig.becomes_ready(WorkerId(3));
    rig.pass(SETTLED);
    assert_eq!(rig.exits(WorkerId(3), false), [Effect::Start(Slot(2))]);
}

#[test]
fn who_serves_until_somebody_is_ready_finishes_when_nobody_will_be() {
    let mut rig = Rig { sitting_max: 1, ..Rig::ready(Plan { worker_count: 1, ..CLUSTER }) };
    assert_eq!(rig.hear(Event::DisconnectRequested(A)), [Effect::Start(Slot(0))], "it serves until then");
    rig.start_succeeds(0);
    assert_eq!(rig.hear(Event::ScaleRequested(0)), [Effect::Terminate(B), Effect::Disconnect(A)]);
}

#[test]
fn whoever_is_started_in_the_place_of_another_one_has_a_reason_and_others_have_none() {
    let mut rig = Rig::new(PLAN);
    rig.hear(Event::Begun);
    assert_eq!(rig.supervisor.restarts(Slot(0)), None, "the first ones replace nobody");
    rig.start_succeeds(0);
    rig.start_succeeds(0);
    (1..=2).for_each(|id| drop(rig.becomes_ready(WorkerId(id))));
    rig.pass(SETTLED);
    rig.exits(A, true);
    rig.exits(B, false);
    assert_eq!([0, 1].map(|slot| rig.supervisor.restarts(Slot(slot))), [Some(Restart::Exited), Some(Restart::Failed)]);
    assert_eq!(rig.supervisor.restarts(Slot(2)), None, "there is no such slot");
}

#[test]
fn the_reason_of_a_start_beside_another_one_is_that_of_the_replacing() {
    let begun = |event| {
        let mut rig = Rig::replacing(PLAN);
        rig.hear(event);
        rig.supervisor.restarts(Slot(0))
    };
    assert_eq!(begun(Event::ReloadRequested), Some(Restart::Reload));
    assert_eq!(begun(Event::RecycleDue(A)), Some(Restart::Recycle));
    assert_eq!(begun(Event::DisconnectRequested(A)), Some(Restart::Disconnected));
    assert_eq!(begun(Event::ScaleRequested(3)), None, "a slot more");
}

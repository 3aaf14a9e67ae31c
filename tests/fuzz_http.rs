//! A short run of `scripts/fuzz-http`: malformed HTTP at both doors, which the primary must not notice.
#![cfg(feature = "cli")]

#[path = "../benches/fuzz_http/mod.rs"]
mod fuzz_http;
mod support;

#[test]
fn malformed_requests_at_both_doors_are_not_noticed() {
    let report = fuzz_http::attack::run(2_000, 4711);
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    let answered: usize = report.statuses.iter().filter(|(status, _)| **status > 0).map(|(_, count)| count).sum();
    assert!(report.requests == 2_000 && answered > 1_000, "{:?}", report.statuses);
    assert!(report.statuses.contains_key(&400) && report.statuses.contains_key(&200), "{:?}", report.statuses);
}

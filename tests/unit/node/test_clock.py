from datetime import UTC, datetime, timedelta

from reconciler.node.clock import Clock


def test_the_steady_clock_goes_on_when_somebody_sets_the_time() -> None:
    wall, monotonic = [1_000_000.0], [50.0]
    clock = Clock(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    start = clock.steady()
    assert start == clock.wall() == datetime.fromtimestamp(1_000_000, UTC)
    wall[0] -= 86400
    monotonic[0] += 2.5
    assert clock.steady() == start + timedelta(seconds=2.5)
    assert clock.wall() == start - timedelta(days=1)

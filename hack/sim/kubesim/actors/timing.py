"""How long things take in a cluster, as recorded from Kubernetes 1.36.3 unless said otherwise."""

from dataclasses import dataclass, fields, replace

UNSCALED = ("information", "notification", "call", "health_timeout")
"""What drivers, which are real, are given time for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds. `second` is the length of one second of an API field such as tolerationSeconds."""

    second: float = 1.0
    # the scheduler
    binding_poll: float = 5.0
    binding_timeout: float = 600.0
    retry_after_failed_binding: float = 1.8
    # the scheduler, classic: recorded from Kubernetes 1.26.5
    first_attempt_back_off: float = 1.0
    longest_attempt_back_off: float = 10.0
    attempt_flush: float = 0.95
    # the kubelet: registration
    registry_look: float = 1.0
    information: float = 1.0
    notification: float = 5.0
    first_back_off: float = 0.5
    longest_back_off: float = 122.0
    wipe_after_start: float = 0.015
    wipe_after_disconnect: float = 30.0
    # the kubelet: pods
    call: float = 45.0
    prepare_retry: float = 60.0
    prepare_retry_spread: float = 30.0
    unprepare_retry: float = 1.0
    unregistered_retry: float = 9.0
    first_retry: float = 0.7
    container_retry: float = 10.0
    container_retry_spread: float = 5.0
    stop: float = 0.05
    vanished_pod: float = 2.8
    forgotten_claims: float = 60.0
    # the kubelet: health
    health_reopen: float = 5.0
    health_timeout: float = 30.0

    def scaled(self, scale: float) -> "Timing":
        """Everything shorter (below 1) or longer by a factor, but for what drivers are given time for."""
        changed = {
            each.name: getattr(self, each.name) * scale for each in fields(self) if each.name not in UNSCALED
        }
        return replace(self, **changed)


RECORDED = Timing()

"""What all versions of the kubelet's service have in common: judging requests, and how long to wait."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import grpc

from plugin import plugin_metrics
from plugin.claims import MOST_CLAIMS, Answer, BadRequest, Prepared
from plugin.marks import check_uid
from plugin.preparing import Preparations
from reconciler.runtime.metrics import Metrics

LONGEST_WAIT = 40.0
"""Seconds for a kubelet that sets no deadline or a long one. Current ones give 45 s."""

MARGIN = 3.0
"""Seconds before the kubelet's deadline at which an answer is sent: one that comes too late is lost."""


class NodeCalls:
    """Prepares and gives back the claims of requests. Raises BadRequest for those that make no sense."""

    def __init__(self, preparations: Preparations, metrics: Metrics) -> None:
        self._preparations = preparations
        self._metrics = metrics

    def prepare(self, uids: Iterable[str], version: str, context: grpc.ServicerContext) -> Mapping[str, Answer]:
        """The answer for each claim, by UID. All of them are waited for together."""
        asked = _checked(uids)
        began = time.perf_counter()
        answers = self._preparations.prepare(asked, version, _seconds(context))
        self._metrics.observe(plugin_metrics.PREPARE_SECONDS, time.perf_counter() - began, service=version)
        for answer in answers.values():
            result = "prepared" if isinstance(answer, Prepared) else "failed"
            self._metrics.count(plugin_metrics.PREPARED, service=version, result=result)
        return answers

    def unprepare(self, uids: Iterable[str], version: str, context: grpc.ServicerContext) -> Mapping[str, str]:
        """What went wrong with each claim, by UID; empty for success."""
        problems = self._preparations.unprepare(_checked(uids), _seconds(context))
        for problem in problems.values():
            self._metrics.count(
                plugin_metrics.UNPREPARED, service=version, result="failed" if problem else "given back"
            )
        return problems


def _checked(uids: Iterable[str]) -> tuple[str, ...]:
    asked = tuple(uids)
    if len(asked) > MOST_CLAIMS:
        raise BadRequest(f"{len(asked)} claims in one call (allowed: up to {MOST_CLAIMS})")
    for uid in asked:
        check_uid(uid)
    if len(set(asked)) != len(asked):
        raise BadRequest("the same claim twice in one call")
    return asked


def _seconds(context: grpc.ServicerContext) -> float:
    remaining: float | None = context.time_remaining()
    return LONGEST_WAIT if remaining is None else max(0.0, min(LONGEST_WAIT, remaining - MARGIN))

"""The driver: the one loop that every target runs around a run's blocks.

It is plain Python that numba compiles for a CPU (many lanes), numba-cuda for a GPU (one lane a
thread), and that the simulator runs as it stands. It neither allocates nor raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def make_driver(
    blocks: Mapping[str, Callable[..., Any]],
    take: Callable[..., Any],
    lanes: int,
    compile_function: Callable[[Any], Any],
    pausing: bool = False,
) -> Callable[..., Any]:
    """Return ``driver(memory, runs, attempts, first, count, stride, counter, ...)``.

    Parameters
    ----------
    blocks : mapping
        Compiled or interpreted blocks, each ``(memory, lane, *externals)``.
    take : callable
        ``take(counter, following, stride)``: the run to start when a lane is free.
    lanes : int
        Lanes a group of memory holds, at most 64.
    compile_function : callable
        Turns a Python function into one that the target can call.
    pausing : bool
        Whether the driver returns after `attempts` attempts, to be called again: ``runs`` then
        has two elements more, the occupied lanes (none at first, none at the end) and the run
        that follows.
    """
    start, park, begin = blocks["start"], blocks["park"], blocks["begin"]
    attempt, finished, finish = blocks["attempt"], blocks["finished"], blocks["finish"]
    sampling = "sample" in blocks
    eventful, recording = "react" in blocks, "store_event" in blocks
    compared = "compare" in blocks
    everything = (1 << lanes) - 1
    if lanes == 64:
        everything = -1

    if sampling:
        due, sample, saved = blocks["due"], blocks["sample"], blocks["saved"]
        store_sample, store_missing = blocks["store_sample"], blocks["store_missing"]
        compare = blocks.get("compare") or compile_function(_nothing)
        densify = blocks.get("densify") or compile_function(_nothing)
        dense_stages = "densify" in blocks

        @compile_function
        def save_due(
            memory: Any, runs: Any, times: Any, samples: Any, rows: int, run_stride: int,
            time_stride: int, initial: Any,
        ) -> None:  # fmt: skip
            waiting = due(memory, 0)
            if waiting != 0 and dense_stages:
                densify(memory, 0)
            while waiting != 0:
                sample(memory, 0)
                for lane in range(lanes):
                    if (waiting >> lane) & 1:
                        if compared:
                            compare(memory, lane, (initial, 1, 0))
                        index = saved(memory, lane)
                        place = runs[lane] * run_stride + index * time_stride
                        store_sample(memory, lane, (samples, rows, place), (times, 1, index + 1))
                waiting = due(memory, 0)

        @compile_function
        def save_missing(
            memory: Any, lane: int, run: int, time_count: int, samples: Any, rows: int,
            run_stride: int, time_stride: int,
        ) -> None:  # fmt: skip
            for index in range(saved(memory, lane), time_count):
                place = run * run_stride + index * time_stride
                store_missing(memory, lane, (samples, rows, place))
    else:
        save_due = save_missing = compile_function(_nothing)
    driving, restarting = "at_knot" in blocks, "restarting" in blocks
    idle = compile_function(_nothing)

    if driving:
        at_knot, following_segment = blocks["at_knot"], blocks["following"]
        restart = blocks.get("restarting", idle)

        @compile_function
        def pass_knots(
            memory: Any, runs: Any, count: int, inputs: Any, initial: Any, settings: Any
        ) -> int:
            busy: int = at_knot(memory, 0)
            if busy != 0:
                for lane in range(lanes):
                    if (busy >> lane) & 1:
                        following_segment(
                            memory, lane, (inputs, count, runs[lane]), (initial, 1, 0)
                        )
                if restarting:
                    again = restart(memory, 0)
                    for lane in range(lanes):
                        if (again >> lane) & 1:
                            begin(memory, lane, (settings, 1, 0))
            return busy
    else:
        pass_knots = idle

    if eventful:
        waiting, jumping, react = blocks["waiting"], blocks["jumping"], blocks["react"]
        event_row = blocks.get("event_row", idle)
        store_event = blocks.get("store_event", idle)

        @compile_function
        def happen(memory: Any, runs: Any, finals: Any, count: int, settings: Any) -> int:
            busy: int = waiting(memory, 0)
            if busy != 0:
                told = react(memory, 0)
                if recording:
                    for lane in range(lanes):
                        if (told >> lane) & 1:
                            row = event_row(memory, lane)
                            store_event(memory, lane, (finals, count, runs[lane] + count * row))
            else:
                busy = jumping(memory, 0)
                if busy != 0:
                    for lane in range(lanes):
                        if (busy >> lane) & 1:
                            begin(memory, lane, (settings, 1, 0))
            return busy
    else:
        happen = idle
    clear_events = blocks.get("clear_events", idle)

    def driver(
        memory: Any, runs: Any, attempts: int, first: int, count: int, stride: int, counter: Any,
        inputs: Any, initial: Any, settings: Any, times: Any, time_count: int, samples: Any,
        rows: int, run_stride: int, time_stride: int, finals: Any, counts: Any,
    ) -> None:  # fmt: skip
        occupied = following = 0
        if pausing:
            occupied, following = runs[lanes], runs[lanes + 1]
        if occupied == 0:
            following = take(counter, first - stride, stride)
        vacant = everything & ~occupied
        while True:
            for lane in range(lanes):
                if (vacant >> lane) & 1:
                    if following < count:
                        runs[lane] = following
                        start(
                            memory, lane, (inputs, count, following), (times, 1, 0),
                            (initial, 1, 0),
                        )  # fmt: skip
                        if recording:
                            clear_events(memory, lane, (finals, count, following))
                        begin(memory, lane, (settings, 1, 0))
                        occupied |= 1 << lane
                        following = take(counter, following, stride)
                    else:
                        park(memory, lane)
                        occupied &= ~(1 << lane)
            if pausing:
                runs[lanes] = occupied
            if occupied == 0:
                break
            vacant = 0
            while vacant == 0:
                busy = 1
                while busy != 0:
                    if sampling:
                        save_due(
                            memory, runs, times, samples, rows, run_stride, time_stride, initial
                        )
                    busy = 0
                    if eventful:
                        # What is saved at the time of an event is what it leaves.
                        busy = happen(memory, runs, finals, count, settings)
                    if driving and busy == 0:
                        busy = pass_knots(memory, runs, count, inputs, initial, settings)
                vacant = finished(memory, 0)
                if vacant == 0:
                    marks = 0
                    while marks == 0 and attempts != 0:
                        marks = attempt(memory, 0, (settings, 1, 0))
                        if pausing:
                            attempts -= 1
                    if pausing and marks == 0:
                        runs[lanes + 1] = following
                        return
            for lane in range(lanes):
                if (vacant >> lane) & 1:
                    run = runs[lane]
                    if sampling:
                        save_missing(
                            memory, lane, run, time_count, samples, rows, run_stride, time_stride
                        )
                    if compared:
                        finish(
                            memory, lane, (finals, count, run), (counts, count, run),
                            (initial, 1, 0),
                        )  # fmt: skip
                    else:
                        finish(memory, lane, (finals, count, run), (counts, count, run))

    compiled: Callable[..., Any] = compile_function(driver)
    return compiled


def _nothing(*_: Any) -> None:
    """Stand in for a step that this kernel does not need."""

"""The driver: the one loop that every target runs around a run's blocks.

It is plain Python that numba compiles for a CPU (many lanes), numba-cuda for a GPU (one lane a
thread), and that the simulator runs as it stands. It neither allocates nor raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Function = Callable[..., Any]
Compile = Callable[[Any], Function]


def make_driver(
    blocks: Mapping[str, Function],
    take: Function,
    lanes: int,
    compile_function: Compile,
    pausing: bool = False,
    lowest: Function | None = None,
) -> Function:
    """Return ``driver(memory, runs, attempts, queue, given, sampling, results)``.

    Most are tuples, which every target takes apart at compile time:

    - ``memory``: the shared, local and persistent arena;
    - ``runs``: the run in every lane, written by the driver;
    - ``attempts``: after how many attempts it pauses;
    - ``queue``: first run, number of runs, stride, and the counter that `take` is given;
    - ``given``: inputs, initial values and settings, see `cubie_flow.kernels.targets.batch`;
    - ``sampling``: times, their number, samples, and the three strides of samples;
    - ``results``: finals and counts.

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
    lowest : callable, optional
        ``lowest(mask)``: the number of the lowest bit that is set; needed with several lanes.
    """
    first_of = lowest or compile_function(_zero)
    start, park, begin = blocks["start"], blocks["park"], blocks["begin"]
    attempt, finished, finish = blocks["attempt"], blocks["finished"], blocks["finish"]
    saving, driving, eventful = "sample" in blocks, "at_knot" in blocks, "react" in blocks
    recording, compared = "store_event" in blocks, "compare" in blocks
    everything = -1 if lanes == 64 else (1 << lanes) - 1
    idle = compile_function(_nothing)
    save_due = save_missing = pass_knots = happen = idle
    if saving:
        save_due, save_missing = _make_saving(blocks, first_of, compile_function)
    if driving:
        pass_knots = _make_knots(blocks, first_of, compile_function)
    if eventful:
        happen = _make_events(blocks, first_of, compile_function)
    clear_events = blocks.get("clear_events", idle)
    enter_piece = blocks.get("following", idle)

    def driver(
        memory: Any, runs: Any, attempts: int, queue: Any, given: Any, sampling: Any, results: Any
    ) -> None:
        first, count, stride, counter = queue
        inputs, initial, settings = given
        finals, counts = results
        occupied = following = 0
        if pausing:
            occupied, following = runs[lanes], runs[lanes + 1]
        if occupied == 0:
            following = take(counter, first - stride, stride)
        vacant = everything & ~occupied
        while True:
            # Lane by lane: to go over all of them costs wrong guesses of the processor.
            while vacant != 0:
                lane = first_of(vacant)
                vacant &= vacant - 1
                if (occupied >> lane) & 1:
                    run = runs[lane]
                    if saving:
                        save_missing(memory, lane, run, sampling)
                    if compared:
                        finish(
                            memory, lane, (finals, count, run), (counts, count, run),
                            (initial, 1, 0),
                        )  # fmt: skip
                    else:
                        finish(memory, lane, (finals, count, run), (counts, count, run))
                if following < count:
                    runs[lane] = following
                    start(
                        memory, lane, (inputs, count, following), (sampling[0], 1, 0),
                        (initial, 1, 0),
                    )  # fmt: skip
                    if driving:
                        enter_piece(memory, lane, (inputs, count, following), (initial, 1, 0))
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
            while vacant == 0:
                busy = 1
                while busy != 0:
                    if saving:
                        save_due(memory, runs, sampling, initial)
                    busy = 0
                    if driving:
                        busy = pass_knots(memory, runs, count, given)
                    if eventful and busy == 0:
                        # What is saved at the time of an event is what it leaves.
                        busy = happen(memory, runs, count, settings, finals)
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

    return compile_function(driver)


def _make_saving(
    blocks: Mapping[str, Function], first_of: Function, compile_function: Compile
) -> tuple[Function, Function]:
    """Return what saves the samples that are due, and what fills those that a run never had."""
    idle = compile_function(_nothing)
    due, sample, saved = blocks["due"], blocks["sample"], blocks["saved"]
    store_sample, store_missing = blocks["store_sample"], blocks["store_missing"]
    dense, compared = "densify" in blocks, "compare" in blocks
    densify, compare = blocks.get("densify", idle), blocks.get("compare", idle)

    @compile_function
    def save_due(memory: Any, runs: Any, sampling: Any, initial: Any) -> None:
        times, _, samples, rows, run_stride, time_stride = sampling
        waiting = due(memory, 0)
        if waiting != 0 and dense:
            densify(memory, 0)
        while waiting != 0:
            sample(memory, 0)
            while waiting != 0:
                lane = first_of(waiting)
                waiting &= waiting - 1
                if compared:
                    compare(memory, lane, (initial, 1, 0))
                index = saved(memory, lane)
                place = runs[lane] * run_stride + index * time_stride
                store_sample(memory, lane, (samples, rows, place), (times, 1, index + 1))
            waiting = due(memory, 0)

    @compile_function
    def save_missing(memory: Any, lane: int, run: int, sampling: Any) -> None:
        _, time_count, samples, rows, run_stride, time_stride = sampling
        for index in range(saved(memory, lane), time_count):
            place = run * run_stride + index * time_stride
            store_missing(memory, lane, (samples, rows, place))

    return save_due, save_missing


def _make_knots(
    blocks: Mapping[str, Function], first_of: Function, compile_function: Compile
) -> Function:
    """Return what takes lanes at a knot of a driver into the next segment; it tells which."""
    at_knot, following_segment = blocks["at_knot"], blocks["following"]
    begin, restarting = blocks["begin"], "restarting" in blocks
    restart = blocks.get("restarting") or compile_function(_nothing)

    @compile_function
    def pass_knots(memory: Any, runs: Any, count: int, given: Any) -> int:
        inputs, initial, settings = given
        busy: int = at_knot(memory, 0)
        if busy != 0:
            left = busy
            while left != 0:
                lane = first_of(left)
                left &= left - 1
                following_segment(memory, lane, (inputs, count, runs[lane]), (initial, 1, 0))
            if restarting:
                again = restart(memory, 0)
                while again != 0:
                    lane = first_of(again)
                    again &= again - 1
                    begin(memory, lane, (settings, 1, 0))
        return busy

    return pass_knots


def _make_events(
    blocks: Mapping[str, Function], first_of: Function, compile_function: Compile
) -> Function:
    """Return what lets events happen in lanes that wait for them; it tells which."""
    idle = compile_function(_nothing)
    waiting, jumping, react = blocks["waiting"], blocks["jumping"], blocks["react"]
    begin, recording = blocks["begin"], "store_event" in blocks
    event_row, store_event = blocks.get("event_row", idle), blocks.get("store_event", idle)

    @compile_function
    def happen(memory: Any, runs: Any, count: int, settings: Any, finals: Any) -> int:
        busy: int = waiting(memory, 0)
        if busy != 0:
            told = react(memory, 0)
            if recording:
                while told != 0:
                    lane = first_of(told)
                    told &= told - 1
                    row = event_row(memory, lane)
                    store_event(memory, lane, (finals, count, runs[lane] + count * row))
        else:
            busy = jumping(memory, 0)
            left = busy
            while left != 0:
                lane = first_of(left)
                left &= left - 1
                begin(memory, lane, (settings, 1, 0))
        return busy

    return happen


def _zero(mask: int) -> int:
    """Return the number of the only lane there is."""
    return 0


def _nothing(*_: Any) -> None:
    """Stand in for a step that this kernel does not need."""

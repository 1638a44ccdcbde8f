"""The batch loop: the loop around a run's blocks, which is the same on every target.

It is plain Python. Numba compiles it for a CPU (many lanes), numba-cuda for a GPU (one lane per
thread), and the simulator runs it as it is. It neither allocates nor raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Function = Callable[..., Any]
Compile = Callable[[Any], Function]


def make_batch_loop(
    blocks: Mapping[str, Function],
    take: Function,
    lanes: int,
    compile_function: Compile,
    pausing: bool = False,
    lowest: Function | None = None,
) -> Function:
    """Return ``batch_loop(memory, runs, attempts, queue, given, sampling, results)``.

    Most arguments are tuples, which every target unpacks at compile time:

    - ``memory``: the shared, local and persistent arena;
    - ``runs``: the run in every lane, written by the loop;
    - ``attempts``: number of attempts after which it pauses;
    - ``queue``: first run, number of runs, stride, and the counter that `take` gets;
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
        Lanes that one set of arenas holds, at most 64.
    compile_function : callable
        Turns a Python function into one that the target can call.
    pausing : bool
        Whether the loop returns after `attempts` attempts, to be called again. ``runs`` then has
        two more elements: the mask of occupied lanes (0 at first and at the end) and the next
        run.
    lowest : callable, optional
        ``lowest(mask)``: the number of the lowest set bit; needed with several lanes.
    """
    first_of = lowest or compile_function(_zero)
    set_idle, attempt, finished = blocks["set_idle"], blocks["attempt"], blocks["finished"]
    everything = -1 if lanes == 64 else (1 << lanes) - 1
    start_run = _make_start(blocks, compile_function)
    finish_run = _make_finish(blocks, compile_function)
    settle = _make_settle(blocks, first_of, compile_function)

    def batch_loop(
        memory: Any, runs: Any, attempts: int, queue: Any, given: Any, sampling: Any, results: Any
    ) -> None:
        first, count, stride, counter = queue
        _inputs, initial, settings = given
        finals, _counts = results
        occupied = following = 0
        if pausing:
            occupied, following = runs[lanes], runs[lanes + 1]
        if occupied == 0:
            following = take(counter, first - stride, stride)
        vacant = everything & ~occupied
        while True:
            # Visits only the vacant lanes: a loop over all of them costs branch mispredictions.
            while vacant != 0:
                lane = first_of(vacant)
                vacant &= vacant - 1
                if (occupied >> lane) & 1:
                    finish_run(memory, lane, runs[lane], count, initial, sampling, results)
                if following < count:
                    runs[lane] = following
                    start_run(memory, lane, following, count, given, sampling, finals)
                    occupied |= 1 << lane
                    following = take(counter, following, stride)
                else:
                    set_idle(memory, lane)
                    occupied &= ~(1 << lane)
            if pausing:
                runs[lanes] = occupied
            if occupied == 0:
                break
            while vacant == 0:
                settle(memory, runs, count, given, sampling, finals)
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

    return compile_function(batch_loop)


def _make_start(blocks: Mapping[str, Function], compile_function: Compile) -> Function:
    """Return the function that starts a run in a lane."""
    idle = compile_function(_nothing)
    start, begin = blocks["start"], blocks["begin"]
    driving, recording = "at_knot" in blocks, "store_event" in blocks
    clear_events = blocks.get("clear_events", idle)
    enter_segment = blocks.get("following", idle)

    @compile_function
    def start_run(
        memory: Any, lane: int, run: int, count: int, given: Any, sampling: Any, finals: Any
    ) -> None:
        inputs, initial, settings = given
        start(memory, lane, (inputs, count, run), (sampling[0], 1, 0), (initial, 1, 0))
        if driving:
            enter_segment(memory, lane, (inputs, count, run), (initial, 1, 0))
        if recording:
            clear_events(memory, lane, (finals, count, run))
        begin(memory, lane, (settings, 1, 0))

    return start_run


def _make_finish(blocks: Mapping[str, Function], compile_function: Compile) -> Function:
    """Return the function that writes the results of a finished run."""
    finish, compared = blocks["finish"], "compare" in blocks
    saving = "sample" in blocks
    save_missing = _make_save_missing(blocks, compile_function)

    @compile_function
    def finish_run(
        memory: Any, lane: int, run: int, count: int, initial: Any, sampling: Any, results: Any
    ) -> None:
        finals, counts = results
        if saving:
            save_missing(memory, lane, run, sampling, initial)
        if compared:
            finish(memory, lane, (finals, count, run), (counts, count, run), (initial, 1, 0))
        else:
            finish(memory, lane, (finals, count, run), (counts, count, run))

    return finish_run


def _make_settle(
    blocks: Mapping[str, Function], first_of: Function, compile_function: Compile
) -> Function:
    """Return the function that saves due samples and handles knots and events between attempts."""
    saving, driving, eventful = "sample" in blocks, "at_knot" in blocks, "react" in blocks
    save_due = pass_knots = handle_events = compile_function(_nothing)
    if saving:
        save_due = _make_save_due(blocks, first_of, compile_function)
    if driving:
        pass_knots = _make_knots(blocks, first_of, compile_function)
    if eventful:
        handle_events = _make_events(blocks, first_of, compile_function)

    @compile_function
    def settle(memory: Any, runs: Any, count: int, given: Any, sampling: Any, finals: Any) -> None:
        _inputs, initial, settings = given
        busy = 1
        while busy != 0:
            if saving:
                save_due(memory, runs, sampling, initial)
            busy = 0
            if driving:
                busy = pass_knots(memory, runs, count, given)
            if eventful and busy == 0:
                # A sample at the time of an event holds the values after the event.
                busy = handle_events(memory, runs, count, settings, finals)

    return settle


def _make_save_due(
    blocks: Mapping[str, Function], first_of: Function, compile_function: Compile
) -> Function:
    """Return the function that saves the samples that are due."""
    idle = compile_function(_nothing)
    due, sample = blocks["due"], blocks["sample"]
    dense, compared = "densify" in blocks, "compare" in blocks
    densify, compare = blocks.get("densify", idle), blocks.get("compare", idle)
    store = _make_store(blocks, compile_function)

    @compile_function
    def save_due(memory: Any, runs: Any, sampling: Any, initial: Any) -> None:
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
                store(memory, lane, runs[lane], sampling, initial)
            waiting = due(memory, 0)

    return save_due


def _make_store(blocks: Mapping[str, Function], compile_function: Compile) -> Function:
    """Return the function that stores the sample of a lane and moves on to the next time.

    Where runs are compared with data, a sample at a time of the data alone is not stored.
    """
    store_sample, saved = blocks["store_sample"], blocks["saved"]
    if "passed" not in blocks:

        @compile_function
        def store(memory: Any, lane: int, run: int, sampling: Any, initial: Any) -> None:
            times, _, samples, rows, run_stride, time_stride = sampling
            index = saved(memory, lane)
            offset = run * run_stride + index * time_stride
            store_sample(memory, lane, (samples, rows, offset), (times, 1, index + 1))

        return store
    passed, advance = blocks["passed"], blocks["advance"]

    @compile_function
    def store_saved(memory: Any, lane: int, run: int, sampling: Any, initial: Any) -> None:
        times, _, samples, rows, run_stride, time_stride = sampling
        place = passed(memory, lane, (initial, 1, 0))
        advance(memory, lane, (times, 1, saved(memory, lane) + 1))
        if passed(memory, lane, (initial, 1, 0)) > place:
            offset = run * run_stride + place * time_stride
            store_sample(memory, lane, (samples, rows, offset))

    return store_saved


def _make_save_missing(blocks: Mapping[str, Function], compile_function: Compile) -> Function:
    """Return the function that fills the samples that an ended run never reached."""
    if "sample" not in blocks:
        return compile_function(_nothing)
    saved, store_missing = blocks["saved"], blocks["store_missing"]
    selects, passed = "passed" in blocks, blocks.get("passed", compile_function(_nothing))

    @compile_function
    def save_missing(memory: Any, lane: int, run: int, sampling: Any, initial: Any) -> None:
        _, time_count, samples, rows, run_stride, time_stride = sampling
        first = passed(memory, lane, (initial, 1, 0)) if selects else saved(memory, lane)
        for index in range(first, time_count):
            offset = run * run_stride + index * time_stride
            store_missing(memory, lane, (samples, rows, offset))

    return save_missing


def _make_knots(
    blocks: Mapping[str, Function], first_of: Function, compile_function: Compile
) -> Function:
    """Return the function that moves lanes at a knot of a driver into its next segment.

    The function returns the mask of these lanes.
    """
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
    """Return the function that applies the events of waiting lanes.

    The function returns the mask of lanes that had an event or restart after one.
    """
    idle = compile_function(_nothing)
    waiting, jumping, react = blocks["waiting"], blocks["jumping"], blocks["react"]
    begin, recording = blocks["begin"], "store_event" in blocks
    event_row, store_event = blocks.get("event_row", idle), blocks.get("store_event", idle)

    @compile_function
    def handle_events(memory: Any, runs: Any, count: int, settings: Any, finals: Any) -> int:
        busy: int = waiting(memory, 0)
        if busy != 0:
            recorded = react(memory, 0)
            if recording:
                while recorded != 0:
                    lane = first_of(recorded)
                    recorded &= recorded - 1
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

    return handle_events


def _zero(mask: int) -> int:
    """Return the number of the only lane."""
    return 0


def _nothing(*_: Any) -> None:
    """Replace a step that this kernel does not need."""

"""``ds.flow`` and ``tree.flow``: methods for results that are open in xarray.

Importing this module registers them; `cubie_flow.open_results` does so.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from cubie_flow.analysis import attributes, describe, groups, jobs, runs
from cubie_flow.analysis.notebook import to_html
from cubie_flow.analysis.pictures.plots import Plots
from cubie_flow.analysis.saving import save
from cubie_flow.analysis.unfold import unfold
from cubie_flow.errors import FlowError, in_one_sentence

if TYPE_CHECKING:
    from pandas import DataFrame


@xr.register_dataset_accessor("flow")  # type: ignore[no-untyped-call]
class FlowAccessor:
    """The accessor ``.flow`` of a dataset of results.

    Parameters
    ----------
    data : xarray.Dataset
        A result, or runs selected from one.
    """

    def __init__(self, data: xr.Dataset) -> None:
        self._data = data

    @property
    def path(self) -> str | None:
        """The store that the dataset was opened from; None for a dataset made in memory."""
        source = self._data.encoding.get("source")
        return None if source is None else str(source)

    def __repr__(self) -> str:
        try:
            return str(self.summary())
        except FlowError as error:
            return f"no summary: {error}"

    def _repr_html_(self) -> str:
        """Show the summary and the overview picture in a notebook."""
        try:
            return self._html()
        except FlowError as error:
            return f"<p>no summary: {escape(str(error))}</p>"

    @in_one_sentence
    def _html(self) -> str:
        return to_html(self._data)

    def population(self) -> xr.Dataset:
        """Return misfits and likelihood of all subjects of ``batch=subjects`` together.

        Returns
        -------
        xarray.Dataset
            One ``point`` for each combination of the values of a sweep, with the sums over the runs
            of the dataset; NaN where a run failed. ``subjects`` is their number.

        Raises
        ------
        FlowError
            If the dataset has no subjects.
        """
        from cubie_flow.analysis.population import population

        return population(self._data)

    # selection ----------------------------------------------------------------------------------

    @in_one_sentence
    def unfold(self) -> xr.Dataset:
        """Return a full-factorial grid or a sweep with one dimension per quantity.

        The dimensions replace ``run``. A batch that is not a grid, inside a sweep, has the
        dimension ``draw``.

        Returns
        -------
        xarray.Dataset
            Lazy: an index reads only the runs that it selects.

        Raises
        ------
        FlowError
            If the runs are neither a grid nor a sweep, or only some runs of one.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, solve
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> data = solve(
        ...     decay,
        ...     parameters={"k": [0.5, 1.0, 2.0]},
        ...     initial_values={"x": [1.0, 3.0]},
        ...     batch="grid",
        ...     duration=1.0,
        ... )
        >>> dict(data.flow.unfold().sizes)
        {'k': 3, 'x_initial': 2}
        """
        return unfold(self._data)

    @in_one_sentence
    def sel_runs(self, condition: str) -> xr.Dataset:
        """Return the runs that satisfy a condition.

        Only the columns that the condition names are read, a million runs at a time.

        Parameters
        ----------
        condition : str
            Comparisons of quantities that have one value per run, such as
            ``"rho > 24 and status == 'success'"``. See "Conditions" in ``docs/results.md``.

        Returns
        -------
        xarray.Dataset
            Lazy; its coordinate ``run`` holds the numbers of the runs in their study.

        Raises
        ------
        FlowError
            If the condition cannot be read, or names something that the runs do not have.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, solve
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> data = solve(decay, parameters={"k": [0.5, 1.0, 2.0]}, duration=1.0)
        >>> data.flow.sel_runs("k >= 1 and status == 'success'").run.values.tolist()
        [1, 2]
        """
        return runs.take(self._data, runs.where(self._data, condition))

    @in_one_sentence
    def failed(self) -> xr.Dataset:
        """Return the runs that ended neither by success nor by an event.

        Runs that are not written yet are not among them.

        Returns
        -------
        xarray.Dataset
            Lazy; its coordinate ``run`` holds the numbers of the runs in their study.

        Raises
        ------
        FlowError
            If the dataset holds no runs of a study.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, solve
        >>> growth = OdeSystem.from_equations("dx/dt = x**2", {"x": 1.0})
        >>> data = solve(growth, initial_values={"x": [0.5, 2.0]}, duration=1.0)
        >>> data.flow.failed().run.values.tolist()
        [1]
        """
        return runs.take(self._data, runs.failed(self._data))

    # integration --------------------------------------------------------------------------------

    @in_one_sentence
    def rerun(self, which: int | Iterable[int], **changes: Any) -> xr.Dataset:
        """Integrate runs again, from the equations and values that the dataset holds.

        Without changes, the version that made the result returns the same numbers bit for bit.
        This method imports the solver.

        Parameters
        ----------
        which : int or iterable of int
            Numbers of runs.
        **changes
            Named as in `cubie_flow.solve`: ``rtol``, ``atol``, ``dt``, ``max_steps``,
            ``algorithm``, ``precision``, ``save_every``, ``times``, ``variables`` (``["all"]``
            saves every state), ``summaries``, ``duration``, ``rescue``, ``target``, and
            ``parameters`` or ``initial_values`` with one number for all runs.

        Returns
        -------
        xarray.Dataset
            In memory; its coordinate ``run`` holds the numbers of the runs.

        Raises
        ------
        FlowError
            If a run or a change is unknown, or the dataset lacks the model or the configuration.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, solve
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> data = solve(decay, parameters={"k": [0.5, 1.0, 2.0]}, duration=1.0)
        >>> again = data.flow.rerun([2], rtol=1e-10, save_every=0.5)
        >>> again.x.values.round(6).tolist()
        [[1.0, 0.367879, 0.135335]]
        """
        from cubie_flow.analysis.rerun import rerun

        return rerun(self._data, which, **changes)

    @in_one_sentence
    def audit(self, **options: Any) -> xr.Dataset:
        """Integrate some runs again with another method and tighter tolerances.

        The estimate is stored with a result that was opened from a store.

        Parameters
        ----------
        **options
            ``fraction``, ``seed``, ``tighter``, ``target`` and ``on_progress`` of
            `cubie_flow.analysis.estimates.estimate`.

        Returns
        -------
        xarray.Dataset
            The errors of the runs along ``audited``.

        Raises
        ------
        FlowError
            If no run ended well, or the store cannot be written.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, solve
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> data = solve(decay, parameters={"k": [0.5, 1.0, 2.0]}, duration=1.0)
        >>> bool((data.flow.audit()["error"] < 1e-5).all())
        True
        """
        from cubie_flow.analysis.estimates import estimate

        return estimate(self._data, **options)

    # files --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the dataset as a store that `cubie_flow.open_results` and xarray open.

        Parameters
        ----------
        path : path
            A new folder whose name ends in ``.zarr``.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        FlowError
            If the folder exists or cannot be written.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, open_results, solve
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> data = solve(decay, parameters={"k": [0.5, 1.0, 2.0]}, duration=1.0)
        >>> path = data.flow.save("kept.zarr")
        >>> open_results(path).equals(data)
        True
        """
        return save(self._data, path)

    # pictures -----------------------------------------------------------------------------------

    @property
    def plot(self) -> Plots:
        """Pictures, one method per kind: ``ds.flow.plot.bands("z")``.

        ``ds.flow.plot()`` draws the overview, and ``ds.flow.plot`` lists the kinds.
        """
        return Plots(self._data)

    # description --------------------------------------------------------------------------------

    @in_one_sentence
    def summary(self) -> describe.Summary:
        """Return the summary of the runs.

        Reads the status and the step counts of every run.

        Returns
        -------
        Summary
            Prints as lines; its attribute ``values`` holds the same as a mapping.

        Raises
        ------
        FlowError
            If the dataset holds no runs of a study.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, solve
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> data = solve(decay, parameters={"k": [0.5, 1.0, 2.0]}, duration=1.0)
        >>> data.flow.summary().values["statuses"]
        {'success': 3}
        """
        return describe.summary(self._data)

    def config(self) -> dict[str, Any]:
        """Return the composed configuration of the study, with interpolations unresolved.

        Returns
        -------
        dict
            Nested, with the keys of the configuration files.

        Raises
        ------
        FlowError
            If the dataset holds no configuration.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, solve
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> data = solve(decay, parameters={"k": [0.5, 1.0, 2.0]}, duration=1.0)
        >>> data.flow.config()["duration"]
        1.0
        """
        return attributes.config(self._data)

    @in_one_sentence
    def memory(self) -> xr.Dataset:
        """Return the group ``/memory`` of the store.

        It has two unrelated dimensions: ``buffer`` for the buffers of the kernel, and ``shard``
        for the times of the shards. `buffers` and `shards` return each as a table. The attributes
        hold the plan, the compiler's figures and what was measured.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        FlowError
            If the dataset comes from no store.
        """
        return groups.memory(self._data)

    @in_one_sentence
    def buffers(self) -> DataFrame:
        """Return the buffers of the kernel as a table.

        Returns
        -------
        pandas.DataFrame
            One row per buffer, indexed by its name: ``location``, ``dtype``, ``elements``,
            ``bytes``, ``offset`` (in bytes), ``owner``, ``alias``.

        Raises
        ------
        FlowError
            If the dataset comes from no store.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, open_results
        >>> from cubie_flow.api import Study, run_study
        >>> from cubie_flow.batches import make_design
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> design = make_design("zip", {"k": [0.5, 1.0, 2.0, 4.0]})
        >>> study = Study(decay, design, duration=1.0, shard_runs=2)
        >>> report = run_study(study, "buffers.zarr")
        >>> open_results("buffers.zarr").flow.buffers().loc["state", "elements"]
        np.int64(1)
        """
        return groups.memory_table(self._data, "buffer")

    @in_one_sentence
    def shards(self) -> DataFrame:
        """Return when and where the shards were solved, as a table.

        Returns
        -------
        pandas.DataFrame
            One row per shard: its first run (``start``), its number of ``runs``, times of its
            phases in seconds, and the ``worker`` that solved it if there were several.

        Raises
        ------
        FlowError
            If the dataset comes from no store.

        Examples
        --------
        >>> from cubie_flow import OdeSystem, open_results
        >>> from cubie_flow.api import Study, run_study
        >>> from cubie_flow.batches import make_design
        >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
        >>> design = make_design("zip", {"k": [0.5, 1.0, 2.0, 4.0]})
        >>> study = Study(decay, design, duration=1.0, shard_runs=2)
        >>> report = run_study(study, "shards.zarr")
        >>> open_results("shards.zarr").flow.shards()["runs"].tolist()
        [2, 2]
        """
        return groups.memory_table(self._data, "shard")


@xr.register_datatree_accessor("flow")  # type: ignore[no-untyped-call]
class FlowTreeAccessor:
    """The accessor ``.flow`` of a tree: the store of several jobs.

    Parameters
    ----------
    tree : xarray.DataTree
        Its root holds the table of jobs; its children are the jobs.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def jobs(self) -> DataFrame:
        """Return the table of jobs.

        Returns
        -------
        pandas.DataFrame
            One row per job: the values that distinguish it, how it ended, its runs and times.

        Raises
        ------
        FlowError
            If the tree has no table of jobs.
        """
        return jobs.table(self._tree)

    @in_one_sentence
    def summary(self) -> describe.Summary:
        """Return the summary of all jobs.

        Returns
        -------
        Summary
            Prints as lines; its attribute ``values`` holds the same as a mapping.

        Raises
        ------
        FlowError
            If the tree has no table of jobs.
        """
        return jobs.summary(self._tree)

    @in_one_sentence
    def sel_runs(self, condition: str) -> xr.DataTree:
        """Return the runs of every job that satisfy a condition.

        Parameters
        ----------
        condition : str
            As in `FlowAccessor.sel_runs`.

        Returns
        -------
        xarray.DataTree
            Lazy, with one child per job.

        Raises
        ------
        FlowError
            If the condition cannot be read, or names something that the runs of a job do not have.
        """
        selected = {
            f"/{name}": runs.take(data, runs.where(data, condition))
            for name, data in jobs.datasets(self._tree).items()
        }
        tree: xr.DataTree = xr.DataTree.from_dict({"/": self._tree.to_dataset(), **selected})
        return tree

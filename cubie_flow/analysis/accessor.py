"""``ds.flow``: what this package adds to a result that is open in xarray.

Importing this module registers it; `cubie_flow.open_results` does so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import xarray as xr

from cubie_flow.analysis import describe, groups, jobs, runs
from cubie_flow.analysis.notebook import described
from cubie_flow.analysis.pictures.plots import Plots
from cubie_flow.analysis.unfold import unfold
from cubie_flow.batches.store_names import MEMORY


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
        """The store that the dataset was opened from, or None for one made in memory."""
        source = self._data.encoding.get("source")
        return None if source is None else str(source)

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        """Show a notebook the summary, with the overview that every run leaves behind."""
        return described(self._data)

    # choosing runs ------------------------------------------------------------------------------

    def unfold(self) -> xr.Dataset:
        """Return a full-factorial grid with one dimension for each quantity instead of ``run``.

        Nothing is read until values are asked for, and then only theirs.

        Raises
        ------
        FlowError
            If the runs are no grid, or only some of one.
        """
        return unfold(self._data)

    def sel_runs(self, condition: str) -> xr.Dataset:
        """Return the runs that satisfy a condition, lazily; ``run`` holds their numbers.

        Only the columns that the condition names are read, a million runs at a time.

        Parameters
        ----------
        condition : str
            Such as ``"rho > 24 and status == 'success'"``; see `cubie_flow.study.conditions`.

        Raises
        ------
        FlowError
            If it cannot be read, or names what the runs do not have.
        """
        return runs.take(self._data, runs.where(self._data, condition))

    def failed(self) -> xr.Dataset:
        """Return the runs that ended otherwise than by success or an event.

        Raises
        ------
        FlowError
            If the dataset holds no runs of a study.
        """
        return runs.take(self._data, runs.failed(self._data))

    # integrating again --------------------------------------------------------------------------

    def rerun(self, which: int | Iterable[int], **changes: Any) -> xr.Dataset:
        """Integrate runs again, from the equations and values that the dataset holds.

        Without changes the numbers are the same bits, if this version made the result.
        Imports the solver.

        Parameters
        ----------
        which : int or ints
            Numbers of runs.
        **changes
            In the words of `cubie_flow.solve`: ``rtol``, ``atol``, ``dt``, ``max_steps``,
            ``algorithm``, ``precision``, ``save_every``, ``times``, ``variables`` (``["all"]``
            saves every state), ``summaries``, ``duration``, ``rescue``, ``target``, and
            ``parameters`` or ``initial_values`` with one number for all runs.

        Returns
        -------
        xarray.Dataset
            In memory; ``run`` holds the numbers of the runs.

        Raises
        ------
        FlowError
            If there is no such run or change, or the dataset does not hold what it takes.

        Examples
        --------
        >>> data.flow.rerun(data.flow.failed().run[:10], rtol=1e-9)  # doctest: +SKIP
        """
        from cubie_flow.analysis.rerun import rerun

        return rerun(self._data, which, **changes)

    # drawing ------------------------------------------------------------------------------------

    @property
    def plot(self) -> Plots:
        """Pictures: ``ds.flow.plot.bands("z")``; ``ds.flow.plot`` alone lists what there is."""
        return Plots(self._data)

    # saying what it is --------------------------------------------------------------------------

    def summary(self) -> describe.Summary:
        """Return the summary of the runs; it prints as lines and has ``.values``.

        Raises
        ------
        FlowError
            If the dataset holds no runs of a study.
        """
        return describe.summary(self._data)

    def config(self) -> dict[str, Any]:
        """Return the composed configuration of the study.

        Raises
        ------
        FlowError
            If the dataset holds none.
        """
        return describe.config(self._data)

    def memory(self) -> xr.Dataset:
        """Return the table of buffers, with plan, compiler figures and measurements.

        Raises
        ------
        FlowError
            If the dataset comes from no store.
        """
        return groups.group(self._data, MEMORY)


@xr.register_datatree_accessor("flow")  # type: ignore[no-untyped-call]
class FlowTreeAccessor:
    """The accessor ``.flow`` of a tree: the store of several jobs.

    Parameters
    ----------
    tree : xarray.DataTree
        The root, with the table of jobs; its children are the jobs.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def jobs(self) -> Any:
        """Return the table of jobs as a pandas.DataFrame: what tells them apart, how they ended."""
        return jobs.table(self._tree)

    def summary(self) -> describe.Summary:
        """Return the summary of all jobs; it prints as lines and has ``.values``."""
        return jobs.summary(self._tree)

    def sel_runs(self, condition: str) -> xr.DataTree:
        """Return a tree of the runs of every job that satisfy a condition, lazily.

        Raises
        ------
        FlowError
            If it cannot be read, or names what the runs of a job do not have.
        """
        chosen = {
            f"/{name}": runs.take(data, runs.where(data, condition))
            for name, data in jobs.datasets(self._tree).items()
        }
        tree: xr.DataTree = xr.DataTree.from_dict({"/": self._tree.to_dataset(), **chosen})
        return tree

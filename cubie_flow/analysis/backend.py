"""The backend of xarray: ``xarray.open_dataset(path, engine="cubie_flow")``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from cubie_flow.errors import FlowError


class FlowBackend(BackendEntrypoint):
    """Opens results with `cubie_flow.open_results`: their folder, ``results.zarr``, or a URL.

    It is registered by the entry point ``cubie_flow`` of ``xarray.backends``.
    """

    description = "Results of cubie_flow, with the accessor .flow"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "group", "options")
    supports_groups = True

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open a study, or with ``group`` a job of a multirun.

        Parameters
        ----------
        filename_or_obj : path or URL
        drop_variables : str or iterable of str, optional
        group : str, optional
            A job, such as ``job_3``.
        options : mapping, optional
            See `cubie_flow.open_results`.

        Raises
        ------
        FlowError
            If there is no such result, or it is a multirun and no job is named.
        """
        from cubie_flow.analysis.opening import open_results

        opened = open_results(filename_or_obj, options=options)
        if isinstance(opened, xr.DataTree):
            name = (group or "").strip("/")
            if name not in opened.children:
                raise FlowError(
                    f"'{filename_or_obj}' holds several jobs; give group='job_0' or another of "
                    "them, or use xarray.open_datatree"
                )
            opened = opened.children[name].to_dataset(inherit=False)
        elif group:
            raise FlowError(f"'{filename_or_obj}' is one study and has no job '{group}'")
        dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables
        return opened.drop_vars(list(dropped), errors="ignore") if dropped else opened

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> xr.DataTree:
        """Open a multirun as a tree, or a study as a tree of one node; see `open_dataset`."""
        from cubie_flow.analysis.opening import open_results

        if drop_variables:
            raise FlowError("drop_variables is not for trees; drop them from the jobs you use")
        opened = open_results(filename_or_obj, options=options)
        return opened if isinstance(opened, xr.DataTree) else xr.DataTree(opened)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return False: other backends open Zarr stores too, so this one is asked for by name."""
        return False

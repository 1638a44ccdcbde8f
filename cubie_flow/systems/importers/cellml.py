"""CellML 1.0, 1.1 and 2.0, through libcellml.

libcellml connects the variables of a model's components, classifies them as states, constants and
computed variables, and converts the units of connected variables.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from attrs import define

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.systems.importers.cellml_files import CellmlFile, components_of, whole_model
from cubie_flow.systems.importers.formula import Builder, Formula, without_rates
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.names import Names, package, system_name
from cubie_flow.systems.importers.units import symbol_of
from cubie_flow.systems.ordering import dependency_order
from cubie_flow.systems.quantities import Observable, Quantity
from cubie_flow.systems.starts import start_numbers, with_start
from cubie_flow.systems.system import OdeSystem

#: Operations of libcellml by the names of MathML.
_FUNCTIONS = {
    "PLUS": "plus", "MINUS": "minus", "TIMES": "times", "DIVIDE": "divide", "POWER": "power",
    "EXP": "exp", "LN": "ln", "ABS": "abs", "FLOOR": "floor", "CEILING": "ceiling", "MIN": "min",
    "MAX": "max", "REM": "rem", "EQ": "eq", "NEQ": "neq", "LT": "lt", "LEQ": "leq", "GT": "gt",
    "GEQ": "geq", "AND": "and", "OR": "or", "XOR": "xor", "NOT": "not",
    **{
        name.upper(): name
        for base in ("sin", "cos", "tan", "sec", "csc", "cot")
        for name in (base, f"{base}h")
    },
    **{
        f"A{base.upper()}": f"arc{base}"
        for stem in ("sin", "cos", "tan", "sec", "csc", "cot")
        for base in (stem, f"{stem}h")
    },
}  # fmt: skip
_CONSTANTS = {"TRUE": "true", "FALSE": "false", "E": "exponentiale", "PI": "pi"}
_NUMBERS = {"INF": math.inf, "NAN": math.nan}
#: Operations with any number of operands; libcellml nests them in pairs.
_LONG = ("PLUS", "TIMES", "AND", "OR")
#: The name of a variable of integration in MathML.
_BOUND = re.compile(r"<bvar\b[^<>]*>\s*<ci\b[^<>]*>\s*(\w+)\s*</ci>")


@define
class Variable:
    """One variable of the flat model, in the component that owns it."""

    name: str
    component: str
    kind: str
    unit: str
    handle: Any
    initial: str = ""
    initial_component: str = ""
    factor: float = 1.0


def read(name: str, markup: Markup, file: str) -> OdeSystem:
    """Return the system of a CellML model.

    Parameters
    ----------
    name : str
        Name of the system if the model has none.
    markup : Markup
    file : str
        Path of the file; its folder may contain files that it imports.

    Raises
    ------
    FlowError
        For a mistake, or the first feature that is not supported, with its place.
    """
    libcellml = package("libcellml", "cellml", "CellML models")
    return _Reader(libcellml, CellmlFile(Path(file), markup), name).read()


class _Reader:
    """Reads one model, variables before equations."""

    def __init__(self, libcellml: Any, file: CellmlFile, name: str) -> None:
        self.libcellml = libcellml
        self.file = file
        self.fallback = name
        self.builder = Builder()
        types = vars(libcellml.AnalyserEquationAst.Type)
        #: Names of libcellml's operations by number.
        self.kinds: dict[int, str] = {n: k for k, n in types.items() if isinstance(n, int)}

    def read(self) -> OdeSystem:
        model = whole_model(self.libcellml, self.file)
        for component in components_of(model):
            if component.resetCount():
                self._refuse(self._place(component.name()), "resets are not supported")
        self.notes = self._clear_time(model)
        self.analysed = self._analyse(model)
        self._variables()
        self._equations()
        return self._system(model)

    def _clear_time(self, model: Any) -> list[str]:
        """Remove start values of the variable of integration; return notes about them.

        libcellml refuses them. The study says when a run starts.
        """
        starts = {}
        for component in components_of(model):
            for name in {*_BOUND.findall(component.math())}:
                variable = component.variable(name)
                for one in _equivalent(variable) if variable is not None else ():
                    if one.initialValue():
                        starts[one.name()] = one.initialValue()
                        one.removeInitialValue()
        return [
            f"the model starts '{name}' at {value}; give t_start={value}"
            for name, value in starts.items()
            if value.strip("+-0.")
        ]

    def _refuse(self, where: str, reason: str) -> NoReturn:
        self.file.refuse(where, reason)

    def _refuse_circle(self, circle: list[str]) -> NoReturn:
        self._refuse("", f"values use each other in a circle: {' -> '.join(circle)}")

    def _place(self, component: str, variable: str = "") -> str:
        return self.file.place(component, variable)

    # contents of the file ----------------------------------------------------------------------

    def _analyse(self, model: Any) -> Any:
        analyser = self.libcellml.Analyser()
        analyser.analyseModel(model)
        self.file.refuse_issues(analyser, "its equations cannot be used")
        analysed = analyser.analyserModel()
        kinds = self.libcellml.AnalyserModel.Type
        if analysed.type() in (kinds.DAE, kinds.NLA):
            for equation in analysed.analyserEquations():
                if equation.type() == self.libcellml.AnalyserEquation.Type.NLA:
                    # The lists themselves have no destructor in libcellml's Python.
                    counted = equation.algebraicVariableCount()
                    handles = [equation.algebraicVariable(i).variable() for i in range(counted)]
                    names = [handle.name() for handle in handles]
                    self._refuse(
                        self._place(handles[0].parent().name()) if handles else "",
                        f"equations to be solved for {', '.join(names)} are not supported",
                    )
        if analysed.type() not in (kinds.ODE, kinds.ALGEBRAIC):
            reasons = {
                kinds.UNKNOWN: "it has no equations",
                kinds.UNDERCONSTRAINED: "it has fewer equations than unknown variables",
                kinds.OVERCONSTRAINED: "it has more equations than unknown variables",
                kinds.UNSUITABLY_CONSTRAINED: "some of its variables have more equations than they "
                "need, and others fewer",
            }
            word = analysed.typeAsString(analysed.type())
            self._refuse("", reasons.get(analysed.type(), f"its equations are {word}"))
        return analysed

    def _variables(self) -> None:
        kinds = (
            ("state", self.analysed.states()),
            ("constant", self.analysed.constants()),
            ("computed", self.analysed.computedConstants()),
            ("computed", self.analysed.algebraicVariables()),
        )
        self.variables = [self._variable(kind, item) for kind, group in kinds for item in group]
        self.keys: dict[tuple[str, str], str] = {}
        #: Variables of all components, each with the connected variable that owns the value.
        self.connected: dict[tuple[str, str], tuple[Any, Any]] = {}
        counts = Counter(v.name for v in self.variables)
        wanted = {
            id(v): v.name if counts[v.name] == 1 else f"{v.component}_{v.name}"
            for v in self.variables
        }
        self.names = Names()
        called = self.names.reserve(dict.fromkeys(wanted.values()))
        self.called = {id(v): called[wanted[id(v)]] for v in self.variables}
        for variable in self.variables:
            for other in _equivalent(variable.handle):
                key = (other.parent().name(), other.name())
                self.keys[key] = self.called[id(variable)]
                self.connected[key] = (other, variable.handle)
        self.time: set[tuple[str, str]] = set()
        if self.analysed.voi() is not None:
            for other in _equivalent(self.analysed.voi().variable()):
                self.time.add((other.parent().name(), other.name()))

    def _variable(self, kind: str, item: Any) -> Variable:
        """Return the record of a variable of libcellml's analysis."""
        handle = item.variable()
        variable = Variable(
            handle.name(), handle.parent().name(), kind, handle.units().name(), handle
        )
        source = item.initialisingVariable()
        if source is not None and kind in ("state", "constant"):
            variable.initial = source.initialValue()
            variable.initial_component = source.parent().name()
            variable.factor = self._scaling(source, handle)
        return variable

    def _equations(self) -> None:
        self.rates: dict[str, Formula] = {}
        self.computed: dict[str, Formula] = {}
        types = self.libcellml.AnalyserEquation.Type
        for equation in self.analysed.analyserEquations():
            if equation.type() == types.EXTERNAL:
                self._refuse("", "external variables are not supported")
            ast = equation.ast()
            if ast is None:
                continue
            left, right = ast.leftChild(), self._formula(ast.rightChild())
            if equation.type() == types.ODE:
                self.rates[self._formula(left).value] = right
            else:
                self.computed[self._formula(left).value] = right

    # formulas -----------------------------------------------------------------------------------

    def _name(self, variable: Any) -> Formula:
        key = (variable.parent().name(), variable.name())
        if key in self.time:
            return Formula("time")
        if key not in self.keys:
            self._refuse(self._place(*key), "it has no value")
        return Formula("name", self.keys[key])

    def _formula(self, ast: Any) -> Formula:
        kind = self._kind(ast)
        if kind == "CI":
            return self._name(ast.variable())
        if kind == "CN":
            return Formula("number", float(ast.value()))
        if kind in _NUMBERS:
            return Formula("number", _NUMBERS[kind])
        if kind in _CONSTANTS:
            return Formula("constant", _CONSTANTS[kind])
        left, right = ast.leftChild(), ast.rightChild()
        if kind == "DIFF":
            return Formula("rate", self._formula(right).value)
        if kind in ("ROOT", "LOG"):
            name, default = ("root", 2.0) if kind == "ROOT" else ("log", 10.0)
            first = Formula("number", default) if right is None else self._formula(left.leftChild())
            return Formula("apply", name, (first, self._formula(right or left)))
        if kind == "PIECEWISE":
            return Formula("piecewise", None, tuple(self._pieces(ast)))
        if kind not in _FUNCTIONS:
            self._refuse("", f"'{kind.lower()}' in a formula is not supported")
        operands = self._operands(ast, kind)
        return Formula("apply", _FUNCTIONS[kind], tuple(map(self._formula, operands)))

    def _kind(self, ast: Any) -> str:
        return self.kinds[int(ast.type())]

    def _operands(self, ast: Any, kind: str) -> list[Any]:
        """Return the operands; nested pairs of a long sum or product are flattened."""
        if kind not in _LONG:
            return [child for child in (ast.leftChild(), ast.rightChild()) if child is not None]
        operands, stack = [], [ast]
        while stack:
            part = stack.pop()
            if self._kind(part) != kind:
                operands.append(part)
                continue
            children = (part.leftChild(), part.rightChild())
            stack.extend(child for child in reversed(children) if child is not None)
        return operands

    def _pieces(self, ast: Any) -> Iterator[Formula]:
        stack = [ast]
        while stack:
            part = stack.pop()
            kind = self._kind(part)
            children = (part.leftChild(), part.rightChild())
            if kind == "PIECEWISE":
                stack.extend(child for child in reversed(children) if child is not None)
            elif kind == "PIECE":
                yield from (self._formula(child) for child in children)
            else:
                yield self._formula(part.leftChild())

    # numbers and equations ----------------------------------------------------------------------

    def _start(self, variable: Variable, names: Mapping[str, Node]) -> Node:
        """Return the start value of a state or constant, a number or the value of another."""
        text = variable.initial
        try:
            value: Node = const(float(text))
        except ValueError:
            key = (variable.initial_component, text)
            if self.keys.get(key) not in names:
                self._refuse(
                    self._place(variable.component, variable.name),
                    f"its initial value '{text}' has no value",
                )
            own, owner = self.connected[key]
            value = graph.mul(self._scaling(owner, own), names[self.keys[key]])
        return graph.mul(variable.factor, value)

    def _scaling(self, variable: Any, other: Any) -> float:
        """Return the factor from the units of `variable` to those of `other`."""
        return float(self.libcellml.Units.scalingFactor(other.units(), variable.units()))

    def _check_finite(self, quantities: Sequence[Quantity], given: Sequence[Variable]) -> None:
        numbers = start_numbers(quantities, (), f"'{self.file.path}'")
        for quantity, variable in zip(quantities, given, strict=True):
            if not math.isfinite(numbers[quantity.name]):
                self._refuse(
                    self._place(variable.component, variable.name),
                    f"its value at the start is {numbers[quantity.name]}, not finite",
                )

    def _system(self, model: Any) -> OdeSystem:
        where = f"'{self.file.path}'"
        states = [v for v in self.variables if v.kind == "state"]
        if not states:
            self._refuse("", "it has no differential equation")
        given = states + [v for v in self.variables if v.kind == "constant"]
        names = {self.called[id(v)]: symbol(self.called[id(v)]) for v in given}
        for name in dependency_order(
            {n: f.names for n, f in self.computed.items()}, self._refuse_circle
        ):
            names[name] = self.builder.build(self.computed[name], names, where)
        plain = [self._quantity(v) for v in given]
        moving = plain[: len(states)]
        derivatives = [self.builder.build(self.rates[s.name], names, where) for s in moving]
        starts = {f"start of {self.called[id(v)]}": self._start(v, names) for v in given}
        derivatives, values = without_rates(moving, derivatives, {**names, **starts}, where)
        names = {name: values[name] for name in names}
        quantities = list(map(with_start, plain, (values[start] for start in starts)))
        self._check_finite(quantities, given)
        return OdeSystem(
            name=system_name(model.name(), self.fallback),
            description="; ".join(filter(None, (self.names.note, *self.notes))),
            source=f"CellML {self.file.version}",
            states=tuple(quantities[: len(states)]),
            parameters=tuple(quantities[len(states) :]),
            derivatives=tuple(derivatives),
            observables=tuple(
                Observable(
                    self.called[id(v)],
                    names[self.called[id(v)]],
                    symbol_of(v.unit),
                    self._label(v, self.called[id(v)]),
                )
                for v in self.variables
                if v.kind == "computed" and self.called[id(v)] in names
            ),
            time_unit=symbol_of(self.analysed.voi().variable().units().name()),
        )

    def _quantity(self, variable: Variable) -> Quantity:
        name = self.called[id(variable)]
        unit = symbol_of(variable.unit)
        return Quantity(name, math.nan, unit, self._label(variable, name))

    def _label(self, variable: Variable, name: str) -> str:
        return f"{variable.name} of {variable.component}"


def _equivalent(variable: Any) -> Iterator[Any]:
    """Yield a variable and all variables that are connected with it."""
    seen: set[tuple[str, str]] = set()
    stack = [variable]
    while stack:
        item = stack.pop()
        key = (item.parent().name(), item.name())
        if key not in seen:
            seen.add(key)
            yield item
            stack.extend(item.equivalentVariable(n) for n in range(item.equivalentVariableCount()))

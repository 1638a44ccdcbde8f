"""Models written as XML for the tests, from formulas in infix."""

import ast

MATHML = "http://www.w3.org/1998/Math/MathML"
SBML = "http://www.sbml.org/sbml/level3/version2/core"
CELLML = "http://www.cellml.org/cellml/{}#"

_OPERATORS = {
    ast.Add: "plus", ast.Sub: "minus", ast.Mult: "times", ast.Div: "divide", ast.Pow: "power",
    ast.And: "and", ast.Or: "or", ast.Not: "not", ast.USub: "minus", ast.Lt: "lt",
    ast.LtE: "leq", ast.Gt: "gt", ast.GtE: "geq", ast.Eq: "eq", ast.NotEq: "neq",
}  # fmt: skip
_CSYMBOLS = {
    name: f'<csymbol encoding="text" definitionURL="http://www.sbml.org/sbml/symbols/{name}">'
    f"{name}</csymbol>"
    for name in ("time", "avogadro", "delay", "rateOf")
}
_CONSTANTS = ("pi", "exponentiale", "true", "false", "infinity", "notanumber")


def mathml(text: str, units: str = "", functions: tuple[str, ...] = ()) -> str:
    """Return a formula in infix as MathML.

    Names of functions are those of MathML, ``and_()`` and ``or_()``; ``piecewise(value,
    condition, ..., otherwise)``,
    ``root(degree, x)``, ``logbase(base, x)``, and names in `functions` are defined ones.
    `units` is the attribute that numbers of CellML have.
    """

    def apply(operator: str, *args: ast.expr) -> str:
        head = f"<{operator.removesuffix('_')}/>"
        if operator in _CSYMBOLS:
            head = _CSYMBOLS[operator]
        elif operator in functions:
            head = f"<ci>{operator}</ci>"
        return f"<apply>{head}{''.join(map(write, args))}</apply>"

    def write(node: ast.expr) -> str:
        match node:
            case ast.Constant(value=value):
                return f"<cn{units}>{value!r}</cn>"
            case ast.Name(id=name):
                if name in _CONSTANTS:
                    return f"<{name}/>"
                return _CSYMBOLS.get(name, f"<ci>{name}</ci>")
            case ast.BinOp(left=a, op=op, right=b):
                return apply(_OPERATORS[type(op)], a, b)
            case ast.UnaryOp(op=op, operand=a):
                return apply(_OPERATORS[type(op)], a)
            case ast.BoolOp(op=op, values=values):
                return apply(_OPERATORS[type(op)], *values)
            case ast.Compare(left=a, ops=[op], comparators=[b]):
                return apply(_OPERATORS[type(op)], a, b)
            case ast.Call(func=ast.Name(id="piecewise"), args=args):
                pieces = "".join(
                    f"<piece>{write(v)}{write(c)}</piece>"
                    for v, c in zip(args[::2], args[1::2], strict=False)
                )
                other = f"<otherwise>{write(args[-1])}</otherwise>" if len(args) % 2 else ""
                return f"<piecewise>{pieces}{other}</piecewise>"
            case ast.Call(func=ast.Name(id="root"), args=[n, x]):
                return f"<apply><root/><degree>{write(n)}</degree>{write(x)}</apply>"
            case ast.Call(func=ast.Name(id="logbase"), args=[n, x]):
                return f"<apply><log/><logbase>{write(n)}</logbase>{write(x)}</apply>"
            case ast.Call(func=ast.Name(id=name), args=args):
                return apply(name, *args)
        raise ValueError(ast.dump(node))

    return write(ast.parse(text.strip(), mode="eval").body)


def math(text: str, functions: tuple[str, ...] = ()) -> str:
    return f'<math xmlns="{MATHML}">{mathml(text, functions=functions)}</math>'


def sbml(
    *parts: str, level: int = 3, version: int = 2, extra: str = "", attributes: str = ""
) -> str:
    """Return a document of SBML; `parts` are the lists of its model, each on its line."""
    space = SBML if level == 3 else f"http://www.sbml.org/sbml/level2/version{version}"
    if level == 3 and version == 1:
        space = SBML.replace("version2", "version1")
    lines = "\n".join(parts)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<sbml xmlns="{space}" level="{level}" '
        f'version="{version}" {extra}>\n<model id="m" {attributes}>\n{lines}\n</model></sbml>\n'
    )


def listed(name: str, *items: str) -> str:
    return f"<listOf{name}>{''.join(items)}</listOf{name}>"


def compartment(name: str, size: float | None = 1.0, constant: bool = True, more: str = "") -> str:
    given = "" if size is None else f'size="{size}"'
    return (
        f'<compartment id="{name}" {given} constant="{str(constant).lower()}" '
        f'spatialDimensions="3" {more}/>'
    )


def species(name: str, where: str, given: str, more: str = "") -> str:
    defaults = {"hasOnlySubstanceUnits": "false", "boundaryCondition": "false", "constant": "false"}
    rest = " ".join(f'{key}="{value}"' for key, value in defaults.items() if key not in more)
    return f'<species id="{name}" compartment="{where}" {given} {rest} {more}/>'


def parameter(name: str, value: float | str | None, constant: bool = True) -> str:
    given = "" if value is None else f'value="{value}"'
    return f'<parameter id="{name}" {given} constant="{str(constant).lower()}"/>'


def rule(kind: str, variable: str, text: str, functions: tuple[str, ...] = ()) -> str:
    return f'<{kind}Rule variable="{variable}">{math(text, functions)}</{kind}Rule>'


def function(name: str, arguments: str, text: str) -> str:
    """Return the definition of a function; arguments are words."""
    bound = "".join(f"<bvar><ci>{one}</ci></bvar>" for one in arguments.split())
    inner = f"<lambda>{bound}{mathml(text)}</lambda>"
    inner = f'<math xmlns="{MATHML}">{inner}</math>'
    return f'<functionDefinition id="{name}">{inner}</functionDefinition>'


def event(name: str, trigger: str, **assigned: str) -> str:
    """Return an event that sets `assigned`."""
    sets = "".join(
        f'<eventAssignment variable="{one}">{math(text)}</eventAssignment>'
        for one, text in assigned.items()
    )
    return (
        f'<event id="{name}" useValuesFromTriggerTime="true">'
        f'<trigger initialValue="true" persistent="true">{math(trigger)}</trigger>'
        f"{listed('EventAssignments', sets)}</event>"
    )


def initial(variable: str, text: str) -> str:
    return f'<initialAssignment symbol="{variable}">{math(text)}</initialAssignment>'


def reaction(
    name: str,
    law: str,
    reactants: str = "",
    products: str = "",
    local: str = "",
    more: str = "",
    functions: tuple[str, ...] = (),
) -> str:
    """Return a reaction; species are named as ``"A 2*B"``."""

    def references(text: str) -> str:
        found = ""
        for word in text.split():
            times, _, which = word.rpartition("*")
            found += (
                f'<speciesReference species="{which}" stoichiometry="{times or 1}" '
                'constant="true"/>'
            )
        return found

    sides = ""
    if reactants:
        sides += listed("Reactants", references(reactants))
    if products:
        sides += listed("Products", references(products))
    return (
        f'<reaction id="{name}" reversible="false" {more}>{sides}'
        f"<kineticLaw>{math(law, functions)}{local}</kineticLaw></reaction>"
    )


def cellml(version: str, *components: str, connections: str = "", units: str = "") -> str:
    """Return a document of CellML."""
    space = CELLML.format(version)
    lines = "\n".join(components)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<model xmlns="{space}" '
        f'xmlns:cellml="{space}" name="m">\n{units}\n{lines}\n{connections}\n</model>\n'
    )


def component(name: str, variables: str, *equations: str, units: str = "dimensionless") -> str:
    """Return a component; equations are ``"x = a + b"`` and ``"d(x)/d(t) = -x"``."""
    found = ""
    for equation in equations:
        left, right = equation.split("=", 1)
        left = left.strip()
        if left.startswith("d("):
            state, time = left[2:-1].split(")/d(")
            head = f"<apply><diff/><bvar><ci>{time}</ci></bvar><ci>{state}</ci></apply>"
        else:
            head = f"<ci>{left}</ci>"
        body = mathml(right, units=f' cellml:units="{units}"')
        found += f"<apply><eq/>{head}{body}</apply>"
    space = f'<math xmlns="{MATHML}">{found}</math>' if found else ""
    return f'<component name="{name}">\n{variables}\n{space}</component>'


def variable(name: str, units: str = "dimensionless", more: str = "") -> str:
    return f'<variable name="{name}" units="{units}" {more}/>'

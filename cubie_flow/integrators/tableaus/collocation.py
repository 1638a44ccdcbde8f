METHODS=()
from cubie_flow.integrators.tableaus.definition import Method as Collocation

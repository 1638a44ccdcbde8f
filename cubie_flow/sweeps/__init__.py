"""Studies of the machine: where buffers lie, and that moving them changes no result."""

"""Where buffers lie: comparing placements and choosing one."""
